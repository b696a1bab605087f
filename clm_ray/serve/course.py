"""The course of one batch through the parts: how long each may take, and how long each took."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from clm_ray.serve import measures, request_ids
from clm_ray.serve.telemetry import Telemetry

T = TypeVar("T")

STORE = "store"
_STORE_SHARE = 0.2
"""Of a request's deadline, kept for logging the slate: without that its clicks cannot be joined to it."""


@dataclass
class Course:
    """`telemetry`: learns how long each part took. `until`: by when the batch's first request wants its answer (the event loop's clock, s), None for whenever. `timings`: part → seconds."""

    telemetry: Telemetry
    started: float
    until: float | None = None
    store_s: float = 0.0
    timings: dict[str, float] = field(default_factory=dict)

    @staticmethod
    def of(deadlines: Iterable[tuple[float | None, int | None]], *, now: float, telemetry: Telemetry) -> Course:
        """From each request's (moment it must be answered by, deadline in ms)."""
        known = [(until, ms) for until, ms in deadlines if until is not None and ms is not None]
        if not known:
            return Course(telemetry, now)
        until, ms = min(known)
        return Course(telemetry, now, until, _STORE_SHARE * ms / 1000)

    def may_take(self, part: str, seconds: float, *, now: float) -> float:
        """Seconds that a part has, `seconds` at most; 0 when there is no time left."""
        if self.until is None:
            return seconds
        left = self.until - now - (0.0 if part == STORE else self.store_s)
        return max(min(seconds, left), 0.0)

    async def within(self, part: str, hop: Callable[[], Awaitable[T]], seconds: float) -> tuple[T | None, str]:
        """What the part answers, or None and why not: the one place where failures become degradations."""
        loop = asyncio.get_running_loop()
        began, outcome = loop.time(), "ok"
        allowed = self.may_take(part, seconds, now=began)
        try:
            if allowed <= 0:
                raise TimeoutError
            async with asyncio.timeout(allowed):
                return await hop(), ""
        except TimeoutError:
            outcome = "late"
            request_ids.log("late", level=logging.WARNING, part=part, allowed_s=round(allowed, 3))
        except Exception as error:
            outcome = "failed"
            request_ids.log("part failed", level=logging.ERROR, part=part, cause=cause_of(error))
        finally:
            self.timings[part] = loop.time() - began
            self.telemetry.observe(measures.HOP_SECONDS, part, outcome, value=self.timings[part])
        return None, f"{part}_{outcome}"


def cause_of(error: BaseException) -> str:
    """What went wrong in one line without the values of a statement, which may be personal; Ray wraps the cause in its own error."""
    cause = getattr(error, "cause", None) or error
    lines = str(cause).strip().splitlines()
    return f"{type(cause).__name__}: {lines[0][:200]}" if lines else type(cause).__name__
