"""A campaign: retention decisions for a segment of users at one moment, by Ray Data, and one delivery file per channel.

    ROOT/campaigns/NAME/plan.json              release, moment, stages, price: fixed by the first run
    ROOT/campaigns/NAME/parts/NNNNN.parquet    what a part of the users gets; a part that is there is done
    ROOT/campaigns/NAME/CHANNEL.parquet        what goes out by a channel, written once all parts are there

The decisions are those of the endpoint: the same code, rules, ledger and records, one per user and period. A user whom the endpoint has decided
on in this period keeps that decision, and whoever asked for it delivers it; the campaign sends only what it decided itself.

Resumable, and never twice: the plan fixes the moment, so every run makes the same decisions; before a part is written its actions are claimed
in the store (`store.deliveries`), an action once; files are written whole or not at all, and the same again.

The price of budget is that of the segment: the dual of the multiple-choice knapsack over all users and actions that are feasible, within
what is left of the budget (`policy.knapsack`).
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from clm_ray.config.policy import NO_ACTION, STAGES, Stage
from clm_ray.config.workspace import Workspace
from clm_ray.data.buckets import bucket_of
from clm_ray.decide.decide import DecisionInput, decide, open_cases
from clm_ray.errors import ConfigError
from clm_ray.features.events import EventVocabulary
from clm_ray.policy.knapsack import dual_price
from clm_ray.release.read import recipe_of
from clm_ray.serve.hops import RetentionFacts
from clm_ray.serve.retention import RetentionRelease, input_of, open_retention
from clm_ray.store.deliveries import claim
from clm_ray.store.ledger import MICROS
from clm_ray.store.records import RetentionDecision
from clm_ray.store.store import Store, open_store

_BATCH = 256
_PARTS_PER_ACTOR = 8
"""An actor opens release and store once; more parts are worked off by more actors, as far as the cluster has CPUs."""
_IDS = pa.list_(pa.string())
_DELIVERY = pa.schema(
    [
        pa.field("action_id", pa.string(), nullable=False),
        pa.field("user_id", pa.string(), nullable=False),
        pa.field("action", pa.string(), nullable=False),
        pa.field("channel", pa.string(), nullable=False),
        pa.field("deliver_from", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("deliver_until", pa.timestamp("us", tz="UTC"), nullable=False),
        pa.field("timezone", pa.string(), nullable=False),
        pa.field("cost", pa.float64(), nullable=False),
    ]
)
"""What goes out. Not before `deliver_from` (quiet hours), not from `deliver_until` on (the decision's period has ended)."""


@dataclass(frozen=True)
class Plan:
    """What the first run of a campaign fixed. time: the moment of all its decisions, µs; price: of a unit of budget; parts: of the users."""

    name: str
    release: str
    store_url: str
    time: int
    stages: tuple[Stage, ...]
    parts: int
    price: float

    @property
    def origin(self) -> str:
        """Under which its decisions are kept."""
        return f"campaign:{self.name}"


@dataclass(frozen=True)
class Sent:
    """What a run found done or did. channels: channel → actions that go out by it."""

    plan: Plan
    folder: Path
    users: int
    channels: dict[str, int]


def run_campaign(
    workspace: Workspace,
    name: str,
    *,
    stages: Sequence[str],
    store_url: str,
    now: int,
    parts: int = 16,
    tell: Callable[[str], None] = print,
) -> Sent:
    """Decide for every user of the current release who is in one of `stages`, and write what goes out. Needs `ray.init` before.

    Running it again completes what was cut off and changes nothing else. Raises ConfigError: no such stage, a name that is taken by another
    segment or release, a campaign whose moment is more than a decision period ago.
    """
    folder = workspace.root / "campaigns" / name
    plan = _plan(workspace, folder, name, stages=stages, store_url=store_url, now=now, parts=parts, tell=tell)
    todo = [part for part in range(plan.parts) if not _part_file(folder, part).is_file()]
    tell(f"{plan.parts - len(todo)} of {plan.parts} parts are there")
    if todo:
        release_folder = str(workspace.releases / plan.release)
        users = _users(workspace.releases / plan.release, todo, plan.parts)
        rows = _over_parts(users, _Decide, plan=asdict(plan), release=release_folder, folder=str(folder))
        tell(f"decided for {sum(row['users'] for row in rows)} users of the segment")
    return _finish(folder, plan)


def _plan(
    workspace: Workspace,
    folder: Path,
    name: str,
    *,
    stages: Sequence[str],
    store_url: str,
    now: int,
    parts: int,
    tell: Callable[[str], None],
) -> Plan:
    """The plan of the first run; made, with its price, where there is none."""
    wanted = tuple(stage for stage in STAGES if stage in stages)
    if not wanted or len(wanted) != len(set(stages)):
        raise ConfigError("no such stage", field="--stage", value=list(stages), fix=f"some of {', '.join(STAGES)}")
    release = workspace.current("releases")
    path = folder / "plan.json"
    if path.is_file():
        raw = json.loads(path.read_text(encoding="utf-8"))
        plan = Plan(**{**raw, "stages": tuple(raw["stages"])})
        if (plan.stages, plan.store_url) != (wanted, store_url):
            raise ConfigError(
                f"is the name of a campaign for {', '.join(plan.stages)}",
                field="--name",
                value=name,
                fix="take another",
            )
        period = recipe_of(workspace.releases / plan.release).policy.epoch_days
        if now - plan.time >= period * 86_400_000_000 and not all(
            _part_file(folder, part).is_file() for part in range(plan.parts)
        ):
            raise ConfigError(
                "its decision period is over", field="--name", value=name, fix="start a campaign of another name"
            )
        return plan
    draft = Plan(name, release.name, store_url, now, wanted, parts, 0.0)
    users = _users(release, range(parts), parts)
    rows = _over_parts(users, _Value, plan=asdict(draft), release=str(release), folder=str(folder))
    policy = recipe_of(release).policy
    value_UA, cost_UA = (_matrix(rows, name, width=len(policy.actions)) for name in ("value", "cost"))
    with open_store(store_url, create=False) as store:
        state = store.budget()
    left = max(policy.budget - (state.spent + state.reserved) / MICROS, 0.0)
    dual = dual_price(value_UA, cost_UA=cost_UA, budget=left)
    tell(
        f"{len(value_UA)} users in the segment; {left:.2f} of the budget is left, a unit of it is priced {dual.price:.4f}"
    )
    plan = Plan(name, release.name, store_url, now, wanted, parts, dual.price)
    folder.mkdir(parents=True, exist_ok=True)
    _write_text(path, json.dumps(asdict(plan), indent=1))
    return plan


def _users(release: Path, parts: Sequence[int], count: int) -> list[pa.Table]:
    """The users of each part, by a stable hash."""
    ids = pq.read_table(release / "users.parquet", columns=["user_id"]).column("user_id").to_pylist()
    bucket = bucket_of(ids, count)
    return [
        pa.table({"part": [part], "users": pa.array([[ids[place] for place in np.flatnonzero(bucket == part)]], _IDS)})
        for part in parts
    ]


def _matrix(rows: Sequence[dict[str, Any]], name: str, *, width: int) -> NDArray[np.float64]:
    """float64 [users, width] of all parts, of which some may have no users."""
    return np.concatenate([np.asarray(row[name], np.float64).reshape(row["users"], width) for row in rows])


def _over_parts(tables: list[pa.Table], work: type, **arguments: Any) -> list[dict[str, Any]]:
    """One row per part, from actors that hold release and store."""
    made = ray.data.from_arrow(tables).map_batches(
        work,
        fn_constructor_kwargs=arguments,
        batch_size=1,
        batch_format="pyarrow",
        compute=ray.data.ActorPoolStrategy(min_size=1, max_size=math.ceil(len(tables) / _PARTS_PER_ACTOR)),
        num_cpus=0.5,
    )
    return sorted(made.take_all(), key=lambda row: row["part"])


class _Segment:
    """What both passes share: the users of a part that are in the segment, as inputs of decisions."""

    def __init__(self, *, plan: dict[str, Any], release: str, folder: str) -> None:
        self.plan = Plan(**{**plan, "stages": tuple(plan["stages"])})
        self.folder = Path(folder)
        self.release: RetentionRelease = open_retention(Path(release))
        self.vocabulary = EventVocabulary(recipe_of(Path(release)).event_types)
        self.store: Store = open_store(self.plan.store_url, create=False)

    def inputs(self, users: Sequence[str]) -> Iterator[list[DecisionInput]]:
        """A batch at a time. The whole history before the plan's moment is read; the stage is as of the start of the user's period."""
        for start in range(0, len(users), _BATCH):
            batch = users[start : start + _BATCH]
            overlays = self.store.overlays(batch)
            made = []
            for user, stored in self.store.histories(batch).items():
                history = stored.history(row_of={}, event_of=self.vocabulary.index).before(self.plan.time)
                active_N = self.vocabulary.is_activity(history)
                amounts = self.vocabulary.amounts(history)[active_N] if self.vocabulary.spends else None
                facts = RetentionFacts(user, self.plan.time, history.time_N[active_N], amounts)
                one = input_of(facts, self.release, overlay=overlays.get(user), now=self.plan.time)
                if one.stage in self.plan.stages:
                    made.append(one)
            yield made


class _Value(_Segment):
    """What each action would bring and cost each user of a part, where it is feasible."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        policy = self.release.policy
        names = [action.name for action in policy.actions]
        rows: list[list[float]] = []
        costs = [[action.cost for action in policy.actions]]
        for inputs in self.inputs(batch.column("users")[0].as_py()):
            for case in open_cases(inputs, store=self.store, config=policy, now=self.plan.time, price=0.0):
                scores = case.merit.scores(case.left)
                rows.append([scores.get(name, -np.inf) for name in names])
        flat = [value for row in rows for value in row]
        return pa.table(
            {
                "part": batch.column("part"),
                "users": [len(rows)],
                "value": pa.array([flat], pa.list_(pa.float64())),
                "cost": pa.array([costs[0] * len(rows)], pa.list_(pa.float64())),
            }
        )


class _Decide(_Segment):
    """Decides for a part, claims what goes out, and writes the part's file."""

    def __call__(self, batch: pa.Table) -> pa.Table:
        part = batch.column("part")[0].as_py()
        rows, count = [], 0
        for inputs in self.inputs(batch.column("users")[0].as_py()):
            count += len(inputs)
            made = decide(
                inputs,
                store=self.store,
                config=self.release.policy,
                now=self.plan.time,
                release_id=self.plan.release,
                origin=self.plan.origin,
                price=self.plan.price,
            )
            rows += self._claimed(made, part)
        table = pa.Table.from_pylist([_row(one) for one in rows], schema=_DELIVERY)
        table = table.replace_schema_metadata({"users": str(count)})
        _write_table(_part_file(self.folder, part), table)
        return pa.table({"part": [part], "users": [count]})

    def _claimed(self, made: Sequence[RetentionDecision], part: int) -> list[RetentionDecision]:
        mine = [
            one
            for one in made
            if one.origin == self.plan.origin and one.in_force != NO_ACTION and one.channel is not None
        ]
        contacts = [one for one in mine if self.release.policy.channels[str(one.channel)].contact]
        with self.store.writing() as connection:
            ids = claim(connection, contacts, campaign=self.plan.name, part=f"{part:05d}", now=self.plan.time)
        return [one for one in contacts if one.action_id in ids]


def _row(decision: RetentionDecision) -> dict[str, Any]:
    return {
        "action_id": decision.action_id,
        "user_id": decision.user_id,
        "action": decision.in_force,
        "channel": decision.channel,
        "deliver_from": decision.deliver_from,
        "deliver_until": decision.epoch_end,
        "timezone": decision.timezone,
        "cost": decision.cost,
    }


def _finish(folder: Path, plan: Plan) -> Sent:
    """One file per channel, of all parts; the same from the same parts."""
    parts = [pq.read_table(_part_file(folder, part)) for part in range(plan.parts)]
    users = sum(int((table.schema.metadata or {}).get(b"users", b"0")) for table in parts)
    everything = pa.concat_tables([table.replace_schema_metadata(None) for table in parts])
    channels = {}
    for channel in sorted(set(everything.column("channel").to_pylist())):
        mask = pa.compute.equal(everything.column("channel"), channel)
        table = everything.filter(mask).sort_by("action_id")
        channels[channel] = table.num_rows
        path = folder / f"{channel}.parquet"
        if not path.is_file():
            _write_table(path, table)
    return Sent(plan, folder, users, channels)


def _part_file(folder: Path, part: int) -> Path:
    return folder / "parts" / f"{part:05d}.parquet"


def _write_table(path: Path, table: pa.Table) -> None:
    """Whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    pq.write_table(table, fresh, compression="zstd")
    fresh.replace(path)


def _write_text(path: Path, text: str) -> None:
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.write_text(text, encoding="utf-8")
    fresh.replace(path)
