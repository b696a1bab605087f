"""Rules about items, applied to slates: which rows may not be shown to which user, and which rules say so.

Rules about items ask for the stage and for columns of the user table only. Where the stage is not known (no profile in time), whatever any stage forbids is
forbidden. Items that were put have the flags they were put with; of a row of which no flags are known, rules about flags take it for flagged.

Shape letters: F forbidden rows.
"""

from __future__ import annotations

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.config.policy import STAGES, PolicyConfig, Stage
from clm_ray.features.catalogue import Catalogue
from clm_ray.policy.rules import ItemRule, Known, item_rules

NOTHING: NDArray[np.int32] = np.empty(0, np.int32)


@dataclass(frozen=True)
class Forbidden:
    """row_F: int32, sorted. rules: the names of the rules that hold for the user, whether or not they forbid anything there is."""

    row_F: NDArray[np.int32]
    rules: tuple[str, ...]


NONE_FORBIDDEN = Forbidden(NOTHING, ())


@dataclass(frozen=True)
class ItemRules:
    """policy: its rules. flags_I: of each row of the release's catalogue. columns: user → what rules ask of the user table."""

    policy: PolicyConfig
    flags_I: tuple[frozenset[str], ...]
    columns: Mapping[str, Mapping[str, str | float]]
    _rows: dict[str, NDArray[np.int32]] = field(default_factory=dict)
    _of: list[Catalogue] = field(default_factory=list)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @staticmethod
    def open(folder: Path, policy: PolicyConfig) -> ItemRules | None:
        """Read what rules ask for from a release; None where the policy has no rule about items."""
        if not any(rule.exclude_items or rule.require_items for rule in policy.rules):
            return None
        flags = pq.read_table(folder / "items.parquet", columns=["flags"]).column("flags").to_pylist()
        wanted = policy.columns()
        users = pq.read_table(folder / "users.parquet", columns=["user_id", "categorical", "numeric"]).to_pylist()
        columns = {}
        for row in users:
            known = {**dict(row["categorical"] or ()), **dict(row["numeric"] or ())}
            columns[row["user_id"]] = {name: v for name, v in known.items() if name in wanted and v is not None}
        return ItemRules(policy, tuple(frozenset(of or ()) for of in flags), columns)

    def amended(self, flags: Mapping[int, frozenset[str]]) -> ItemRules:
        """The same rules where these rows have these flags. Rows behind the release's catalogue that are not among them are no items."""
        size = max([len(self.flags_I), *(row + 1 for row in flags)])
        flags_I = [*self.flags_I, *([frozenset[str]()] * (size - len(self.flags_I)))]
        for row, of in flags.items():
            flags_I[row] = of
        return ItemRules(self.policy, tuple(flags_I), self.columns)

    def forbidden(self, user_id: str, *, stage: Stage | None, catalogue: Catalogue) -> Forbidden:
        """What may not be shown to this user. `stage`: None where it is not known."""
        columns = self.columns.get(user_id, {})
        holding: dict[str, ItemRule] = {}
        for one in STAGES if stage is None else (stage,):
            for rule in item_rules(self.policy.rules, Known(one, columns)):
                holding[rule.rule.name] = rule
        if not holding:
            return NONE_FORBIDDEN
        rows = [self._forbidden_rows(rule, catalogue) for rule in holding.values()]
        return Forbidden(np.unique(np.concatenate(rows)), tuple(holding))

    def _forbidden_rows(self, rule: ItemRule, catalogue: Catalogue) -> NDArray[np.int32]:
        """Computed once per rule and catalogue."""
        with self._lock:
            if not self._of or self._of[0] is not catalogue:
                self._of[:] = [catalogue]
                self._rows.clear()
            if rule.rule.name not in self._rows:
                found = [row for row in range(1, len(catalogue)) if self._forbids(rule, row, catalogue)]
                self._rows[rule.rule.name] = np.array(found, np.int32)
            return self._rows[rule.rule.name]

    def _forbids(self, rule: ItemRule, row: int, catalogue: Catalogue) -> bool:
        if row < len(self.flags_I):
            flags = self.flags_I[row]
        else:
            flags = frozenset(rule.exclude.flags) if rule.exclude is not None else frozenset()
        return rule.forbids(catalogue.ids[row], flags=flags, categories=catalogue.categories_of(row))


def without(row_C: NDArray[np.int32], forbidden: Forbidden) -> NDArray[np.int32]:
    """The rows that may be shown, in their order."""
    return row_C[~np.isin(row_C, forbidden.row_F)] if len(forbidden.row_F) else row_C
