"""What each picture of the data report says, and what to do about it, in plain sentences."""

from __future__ import annotations

import datetime as dt
from collections.abc import Mapping, Sequence

from clm_ray.data.log import Counts
from clm_ray.data.report.drift_figures import Drift, SplitActivity
from clm_ray.data.report.figures import FEWEST_EVENTS, Cohorts, Daily, Histogram, Lengths, Popularity, Survival, total
from clm_ray.data.report.short import BaseRate
from clm_ray.metrics.drift import LARGE, SMALL

_SECOND, _HOUR, _DAY = 1.0, 3600.0, 86_400.0
_MANY_ONCE, _MANY_LONGER, _RATES_APART, _MUCH_REJECTED = 0.3, 0.1, 1.25, 0.01
_NAMED = 5


def daily(found: Daily) -> list[str]:
    """The days of the log: how it ends, and which days are empty."""
    days = list(zip(*found.events.values(), strict=True))
    first = dt.date.fromisoformat(found.first)
    last = first + dt.timedelta(days=len(days) - 1)
    says = [f"The log holds {len(days):,} days, from {first:%A} {first} to {last:%A} {last} (UTC)."]
    if last.weekday() != 6:
        says.append("It ends in mid-week: do not compare its last week with the others.")
    if empty := sum(all(n == 0 for n in day) for day in days):
        says.append(f"{empty:,} of them have no event. Where the shop was not closed, part of the log is missing.")
    else:
        says.append("No day is empty. A sudden step is more often a change of what is logged than of what users do.")
    if unseen := [name for name, row in found.events.items() if all(n == 0 for n in row)]:
        says.append(f"Of {len(unseen)} event types of the recipe there is no event: {', '.join(sorted(unseen))}.")
    return says


def popularity(found: Popularity) -> list[str]:
    """How unequal items are, and how long the tail is."""
    says = [
        f"{found.items:,} items have {found.events:,} events; the most frequent hundredth of them has {found.top_share:.0%}."
    ]
    if found.slope is not None:
        says.append(
            f"Slope {found.slope:.2f} over ranks 1 to {found.fitted_to:,} (items of at least {FEWEST_EVENTS} events): "
            "near 0 all items are alike; at -1 and below a few items carry the log, and recommending those alone is hard to beat."
        )
    else:
        says.append(f"Too few items have {FEWEST_EVENTS} events to fit a slope.")
    once = found.once / found.items
    says.append(
        f"{found.once:,} items ({once:.0%}) have one event."
        + (" The model knows this tail by its text and categories alone: make them good." if once > _MANY_ONCE else "")
    )
    if found.unused:
        says.append(f"{found.unused:,} items of the catalogue have no event at all.")
    return says


def gaps(found: Histogram) -> list[str]:
    """How users' activities follow each other."""

    def share(low: float, high: float) -> float:
        return sum(n or 0 for n, edge in zip(found.counts, found.edges, strict=False) if low <= edge < high) / all_gaps

    all_gaps = max(total(found.counts), 1)
    return [
        f"Of {all_gaps:,} gaps between a user's activities {share(0, _SECOND):.0%} are shorter than a second (one basket; not drawn), "
        f"{share(_SECOND, _HOUR):.0%} shorter than about an hour (one session), {share(_HOUR, _DAY):.0%} than about a day, "
        f"{share(_DAY, float('inf')):.0%} longer.",
        "The valley between the left and the right hill separates sessions. A single spike at a round time is often a clock "
        "that rounds; many equal times leave the order of events within them to chance.",
    ]


def lengths(found: Lengths) -> list[str]:
    """How much of users there is to learn from, and whether the context holds it."""
    users = max(total(found.users.counts), 1)
    few = sum(n or 0 for n, edge in zip(found.users.counts, found.users.edges, strict=False) if edge < 4)
    says = [
        f"{few / users:.0%} of the users have at most three events: for them a model knows little beyond what is popular."
    ]
    if found.longer:
        longer = found.longer / users
        says.append(
            f"{found.longer:,} users ({longer:.1%}) have more events than the {found.max_context} that the model looks back on."
            + (" Raise sequences.max_context if the older ones matter." if longer > _MANY_LONGER else "")
        )
    else:
        says.append(
            f"Nobody has more events than the {found.max_context} that the model looks back on (sequences.max_context)."
        )
    return says


