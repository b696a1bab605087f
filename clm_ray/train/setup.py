"""What a worker needs before the first step: shapes, tables and the model, the same on every rank.

Shape letters: I item rows.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
import yaml
from numpy.typing import NDArray

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.data.build import catalogue_of, statistics_of
from clm_ray.data.manifest import BUILT_BY, read_manifest
from clm_ray.errors import TrainError
from clm_ray.features.spec import FeatureSpec
from clm_ray.features.statistics import day_of
from clm_ray.features.tokens import TOKEN_VALUES
from clm_ray.model.fairness import Fairness
from clm_ray.model.files import Description, columns_of
from clm_ray.model.items import ItemTable, ItemVectors, UserTable, assign_slots
from clm_ray.model.network import Network, Sizes
from clm_ray.model.recommender import Recommender
from clm_ray.model.text import TextTower, Tokens, load_pretrained, tokenize
from clm_ray.model.transfer import start_from
from clm_ray.schema import DAY_US
from clm_ray.train.batches import BatchMaker, Popularity
from clm_ray.train.judged import judged_calibrations
from clm_ray.train.losses import Groups
from clm_ray.train.texts import LowerStates, lower_states, text_vectors


@dataclass(frozen=True)
class Prepared:
    """The dataset as training sees it."""

    dataset: Path
    recipe: Recipe
    manifest: dict[str, Any]
    spec: FeatureSpec
    items: ItemTable
    events_I: NDArray[np.float64]
    users: UserTable
    columns: dict[str, tuple[dict[str, str], dict[str, float]]]
    groups: Groups = field(default_factory=Groups)


def open_dataset(dataset: Path, recipe: Recipe) -> Prepared:
    """Read the small tables. `recipe` may differ from the dataset's in model, train and evaluate only.

    Raises TrainError where the recipe asks for data that the dataset was not built for.
    """
    manifest = read_manifest(dataset)
    built_with = recipe_from(yaml.safe_load((dataset / "recipe.yaml").read_text(encoding="utf-8")))
    for section in BUILT_BY:
        if getattr(recipe, section) != getattr(built_with, section):
            raise TrainError(
                "the dataset was prepared with other settings",
                field=section,
                value=manifest["id"],
                fix="run jobs/prepare.py again",
            )
    spec = FeatureSpec.from_dict(json.loads((dataset / "features.json").read_text(encoding="utf-8")))
    _check_left_out(recipe.model.without, spec)
    items = pq.read_table(dataset / "items.parquet")
    catalogue = catalogue_of(items)
    statistics = statistics_of(pq.read_table(dataset / "item_statistics.parquet"))
    rows = np.arange(len(catalogue), dtype=np.int32)
    end = manifest["log_end_us"] + DAY_US if recipe.split.refit else manifest["train_end_us"]
    events = statistics.events(rows, np.full(len(rows), day_of(np.array([end]))[0]))
    slots = assign_slots(catalogue, events, min_events=recipe.model.id_min_events, buckets=recipe.model.id_buckets)
    users = pq.read_table(dataset / "users.parquet")
    categorical, numeric = columns_of(users, "categorical"), columns_of(users, "numeric")
    columns = dict(zip(users.column("user_id").to_pylist(), zip(categorical, numeric, strict=True), strict=True))
    return Prepared(
        dataset,
        recipe,
        manifest,
        (spec if recipe.model.retention_cumulative else spec.stationary()).without(recipe.model.without),
        ItemTable.build(catalogue, slots, ItemVectors.of(items)),
        events,
        UserTable.fit(categorical, numeric),
        columns,
        Groups.build(recipe.train.fairness, columns=columns, catalogue=catalogue),
    )


def _check_left_out(prefixes: tuple[str, ...], spec: FeatureSpec) -> None:
    names = {*spec.click.names, *spec.retention.names, *TOKEN_VALUES}
    for prefix in prefixes:
        if not any(name.startswith(prefix) for name in names):
            raise TrainError(
                "no feature and no token value has a name that begins so",
                field="model.without",
                value=prefix,
                fix=f"names are {', '.join(sorted(names))}",
            )


@dataclass(frozen=True)
class Assembled:
    """The model before training, and what its text tower reads."""

    model: Recommender
    description: Description
    tokens: Tokens | None
    encoder_config: Any
    tokenizer: Any


def assemble(prepared: Prepared) -> Assembled:
    """Build the model with the pretrained encoder; the seed fixes every other initial weight."""
    recipe = prepared.recipe
    torch.manual_seed(recipe.train.seed)
    encoder, tokenizer = load_pretrained(recipe.model.encoder) if recipe.model.use_text else (None, None)
    tower = None
    if encoder is not None:
        config = recipe.model.encoder
        tower = TextTower(encoder, trained_layers=config.trained_layers, pooling=config.pooling, lora=config.lora)
    sizes = Sizes(
        width=recipe.model.width,
        layers=recipe.model.layers,
        heads=recipe.model.heads,
        hidden=recipe.model.hidden,
        reach=recipe.sequences.max_context,
        text_width=tower.hidden if tower is not None else 1,
        id_slots=int(prepared.items.slot_I.max()) + 1,
        categories=len(prepared.items.catalogue.categories),
        event_types=len(recipe.event_types),
        token_values=len(TOKEN_VALUES),
        user_categories=len(prepared.users.categories),
        user_numbers=len(prepared.users.numbers),
        click_features=len(prepared.spec.click.chosen),
        retention_features=len(prepared.spec.retention.chosen),
        bins=len(recipe.retention.bin_ends),
        vector_width=prepared.items.vectors.vector_IM.shape[1],
    )
    torch.manual_seed(recipe.train.seed)
    fairness = recipe.train.fairness
    model = Recommender(
        Network(sizes, recipe.model),
        tower,
        label_smoothing=recipe.train.label_smoothing,
        fairness=Fairness(len(prepared.groups.names), fairness.of) if fairness is not None else None,
    )
    if model.network.vector is not None:
        model.network.vector.fit(*(torch.from_numpy(part) for part in prepared.items.vectors.scale()))
    _fit_scales(model.network, prepared.manifest)
    model.network.start_from_rate(**_base_rate(prepared.manifest))
    if recipe.train.start_from is not None:
        start_from(model, Path(recipe.train.start_from).expanduser())
    for part in (model.network, tower):
        if part is not None:
            part.recompute = recipe.train.activation_checkpointing
    tokens = (
        tokenize(prepared.items.texts, tokenizer, max_tokens=recipe.model.encoder.max_tokens)
        if tower is not None
        else None
    )
    description = Description(sizes, prepared.users, *judged_calibrations(recipe))
    return Assembled(model, description, tokens, encoder.config if encoder is not None else None, tokenizer)


def _fit_scales(network: Network, manifest: dict[str, Any]) -> None:
    for head, scale, output in ((network.rating, "rating", "rating"), (network.spend, "log_value", "value")):
        if head is None:
            continue
        if (found := manifest["scales"][scale]) is None:
            raise TrainError(
                f"nothing to learn a {output} from: no training target has one",
                field="model.outputs",
                value=output,
                fix="leave it out, or give an event type of the recipe a value",
            )
        head.fit(found["mean"], found["spread"])


def frozen_texts(
    prepared: Prepared, assembled: Assembled, *, rank: int, world: int, device: torch.device, say: Callable[[str], None]
) -> tuple[LowerStates | None, NDArray[np.float32]]:
    """Lower states of all texts, and their vectors before any training."""
    tower, tokens = assembled.model.tower, assembled.tokens
    if tower is None or tokens is None:
        return None, np.zeros((len(prepared.items.texts), 1), np.float32)
    say(f"encoding {len(tokens):,} distinct item texts")
    lower = lower_states(tower, tokens, rank=rank, world=world, device=device)
    return lower, text_vectors(tower, lower, len(tokens), rank=rank, world=world, device=device)


def batch_maker(prepared: Prepared, lower: LowerStates | None) -> BatchMaker:
    """What turns the dataset's windows into batches."""
    recipe, manifest = prepared.recipe, prepared.manifest
    return BatchMaker(
        recipe,
        prepared.spec,
        prepared.items,
        prepared.users,
        prepared.columns,
        lower,
        Popularity.build(prepared.events_I),
        manifest["train_end_us"] if not recipe.split.refit else manifest["log_end_us"] + 1,
        np.zeros(max(len(prepared.items.texts), 1), np.int64),
        prepared.groups,
    )


def _base_rate(manifest: dict[str, Any]) -> dict[str, float]:
    train = manifest["base_rates"]["train"]
    return {"rate": float(train["rate"]), "mean_offset": float(train["mean_offset"])}
