"""The short data report: what `prepare` found, for people (text, Markdown) and programs (JSON)."""

from __future__ import annotations

import datetime as dt
import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from clm_ray.config.recipe import Recipe
from clm_ray.data.log import Counts, Log

_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)


@dataclass(frozen=True)
class BaseRate:
    """Targets of one split, and how many of them are positive; rate None where there is no target."""

    targets: int
    positives: int
    rate: float | None


@dataclass(frozen=True)
class DataReport:
    """One dataset in figures. catalogue, known_users: rows of the item and user tables (the reserved item left out); density: distinct
    (user, item) pairs of the log over all pairs of its users and items; base_rates: by split; positives: positive events and how many
    of them are asked about (None where the log has its own negatives); left_out: targets of an embargo, or with a label not yet known."""

    recipe: str
    description: str
    counts: Counts
    catalogue: int
    known_users: int
    density: float
    base_rates: Mapping[str, BaseRate]
    positives: Mapping[str, int] | None
    left_out: int = 0

    def to_json(self) -> str:
        """The report as JSON."""
        figures: dict[str, Any] = asdict(self)
        figures["rejected_share"] = self.counts.rejected_share
        figures["from"], figures["to"] = self._range()
        return json.dumps(figures, indent=1, ensure_ascii=False)

    def to_text(self) -> str:
        """The report as an aligned block to print."""
        rows = [row for _, part in self.parts() for row in part]
        width = max(len(name) for name, _ in rows)
        return "\n".join([f"data report: {self.recipe}", *(f"  {name:<{width}}  {value}" for name, value in rows)])

    def to_markdown(self) -> str:
        """The report as Markdown tables."""
        lines = [f"# Data report: {self.recipe}", "", self.description.strip()]
        for title, rows in self.parts():
            lines += ["", f"## {title}", "", "| | |", "|---|---|", *(f"| {name} | {value} |" for name, value in rows)]
        return "\n".join(lines) + "\n"

    def _range(self) -> tuple[str, str]:
        first, last = self.counts.first_us, self.counts.last_us
        return tuple((_EPOCH + dt.timedelta(microseconds=us)).isoformat(timespec="seconds") for us in (first, last))  # type: ignore[return-value]

    def parts(self) -> Sequence[tuple[str, Sequence[tuple[str, str]]]]:
        """The tables of the report: title, and rows of name and value."""
        counts = self.counts
        start, end = self._range()
        log = [
            ("rows read", f"{counts.read:,}"),
            (
                "events kept",
                f"{counts.kept:,}" + (f" ({counts.from_feedback:,} fed back)" if counts.from_feedback else ""),
            ),
            ("time range", f"{start} to {end}"),
            ("users", f"{counts.users:,} with events, {self.known_users:,} known"),
            ("items", f"{counts.items:,} with events, {self.catalogue:,} in the catalogue"),
            ("density", f"{self.density:.4%} of the user × item pairs occur ({counts.pairs:,})"),
        ]
        if counts.unlisted_items:
            log.append(("not in the catalogue", f"{counts.unlisted_items:,} items (their id is their text)"))
        rejected = [("rejected", f"{sum(counts.rejected.values()):,} ({counts.rejected_share:.2%})")]
        rejected += [(f"rejected: {reason}", f"{n:,}") for reason, n in _by_size(counts.rejected)]
        rejected += [("dropped: duplicate", f"{counts.duplicates:,}")] if counts.duplicates else []
        rejected += [("dropped: erased users", f"{counts.erased:,}")] if counts.erased else []
        rejected += [(f"rejected in tables: {reason}", f"{n:,}") for reason, n in _by_size(counts.tables)]
        rejected += [(f"no number of use: {name}", f"{n:,} (count as missing)") for name, n in _by_size(counts.unread)]
        types = [(f"events: {name}", f"{n:,}") for name, n in _by_size(counts.types)]
        rates = [(f"base rate: {split}", _rate_text(rate)) for split, rate in self.base_rates.items()]
        if self.positives is not None:
            rates.append(
                ("positives asked about", f"{self.positives['asked_about']:,} of {self.positives['positives']:,}")
            )
        if self.left_out:
            rates.append(("left out (embargo, label not yet known)", f"{self.left_out:,}"))
        return [("Log", log), ("Events by type", types), ("Rejected rows", rejected), ("Base rates", rates)]


def make_report(
    recipe: Recipe,
    log: Log,
    *,
    base_rates: Mapping[str, Mapping[str, Any]],
    positives: Mapping[str, int] | None = None,
    left_out: int = 0,
) -> DataReport:
    """The report on a log and on the splits made of it; `base_rates`: by split its `targets`, `positives`, `rate`; `positives`:
    `positives` and how many of them are `asked_about`; `left_out`: how many targets do not count.
    """
    counts = log.counts
    return DataReport(
        recipe=recipe.name,
        description=recipe.description,
        counts=counts,
        catalogue=log.items.num_rows - 1,
        known_users=log.users.num_rows,
        density=counts.pairs / (counts.users * counts.items) if counts.users and counts.items else 0.0,
        base_rates={s: BaseRate(int(r["targets"]), int(r["positives"]), r["rate"]) for s, r in base_rates.items()},
        positives=positives,
        left_out=left_out,
    )


def _by_size(counts: Mapping[str, int]) -> list[tuple[str, int]]:
    return sorted(counts.items(), key=lambda item: (-item[1], item[0]))


def _rate_text(rate: BaseRate) -> str:
    if rate.rate is None:
        return "no targets"
    return f"{rate.rate:.4f} ({rate.positives:,} of {rate.targets:,} targets)"
