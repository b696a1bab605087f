"""An untrained but complete release, written in a moment: random weights from a seed, twelve items, three users."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.config.workspace import Workspace
from clm_ray.features.spec import FeatureSpec, Selection, click_feature_names, retention_feature_names
from clm_ray.features.statistics import ItemStatistics
from clm_ray.features.tokens import TOKEN_VALUES
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.model.files import ITEM_VECTORS, Description, save_weights
from clm_ray.model.items import UserTable
from clm_ray.model.network import Network, Sizes
from clm_ray.schema import ITEM_STATISTICS, ITEMS, NEIGHBOURS, USERS

ITEM_IDS = ("", *(f"i{n:02d}" for n in range(1, 13)))
WIDTH = 8


def tiny_recipe(outputs: Sequence[str] = ()) -> Recipe:
    """Both heads, those of `outputs` too, and a policy in which something happens."""
    return recipe_from(
        {
            "name": "tiny",
            "source": {"kind": "files", "events": {"paths": ["unused.parquet"]}},
            "event_types": {
                "purchase": {"roles": ["positive", "context", "activity"], "value": "amount"},
                "impression": {"roles": []},
                "click": {"roles": ["positive", "context", "activity"]},
            },
            "model": {"width": WIDTH, "heads": 2, "hidden": 8, "outputs": list(outputs)},
            "policy": {"holdout_share": 0.0},
            "serve": {"k": 5, "retrieve": 8, "max_candidates": 20},
        }
    )


def write_release(workspace: Workspace, name: str, *, seed: int, outputs: Sequence[str] = ()) -> Path:
    """Write the release `name` and make it the current one; another seed is another model."""
    folder = workspace.releases / name
    folder.mkdir(parents=True)
    recipe = tiny_recipe(outputs)
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    spec = FeatureSpec(_every(click_feature_names(recipe)), _every(retention_feature_names(recipe)))
    (folder / "features.json").write_text(json.dumps(spec.to_dict()), encoding="utf-8")
    thresholds = Thresholds(new_days=28.0, at_risk_days=14.0, churned_days=60.0, reactivated_days=28.0, settled_days=1)
    (folder / "manifest.json").write_text(
        json.dumps({"id": name, "parents": {}, "thresholds": thresholds.to_dict()}), encoding="utf-8"
    )
    _tables(folder)
    _model(folder, recipe, spec, seed=seed)
    workspace.point("releases", name)
    return folder


def _every(names: tuple[str, ...]) -> Selection:
    return Selection(names, names, {}, (0.0,) * len(names), (1.0,) * len(names))


def _tables(folder: Path) -> None:
    items = [
        {"item_id": item, "text": f"text of {item}", "categories": ["fruit" if n % 2 else "bread"] if item else []}
        for n, item in enumerate(ITEM_IDS)
    ]
    pq.write_table(_table(items, ITEMS), folder / "items.parquet")
    users = [
        {
            "user_id": "ann",
            "categorical": [("town", "x")],
            "numeric": [("age", 30.0)],
            "consent": True,
            "timezone": "UTC",
        },
        {"user_id": "bob", "consent": False, "timezone": "Europe/Berlin"},
    ]
    pq.write_table(_table(users, USERS), folder / "users.parquet")
    rows = np.arange(1, len(ITEM_IDS), dtype=np.int32)
    counts = rows.astype(np.float64)
    day = np.full(len(rows), 17_000, np.int32)
    statistics = ItemStatistics.from_daily(rows, day, 2 * counts, counts, counts)
    pq.write_table(pa.table(statistics.columns(), schema=ITEM_STATISTICS), folder / "item_statistics.parquet")
    pq.write_table(NEIGHBOURS.empty_table(), folder / "neighbours.parquet")


def _table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    return pa.Table.from_pylist([{name: row.get(name) for name in schema.names} for row in rows], schema=schema)


def _model(folder: Path, recipe: Recipe, spec: FeatureSpec, *, seed: int) -> None:
    users = UserTable(categories=("", "town=x"), numbers=("age",), mean=(30.0,), scale=(10.0,))
    sizes = Sizes(
        width=WIDTH,
        layers=1,
        heads=2,
        hidden=8,
        reach=recipe.sequences.max_context,
        text_width=4,
        id_slots=32,
        categories=3,
        event_types=len(recipe.event_types),
        token_values=len(TOKEN_VALUES),
        user_categories=len(users.categories),
        user_numbers=1,
        click_features=len(spec.click.chosen),
        retention_features=len(spec.retention.chosen),
        bins=len(recipe.retention.bin_ends),
    )
    torch.manual_seed(seed)
    network = Network(sizes, recipe.model)
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    save_weights(folder, state, Description(sizes, users))
    vectors = torch.randn(len(ITEM_IDS), WIDTH).numpy()
    np.save(folder / ITEM_VECTORS, vectors.astype(np.float32))