def survival(found: Survival) -> list[str]:
    """How long users stay, and what the curve rests on."""
    left = f"{found.ended:,} of {found.users:,} users left"
    half = (
        f"Half of the users are gone after {found.median_days:,} days."
        if found.median_days is not None
        else "Within the log fewer than half of the users leave, as far as the curve goes."
    )
    says = [
        f"Days from a user's first to the last activity, Kaplan-Meier with its 95 % interval. {left}: silent for at least "
        f"{found.churned_days:g} days up to the log's end. The others are counted as far as an end could have been seen.",
        half,
        "A steep start are users who tried once: win the second visit. The right end rests on few users.",
    ]
    if found.too_new:
        says.append(
            f"{found.too_new:,} users came too late for the log to show whether they stayed; they are left out."
        )
    return says


def cohorts(found: Cohorts) -> list[str]:
    """How to read the heat map."""
    return [
        f"Each row is the users whose first activity lies in that {found.period}; each column the share of them active again, in "
        f"percent, so many {found.period}s later. The first column is 100 by definition.",
        f"Periods that the log does not hold in full are blank, and so are groups of too few users. The first row holds everybody who was "
        f"there before the log began. A row darker than its neighbours is a {found.period} that brought better users; a dark or pale "
        "diagonal is something that happened to all at once.",
    ]


def base_rates(rates: Mapping[str, BaseRate]) -> list[str]:
    """Whether positives are as frequent in each split."""
    known = {split: rate.rate for split, rate in rates.items() if rate.rate}
    says = ["The share of positive targets that the model is trained on, chosen by, and judged on."]
    apart = max(known.values()) / min(known.values()) if known else 1.0
    if apart > _RATES_APART:
        says.append(
            f"The largest is {apart:.1f} times the smallest. Test occasions rank everything on offer and train has sampled negatives, so some "
            "difference is made; else users or the log have changed, and probabilities will be off until calibrated on newer rows."
        )
    else:
        says.append("They are close: probabilities learned on train should hold on test.")
    return says


def quarantine(counts: Counts) -> list[str]:
    """What was set aside, and where to look."""
    rejected = sum(counts.rejected.values())
    advice = "look at its rows before anything else" if counts.rejected_share > _MUCH_REJECTED else "a small loss"
    says = [
        f"{rejected:,} of {counts.read:,} rows of the log ({counts.rejected_share:.2%}) were set aside: {advice}. "
        "quarantine.parquet has each with its file, line and content."
    ]
    if counts.duplicates:
        says.append(f"{counts.duplicates:,} exact repeats were dropped; they are not counted as rejected.")
    if counts.tables:
        says.append(f"{sum(counts.tables.values()):,} rows of the other tables were set aside too.")
    return says


def drift(found: Drift) -> list[str]:
    """Which features drift, and whether the splits differ in what happens in them."""
    says = []
    if found.features:
        large = [f"{f.feature} ({f.index:.2f})" for f in found.features if f.index > LARGE]
        middle = sum(SMALL <= f.index <= LARGE for f in found.features)
        says.append(
            f"Population stability index of the {len(found.features)} selected features, valid against train (features of test rows are not "
            f"stored): below {SMALL:g} small, above {LARGE:g} large. " + _drifting(large, middle)
        )
        chance = max(f.by_chance for f in found.features)
        if chance > SMALL / 2:
            says.append(f"So few rows show up to {chance:.2f} by chance: read the index with care.")
    else:
        says.append("Features cannot be compared: train or valid has no rows.")
    says += [_activity(split) for split in found.splits if split.mix is not None]
    if not found.splits:
        says.append(
            "Every user's rows are cut on their own, so the splits share the calendar: event types are not compared."
        )
    return says


def _drifting(large: Sequence[str], middle: int) -> str:
    if large:
        more = f" and {len(large) - _NAMED} more" if len(large) > _NAMED else ""
        return (
            f"Largest: {', '.join(large[:_NAMED])}{more}. What grows with the age of the log (counts, tenure) drifts by nature; of anything else "
            "ask what changed, or leave it out."
        )
    return f"None is large, {middle} lie between." if middle else "All are small."


def _activity(split: SplitActivity) -> str:
    text = f"{split.split}: {split.events or 0:,} events in {split.days:,.0f} days"
    if split.active_per_day is not None:
        text += f", {split.active_per_day:,.1f} of {split.users:,} users active on an average day"
    if split.mix_index is not None:
        size = "small" if split.mix_index < SMALL else "large" if split.mix_index > LARGE else "moderate"
        text += f"; its mix of event types against train: {split.mix_index:.2f} ({size})"
    return text + "."
