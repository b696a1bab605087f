"""A few users with random histories, taken through the data room's own functions in memory: windows, features, item and user tables.

Nothing here can be learned from; it is for tests of what the model and the training see. Needs no Ray and no text encoder.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.data.bucket import BucketBuilder
from clm_ray.data.columns import rows_to_table
from clm_ray.data.occasions import OccasionSource
from clm_ray.data.popularity import PopularityDraw
from clm_ray.data.references import reference_times
from clm_ray.data.slots import SlotTable
from clm_ray.data.splits import SplitPlan
from clm_ray.data.user_events import users_of
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.spec import (
    FeatureSource,
    FeatureSpec,
    Selection,
    click_feature_names,
    retention_feature_names,
)
from clm_ray.features.statistics import ItemStatistics
from clm_ray.features.tokens import TOKEN_VALUES
from clm_ray.model.items import ItemTable, UserTable, assign_slots
from clm_ray.model.network import Network, Sizes
from clm_ray.model.recommender import Recommender
from clm_ray.model.text import TextTower, Tokens
from clm_ray.schema import DAY_US, EVENTS, SEQUENCES, TRAIN
from clm_ray.train.batches import BatchMaker, Popularity
from clm_ray.train.texts import LowerStates, lower_states
from clm_ray.train.windows import Windows

ITEMS = 24
DAYS = 60
START = 19_000 * DAY_US
LOOKS = ("red", "old", "large")


def small_recipe(**changes: Any) -> Recipe:
    """The recipe; `changes` are top-level sections, merged key by key."""
    raw: dict[str, Any] = {
        "name": "small",
        "source": {"kind": "files", "events": {"paths": ["unused.parquet"]}},
        "event_types": {
            "purchase": {"roles": ["positive", "context", "activity"], "value": "amount"},
            "mailing": {"roles": ["context"]},
            "visit": {"roles": ["activity"]},
            "impression": {"roles": []},
        },
        "impressions": {"negatives": "availability", "per_occasion": 3, "positives_per_occasion": 2},
        "sequences": {"max_context": 6, "body": 5, "buckets": 1},
        "model": {
            "width": 8,
            "layers": 1,
            "heads": 2,
            "hidden": 8,
            "dropout": 0.0,
            "id_dropout": 0.0,
            "id_buckets": 4,
            "encoder": {"items_per_step": 4, "max_tokens": 8, "trained_layers": 1},
        },
        "train": {"windows_per_step": 4, "retrieval_negatives": 6},
    }
    for section, keys in changes.items():
        raw[section] = {**raw.get(section, {}), **keys}
    return recipe_from(raw)


@dataclass(frozen=True)
class SmallShop:
    """Users, items and windows, and the objects that training makes of them. `events`: schema.EVENTS plus `item`, sorted."""

    recipe: Recipe
    source: FeatureSource
    spec: FeatureSpec
    events: pa.Table
    windows: pa.Table
    users: UserTable
    columns: dict[str, tuple[dict[str, str], dict[str, float]]]
    train_end: int

    @cached_property
    def histories(self) -> dict[str, History]:
        """Every user's history."""
        return {user.user_id: user.history for user in users_of(self.events, self.source)}

    @cached_property
    def events_I(self) -> NDArray[np.float64]:
        """Labelled events per item row before the end of training."""
        rows = np.arange(ITEMS + 1, dtype=np.int32)
        return self.source.statistics.events(rows, np.full(len(rows), self.train_end // DAY_US))

    @cached_property
    def items(self) -> ItemTable:
        """Item rows; two items share each text."""
        slots = assign_slots(self.source.catalogue, self.events_I, min_events=5, buckets=4)
        return ItemTable.build(self.source.catalogue, slots)

    def batch_windows(self, first: int = 0, count: int = 1000, *, split: int = TRAIN) -> Windows:
        """Windows as one step sees them."""
        return Windows.of(self.windows.slice(first, count), split)

    def model(self, tower: TextTower | None = None, *, seed: int = 0) -> Recommender:
        """A model with random weights, in eval mode. Every parameter is random, so that none of them hides a mistake."""
        torch.manual_seed(seed)
        sizes = Sizes(
            width=self.recipe.model.width,
            layers=self.recipe.model.layers,
            heads=self.recipe.model.heads,
            hidden=self.recipe.model.hidden,
            reach=self.recipe.sequences.max_context,
            text_width=1 if tower is None else tower.hidden,
            id_slots=int(self.items.slot_I.max()) + 1,
            categories=len(self.source.catalogue.categories),
            event_types=len(self.recipe.event_types),
            token_values=len(TOKEN_VALUES),
            user_categories=len(self.users.categories),
            user_numbers=len(self.users.numbers),
            click_features=len(self.spec.click.chosen),
            retention_features=len(self.spec.retention.chosen),
            bins=len(self.recipe.retention.bin_ends),
            vector_width=self.items.vectors.vector_IM.shape[1],
        )
        model = Recommender(Network(sizes, self.recipe.model), tower)
        for parameter in model.network.parameters():
            torch.nn.init.normal_(parameter, std=0.3)
        model.cache_ZH = torch.randn(len(self.items.texts), sizes.text_width)
        return model.eval()

    def maker(self, lower: LowerStates | None = None, *, recipe: Recipe | None = None) -> BatchMaker:
        """What turns windows into batches."""
        return BatchMaker(
            recipe or self.recipe,
            self.spec,
            self.items,
            self.users,
            self.columns,
            lower,
            Popularity.build(self.events_I),
            self.train_end,
            np.zeros(len(self.items.texts), np.int64),
        )

    def with_recipe(self, recipe: Recipe) -> SmallShop:
        """The same windows under another recipe."""
        return replace(self, recipe=recipe)

    def write(self, dataset: Path, *, parts: int = 2, rows_per_group: int = 4) -> None:
        """Write the sequences as a dataset has them, in several part files of several row groups."""
        folder = dataset / "sequences"
        folder.mkdir(parents=True)
        size = -(-self.windows.num_rows // parts)
        for n in range(parts):
            path = folder / f"part-{n:05d}.parquet"
            pq.write_table(self.windows.slice(n * size, size), path, row_group_size=rows_per_group)


KINDS = {"purchase": 0.7, "mailing": 0.2, "visit": 0.1}
"""Event type → its share of a user's moments."""


def make_shop(
    *, users: int = 9, seed: int = 0, recipe: Recipe | None = None, kinds: Mapping[str, float] = KINDS
) -> SmallShop:
    """Deterministic in all arguments."""
    recipe = recipe or small_recipe()
    rng = np.random.default_rng(seed)
    catalogue, items = _catalogue()
    slots = [(f"s{n}", f"i{i:02d}") for n in range(6) for i in 1 + rng.choice(ITEMS, 10, replace=False)]
    availability = pa.table({"slot": [s for s, _ in slots], "item_id": [i for _, i in slots]})
    slot_table = SlotTable.build(availability, items)
    names = [f"u{n}" for n in range(users)]
    events = pa.concat_tables([_user(name, rng, slot_table, kinds) for name in names])
    vocabulary = EventVocabulary(recipe.event_types)
    source = FeatureSource(recipe, vocabulary, catalogue, _statistics(events))
    train_end = START + int(0.7 * DAYS) * DAY_US
    log_end = START + DAYS * DAY_US
    plan = SplitPlan(recipe.split, train_end, START + int(0.85 * DAYS) * DAY_US, log_end, log_end)
    occasions = OccasionSource(
        recipe.impressions,
        vocabulary,
        slot_table,
        PopularityDraw(source.statistics, recipe.impressions.alpha, recipe.impressions.per_occasion),
        vocabulary.index["impression"],
        0,
    )
    grid = reference_times(recipe, START, START + DAYS * DAY_US)
    result = BucketBuilder(recipe, source, occasions, plan, grid).build(events)
    columns = {n: ({"town": "x" if int(n[1:]) % 2 else "y"}, {"age": float(rng.integers(20, 60))}) for n in names}
    return SmallShop(
        recipe=recipe,
        source=source,
        spec=FeatureSpec(_scaled(click_feature_names(recipe)), _scaled(retention_feature_names(recipe))),
        events=events,
        windows=rows_to_table(result.windows, SEQUENCES),
        users=UserTable.fit(*zip(*columns.values(), strict=True)),  # type: ignore[arg-type]
        columns=columns,
        train_end=train_end,
    )


def lower_of(tower: TextTower, tokens: Tokens) -> LowerStates:
    """Lower states of every text, by one rank."""
    return lower_states(tower, tokens, rank=0, world=1, device=torch.device("cpu"))


def _catalogue() -> tuple[Catalogue, pa.Table]:
    ids = ["", *(f"i{n:02d}" for n in range(1, ITEMS + 1))]
    # Two items have the same text, and texts differ in length.
    texts = ["", *(" ".join([LOOKS[n % 3]] * (1 + n // 2 % 4)) + f" {n // 2}" for n in range(ITEMS))]
    categories = [[], *([LOOKS[n % 3]] * (n % 4 > 0) + (["sale"] if n % 5 == 0 else []) for n in range(ITEMS))]
    return Catalogue.build(ids, texts, categories), pa.table({"item_id": ids})


def _user(name: str, rng: np.random.Generator, slots: SlotTable, kinds: Mapping[str, float]) -> pa.Table:
    """Baskets (several purchases at one moment), mailings without an item, visits that no tower sees."""
    rows: list[dict[str, Any]] = []
    for time in np.sort(rng.integers(0, DAYS * DAY_US, int(rng.integers(3, 25)))):
        kind = rng.choice([*kinds], p=[*kinds.values()])
        slot = f"s{rng.integers(6)}"
        offered = slots.items(slot)
        assert offered is not None
        bought = rng.choice(offered, int(rng.integers(1, 5)), replace=False) if kind == "purchase" else [0]
        for item in bought:
            row = {
                "item": int(item),
                "event_type": str(kind),
                "timestamp": START + int(time),
                "context": [("slot", slot)],
            }
            rows.append({**row, "value": float(rng.uniform(1, 30)) if item else None})
    ids = [f"{name}-{n:03d}" for n in range(len(rows))]
    columns = {
        "event_id": ids,
        "user_id": [name] * len(rows),
        "item_id": [f"i{r['item']:02d}" if r["item"] else None for r in rows],
        "decision_id": [None] * len(rows),
        **{key: [r[key] for r in rows] for key in ("event_type", "timestamp", "value", "context")},
    }
    table = pa.table({field.name: pa.array(columns[field.name], field.type) for field in EVENTS}, schema=EVENTS)
    return table.append_column("item", pa.array([r["item"] for r in rows], pa.int32()))


def _statistics(events: pa.Table) -> ItemStatistics:
    item = events.column("item").to_numpy()
    day = (events.column("timestamp").cast(pa.int64()).to_numpy() // DAY_US).astype(np.int32)
    known = item > 0
    ones = np.ones(int(known.sum()))
    amount = np.nan_to_num(events.column("value").to_numpy(zero_copy_only=False)[known])
    # Some events count as disliked, so that residuals are not all alike.
    return ItemStatistics.from_daily(item[known], day[known], ones, ones * (item[known] % 3 > 0), amount)


def _scaled(names: tuple[str, ...]) -> Selection:
    """Every second feature, shifted and scaled."""
    chosen = names[::2]
    return Selection(names, chosen, {}, (0.5,) * len(chosen), (2.0,) * len(chosen))
