"""The review of a policy: guardrails, fairness, uplifts, exposure; as data and as a page."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from clm_ray.config.policy import Stage
from clm_ray.config.recipe import Recipe
from clm_ray.decide.controls import Controls, read_controls
from clm_ray.decide.watch import Watched, learn_uplifts, observe_only, watch
from clm_ray.policy.fairness import Exposure, Gap, GroupFigure, exposures, hide_small
from clm_ray.policy.guardrails import Finding
from clm_ray.policy.uplift import Estimate
from clm_ray.schema import DAY_US
from clm_ray.store.ledger import MICROS
from clm_ray.store.logged import logged_slates
from clm_ray.store.store import Store

_SLATES = 20_000
_TOP = 5


@dataclass(frozen=True)
class Review:
    """What was found at `time` (µs)."""

    time: int
    policy: str
    decisions: int
    due: int
    findings: tuple[Finding, ...]
    stopped: tuple[tuple[str, str], ...]
    figures: tuple[GroupFigure, ...]
    gaps: tuple[Gap, ...]
    exposures: tuple[Exposure, ...]
    learned: Mapping[str, Mapping[Stage, Estimate]]
    spent: float
    budget: float
    price: float
    standing_stops: tuple[str, ...]
    open_approvals: tuple[str, ...]


def review(store: Store, *, release: Path, recipe: Recipe, now: int, change: bool) -> Review:
    """Look at everything; `change`: also stop what breaks a bound and learn uplifts. Raises StoreError."""
    activity = frozenset(name for name, of in recipe.event_types.items() if "activity" in of.roles)
    policy = recipe.policy
    look = watch if change else observe_only
    seen = look(store, config=policy, activity=activity, now=now)
    state = read_controls(store, now=now)
    learned = learn_uplifts(store, seen.followed, config=policy, now=now) if change else state.learned
    return Review(
        time=now,
        policy=policy.version,
        decisions=len(seen.followed),
        due=sum(one.seen.outcome is not None for one in seen.followed),
        findings=seen.findings,
        stopped=seen.stopped,
        figures=tuple(hide_small(seen.figures, least=recipe.privacy.min_group)),
        gaps=seen.gaps,
        exposures=_exposures(store, seen, release, recipe, now),
        learned=learned,
        spent=store.budget().spent / MICROS,
        budget=policy.budget,
        price=state.price,
        standing_stops=tuple(f"{stop.rule} {action}: {stop.reason}" for action, stop in sorted(state.stops.items())),
        open_approvals=tuple(_pending(state)),
    )


def _pending(state: Controls) -> Iterable[str]:
    return (f"{one.kind} {one.subject}: {one.reason}" for one in state.approvals if one.status == "pending")


def _exposures(store: Store, seen: Watched, release: Path, recipe: Recipe, now: int) -> tuple[Exposure, ...]:
    """What each group was shown within the guardrails' window; groups too small to be shown are left out."""
    policy = recipe.policy
    if not policy.fairness.columns:
        return ()
    since = now - round(policy.guardrails.window_days * DAY_US)
    with store.reading() as connection:
        slates = logged_slates(connection, since=since, until=now, most=_SLATES)
    table = pq.read_table(release / "items.parquet", columns=["item_id", "categories"])
    categories = dict(zip(*(table.column(name).to_pylist() for name in ("item_id", "categories")), strict=True))
    groups = {one.decision.user_id: one.decision.columns for one in seen.followed}
    shown = ((slate.user_id, [categories.get(item, []) for item in slate.items]) for slate in slates)
    found = exposures(shown, groups=groups, config=policy.fairness)
    return tuple(one for one in found if one.users >= recipe.privacy.min_group)


def write_review(found: Review, folder: Path) -> Path:
    """Write TIME.json and TIME.md; returns the page."""
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.fromtimestamp(found.time / 1e6, UTC).strftime("%Y%m%dT%H%M%SZ")
    (folder / f"{stamp}.json").write_text(json.dumps(_plain(asdict(found)), indent=1), encoding="utf-8")
    page = folder / f"{stamp}.md"
    page.write_text("\n".join(_page(found)) + "\n", encoding="utf-8")
    return page


def _plain(value: Any) -> Any:
    """JSON has no NaN and no infinity."""
    if isinstance(value, dict):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _page(found: Review) -> list[str]:
    moment = datetime.fromtimestamp(found.time / 1e6, UTC).isoformat(timespec="seconds")
    return [
        f"# Review of policy {found.policy}, {moment}",
        "",
        f"{found.decisions} decisions, {found.due} of them with an outcome that is due. Spent {found.spent:.2f} of {found.budget:g}; "
        f"price of budget {found.price:.3f}.",
        "",
        "Stopped: " + ("; ".join(found.standing_stops) or "nothing") + ".",
        "",
        "Waiting for approval: " + ("; ".join(found.open_approvals) or "nothing") + ".",
        "",
        "## Guardrails",
        "",
        *_table(
            ["guardrail", "action", "found", "stops"],
            [[one.guardrail, one.action, one.text, "yes" if one.stops else "no"] for one in found.findings],
        ),
        "## Uplift",
        "",
        *_table(
            ["action", "stage", "uplift", "95 % interval", "from"],
            [
                [action, stage, f"{one.mean:+.4f}", f"{one.low:+.4f} to {one.high:+.4f}", one.source]
                for action, stages in found.learned.items()
                for stage, one in stages.items()
            ],
        ),
        "## Groups",
        "",
        *_table(
            ["column", "figure", "action", "stage", "lowest", "highest", "difference", "beyond chance", "bound"],
            [
                [
                    g.column,
                    g.metric,
                    g.action,
                    g.stage,
                    g.low_group,
                    g.high_group,
                    *_numbers(g.difference, g.beyond, g.bound),
                ]
                for g in found.gaps
            ],
        ),
        *_table(
            ["column", "group", "figure", "action", "stage", "users", "value", "standard error"],
            [
                [f.column, f.group, f.metric, f.action, f.stage, str(f.users), *_numbers(f.value, f.error)]
                for f in found.figures
            ],
        ),
        "## What groups are shown",
        "",
        *_table(
            ["column", "group", "users", "distance to all", "most shown"],
            [[e.column, e.group, str(e.users), f"{e.distance:.3f}", _most(e.shares)] for e in found.exposures],
        ),
    ]


def _numbers(*values: float) -> list[str]:
    return ["hidden" if math.isnan(value) else f"{value:.4f}" for value in values]


def _most(shares: Mapping[str, float]) -> str:
    top = sorted(shares.items(), key=lambda pair: -pair[1])[:_TOP]
    return ", ".join(f"{name} {share:.1%}" for name, share in top)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    if not rows:
        return ["Nothing to show yet.", ""]
    cells = [[str(cell).replace("|", "\\|") for cell in row] for row in rows]
    return ["| " + " | ".join(row) + " |" for row in (head, ["---"] * len(head), *cells)] + [""]
