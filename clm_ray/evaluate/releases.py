"""Two releases compared by what became of what they showed, or would have shown, from the store alone.

After a split each release has its own users, so every figure may be compared. A shadow showed nothing: its probabilities of what the other one showed
are judged (calibration, log loss) on the same slates; what its own slates would have brought nobody knows.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from clm_ray.errors import DataError
from clm_ray.metrics.outcomes import Estimate, Figures, Shown, differences, figures
from clm_ray.store.outcomes import Meaning, Outcome, outcomes, shown
from clm_ray.store.shadow import shadows_of
from clm_ray.store.store import Store

_NAMES = {
    "ctr": "shown items answered positively",
    "answered": "slates with a positive answer",
    "calibration": "answers by promised clicks (1 is right)",
    "log_loss": "log loss of the shown items",
    "revenue": "revenue per slate",
}
_OF_SHADOW = ("calibration", "log_loss")
"""What may be said of a release that showed nothing."""


@dataclass(frozen=True)
class Comparison:
    """`other` beside `one`, over slates of since ≤ time < until (µs). kind: `split` or `shadow`. gaps: figure → other less one. overlap: users who
    met both arms (the share was changed); they are left out.
    """

    kind: str
    one: str
    other: str
    since: int
    until: int
    figures_one: Figures
    figures_other: Figures
    gaps: Mapping[str, Estimate]
    overlap: int = 0

    def to_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return asdict(self)


def compare(
    store: Store, *, one: str, other: str, meaning: Meaning, since: int, until: int, window_us: int
) -> Comparison:
    """Compare two releases by id. `until` must lie at least the window before now, so that outcomes are known.

    Raises DataError where `other` neither answered its share of a split nor scored in the shadow of `one` in that time.
    """
    found = list(outcomes(store, since=since, until=until, meaning=meaning, window_us=window_us))
    arms = {name: [o for o in found if o.slate.release_id == name and o.slate.arm] for name in (one, other)}
    if arms[one] and arms[other]:
        return _split(one, other, arms, since=since, until=until)
    served = [o for o in found if o.slate.release_id == one]
    shadows = shadows_of(store, [o.slate.decision_id for o in served], release=other)
    judged = [o for o in served if o.slate.decision_id in shadows]
    if not judged:
        raise DataError(
            f"nothing to compare it by with {one} in this time",
            field="--other",
            value=other,
            fix="serve it with args.split or args.shadow first, or look further back with --days",
        )
    scores = [shadows[o.slate.decision_id].shown for o in judged]
    return _shadow(one, other, judged, scores, since=since, until=until)


def markdown(comparison: Comparison) -> str:
    """The comparison as a page."""
    c = comparison
    how = {
        "split": "Each release answered its own users, drawn by a hash; the figures may be compared.",
        "shadow": f"{c.other} was never shown: both are judged by what {c.one} showed.",
    }[c.kind]
    lines = [
        f"# {c.other} beside {c.one}",
        "",
        f"{how} 95 % intervals by a bootstrap over users; a difference whose interval holds 0 may be luck.",
        "",
        f"| | {c.one} | {c.other} | difference |",
        "| --- | ---: | ---: | ---: |",
        *(f"| {name} | {a:,} | {b:,} | |" for name, a, b in _sizes(c)),
        *(
            f"| {_NAMES[name]} | {_text(getattr(c.figures_one, name))} | {_text(getattr(c.figures_other, name))} | {_text(gap)} |"
            for name, gap in c.gaps.items()
        ),
        f"| calibration error | {c.figures_one.ece:.4g} | {c.figures_other.ece:.4g} | |",
        "",
    ]
    if c.overlap:
        lines += [f"{c.overlap:,} users met both, since the share was changed; they are left out.", ""]
    return "\n".join(lines)


def _split(one: str, other: str, arms: Mapping[str, Sequence[Outcome]], *, since: int, until: int) -> Comparison:
    both = {o.slate.user_id for o in arms[one]} & {o.slate.user_id for o in arms[other]}
    parts = [shown([o for o in arms[name] if o.slate.user_id not in both]) for name in (one, other)]
    gaps = differences(parts[0], other=parts[1], paired=False)
    return Comparison("split", one, other, since, until, figures(parts[0]), figures(parts[1]), gaps, overlap=len(both))


def _shadow(
    one: str,
    other: str,
    judged: Sequence[Outcome],
    scores: Sequence[Sequence[float | None]],
    *,
    since: int,
    until: int,
) -> Comparison:
    """Both on the items that both gave a probability."""
    nan = float("nan")
    theirs = [tuple(nan if p is None else p for p in row) for row in scores]
    served, shadow = shown(judged), shown(judged, probabilities=theirs)
    unknown_N = np.isnan(served.probability_N) | np.isnan(shadow.probability_N)
    a, b = (_without(part, unknown_N) for part in (served, shadow))
    gaps = differences(a, other=b, paired=True)
    return Comparison(
        "shadow", one, other, since, until, figures(a), figures(b), {name: gaps[name] for name in _OF_SHADOW}
    )


def _without(part: Shown, unknown_N: NDArray[np.bool_]) -> Shown:
    probability_N = part.probability_N.copy()
    probability_N[unknown_N] = float("nan")
    return Shown(part.user_S, part.revenue_S, part.slate_N, probability_N, part.label_N)


def _sizes(c: Comparison) -> list[tuple[str, int, int]]:
    return [
        (name, getattr(c.figures_one, field), getattr(c.figures_other, field))
        for name, field in (("slates", "slates"), ("users", "users"), ("shown items with a probability", "scored"))
    ]


def _text(estimate: Estimate) -> str:
    if np.isnan(estimate.value):
        return "–"
    return f"{estimate.value:.4g} ({estimate.low:.4g} to {estimate.high:.4g})"
