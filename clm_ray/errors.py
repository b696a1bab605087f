"""One tree of errors. Whatever a user can cause is a `ClmError` that names the field, its value and the fix.

ClmError
 ├── ConfigError        a recipe key, a command-line option, a folder
 ├── DataError          the log, the catalogue, the user table
 │    ├── SchemaError         a column is missing or has the wrong type
 │    └── QuarantineError     too many rows were rejected
 ├── AssetError         a package, model weights, a digest that does not match
 ├── TrainError         a run that cannot go on
 │    └── DivergenceError     the loss is not finite or has exploded
 ├── ReleaseError       a release is incomplete, damaged, or not there
 ├── StoreError         the online store refuses or cannot be reached
 ├── EndpointError      the endpoint cannot be reached, is not ready, or failed (5xx)
 └── RequestError       a request the endpoint refuses (4xx)
      ├── ConflictError       it contradicts an earlier request (409)
      ├── ForbiddenError      only an administrator may ask this (403)
      └── OverloadedError     too many requests are waiting (429)
"""

from __future__ import annotations

_LONGEST_VALUE = 200


class ClmError(Exception):
    """Base of all errors a user can cause.

    `field` is the recipe key, column or request field; `value` what was found there; `fix` what to do about it.
    """

    def __init__(self, problem: str, *, field: str = "", value: object = None, fix: str = "") -> None:
        self.problem = problem
        self.field = field
        self.value = value
        self.fix = fix
        super().__init__(problem, field, value, fix)

    def __str__(self) -> str:
        text = self.problem
        if self.field:
            text = f"{self.field}: {text}"
        if self.value is not None:
            shown = repr(self.value)
            text += f" (got {shown if len(shown) <= _LONGEST_VALUE else shown[:_LONGEST_VALUE] + '…'})"
        if self.fix:
            text += f". Fix: {self.fix}"
        return text

    def __reduce__(self) -> tuple[object, ...]:
        """Keep the keyword-only fields when the error crosses a process border."""
        return (_rebuild, (type(self), self.problem, self.field, self.value, self.fix))


class ConfigError(ClmError):
    """A recipe key, a command-line option or a folder is wrong."""


class DataError(ClmError):
    """The log, the catalogue or the user table cannot be used."""


class SchemaError(DataError):
    """A column is missing or has the wrong type."""


class QuarantineError(DataError):
    """More rows were rejected than the recipe allows."""


class AssetError(ClmError):
    """A package, data file or model weight is missing or not the one that was pinned."""


class TrainError(ClmError):
    """Training cannot go on."""


class DivergenceError(TrainError):
    """The loss is not finite or has exploded: the same again would end the same."""


class ReleaseError(ClmError):
    """A release is incomplete, damaged or missing."""


class StoreError(ClmError):
    """The online store refuses the operation or cannot be reached."""


class EndpointError(ClmError):
    """The endpoint cannot be reached, is not ready, or failed; `status` is the HTTP status where it answered."""

    status = 503


class RequestError(ClmError):
    """The endpoint refuses the request; `status` is the HTTP status, `retry_after_s` when the same may succeed (None: never)."""

    status = 422
    retry_after_s: int | None = None


class ForbiddenError(RequestError):
    """Only an administrator may ask this."""

    status = 403


class ConflictError(RequestError):
    """The request contradicts an earlier one."""

    status = 409


class OverloadedError(RequestError):
    """Too many requests are waiting; try again a little later."""

    status = 429
    retry_after_s = 1


def _rebuild(kind: type[ClmError], problem: str, field: str, value: object, fix: str) -> ClmError:
    return kind(problem, field=field, value=value, fix=fix)
