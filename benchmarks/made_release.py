"""A release with a made catalogue of any size: random weights and vectors, the shapes of a recipe. It takes as long to serve as a trained one.

Shape letters: I item rows, K statistics rows, D width.
"""

from __future__ import annotations

import json
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from clm_ray.config.recipe import Recipe
from clm_ray.config.workspace import DONE, Workspace
from clm_ray.features.spec import FeatureSpec, Selection, click_feature_names, retention_feature_names
from clm_ray.features.statistics import ItemStatistics
from clm_ray.features.tokens import TOKEN_VALUES
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.model.files import ITEM_VECTORS, Description, save_weights
from clm_ray.model.items import UserTable
from clm_ray.model.network import Network, Sizes
from clm_ray.release.publish import fill_store, publish
from clm_ray.schema import DAY_US, ITEM_STATISTICS, ITEMS, NEIGHBOURS, USERS
from clm_ray.store.history import StoredHistory
from clm_ray.store.store import open_store
from clm_ray.train.export import export_model, item_vectors
from clm_ray.train.run import git_revision
from clm_ray.train.setup import assemble, open_dataset

NOW_US = 17_500 * DAY_US
"""A moment after all that is made here."""
_DEPARTMENTS, _SHELVES = 30, 300


def make_release(workspace: Workspace, recipe: Recipe, *, items: int, users: int, events: int, seed: int = 0) -> Path:
    """Write a release of `items` items and make it current, and give the store `users` users with `events` events each."""
    rng = np.random.default_rng(seed)
    name = f"made-{items}"
    folder = workspace.releases / name
    folder.mkdir(parents=True, exist_ok=True)
    ids = ["", *(f"{n:08d}" for n in range(1, items + 1))]
    (folder / "recipe.yaml").write_text(recipe.to_yaml(), encoding="utf-8")
    spec = FeatureSpec(_every(click_feature_names(recipe)), _every(retention_feature_names(recipe)))
    (folder / "features.json").write_text(json.dumps(spec.to_dict()), encoding="utf-8")
    thresholds = Thresholds(new_days=28.0, at_risk_days=14.0, churned_days=60.0, reactivated_days=28.0)
    manifest = {"id": name, "parents": {}, "thresholds": thresholds.to_dict()}
    (folder / "manifest.json").write_text(json.dumps(manifest), encoding="utf-8")
    _tables(folder, ids, users=users, rng=rng)
    _model(folder, recipe, spec, items=len(ids), rng=rng, seed=seed)
    workspace.point("releases", name)
    with open_store(workspace.store_url) as store:
        store.load_base(
            ((h, [f"{h.user_id}-{n}" for n in range(len(h))]) for h in _histories(ids, users, events, rng)),
            dataset=name,
        )
        if recipe.serve.clock == "log_end":
            store.set_clock_offset_once(NOW_US - time.time_ns() // 1000)
    return folder


def _every(names: tuple[str, ...]) -> Selection:
    return Selection(names, names, {}, (0.0,) * len(names), (1.0,) * len(names))


def _tables(folder: Path, ids: list[str], *, users: int, rng: np.random.Generator) -> None:
    shelf_I = rng.integers(_SHELVES, size=len(ids)).tolist()
    rows: list[dict[str, object]] = [
        {
            "item_id": item,
            "text": f"product {item}" if item else "",
            "categories": [f"department:{shelf % _DEPARTMENTS}", f"shelf:{shelf}"] if item else [],
        }
        for item, shelf in zip(ids, shelf_I, strict=True)
    ]
    pq.write_table(_table(rows, ITEMS), folder / "items.parquet")
    people: list[dict[str, object]] = [{"user_id": f"u{n}", "consent": True, "timezone": "UTC"} for n in range(users)]
    pq.write_table(_table(people, USERS), folder / "users.parquet")
    sold = rng.zipf(1.5, size=10 * len(ids)) % (len(ids) - 1) + 1
    day = 17_400 + rng.integers(100, size=len(sold))
    once = np.ones(len(sold))
    key, where = np.unique(sold * 100_000 + day, return_inverse=True)
    count = np.bincount(where, once).astype(np.float64)
    statistics = ItemStatistics.from_daily(
        (key // 100_000).astype(np.int32), (key % 100_000).astype(np.int32), count, count, 3.0 * count
    )
    pq.write_table(pa.table(statistics.columns(), schema=ITEM_STATISTICS), folder / "item_statistics.parquet")
    pq.write_table(NEIGHBOURS.empty_table(), folder / "neighbours.parquet")


def _table(rows: list[dict[str, object]], schema: pa.Schema) -> pa.Table:
    return pa.table({f.name: pa.array([row.get(f.name) for row in rows], f.type) for f in schema}, schema=schema)


def _histories(ids: list[str], users: int, events: int, rng: np.random.Generator) -> list[StoredHistory]:
    found = []
    for n in range(users):
        rows = np.sort(rng.choice(len(ids) - 1, size=min(events, len(ids) - 1), replace=False)) + 1
        code_N = rng.integers(len(rows), size=events).astype(np.int32)
        time_N = np.sort(NOW_US - rng.integers(DAY_US, 90 * DAY_US, size=events))
        found.append(
            StoredHistory(
                user_id=f"u{n}",
                items=tuple(ids[row] for row in rows),
                types=("purchase",),
                item_code_N=code_N,
                type_code_N=np.zeros(events, np.int16),
                value_N=rng.gamma(2.0, 2.0, size=events).round(2),
                time_N=time_N.astype(np.int64),
            )
        )
    return found


def _model(folder: Path, recipe: Recipe, spec: FeatureSpec, *, items: int, rng: np.random.Generator, seed: int) -> None:
    users = UserTable(categories=("",), numbers=(), mean=(), scale=())
    sizes = Sizes(
        width=recipe.model.width,
        layers=recipe.model.layers,
        heads=recipe.model.heads,
        hidden=recipe.model.hidden,
        reach=recipe.sequences.max_context,
        text_width=4,
        id_slots=32,
        categories=_DEPARTMENTS + _SHELVES + 1,
        event_types=len(recipe.event_types),
        token_values=len(TOKEN_VALUES),
        user_categories=1,
        user_numbers=0,
        click_features=len(spec.click.chosen),
        retention_features=len(spec.retention.chosen),
        bins=len(recipe.retention.bin_ends),
    )
    torch.manual_seed(seed)
    network = Network(sizes, recipe.model)
    state = {f"network.{name}": tensor for name, tensor in network.state_dict().items()}
    save_weights(folder, state, Description(sizes, users))
    # Items lie in clusters, as learned vectors do: an index finds its way among those, and not in white noise.
    centre = rng.normal(size=(_SHELVES, recipe.model.width))
    vectors = centre[rng.integers(_SHELVES, size=items)] + 0.5 * rng.normal(size=(items, recipe.model.width))
    np.save(folder / ITEM_VECTORS, vectors.astype(np.float32))


def untrained(workspace: Workspace, recipe: Recipe) -> Path:
    """Publish the current dataset with the weights that training starts from (item vectors without their texts), and fill the store. Serving it
    takes exactly as long as serving the trained model."""
    dataset = workspace.current("datasets")
    prepared = open_dataset(dataset, recipe)
    assembled = assemble(prepared)
    rng = np.random.default_rng(0)
    texts = torch.from_numpy(
        rng.normal(size=(len(prepared.items.texts), assembled.description.sizes.text_width)).astype(np.float32)
    )
    assembled.model.eval()
    run = workspace.runs / "untrained"
    run.mkdir(parents=True, exist_ok=True)
    export_model(
        run / "model",
        assembled=assembled,
        prepared=prepared,
        state=dict(assembled.model.state_dict()),
        vectors=item_vectors(assembled, prepared, texts),
        frozen=texts.numpy(),
        history={"dataset": dataset.name, "git": git_revision()},
    )
    (run / DONE).write_text(dataset.name, encoding="utf-8")
    release = publish(workspace, run=run, dataset=dataset, evaluation=None, recipe=recipe)
    with open_store(workspace.store_url) as store:
        fill_store(store, dataset, clock=recipe.serve.clock, wall_us=time.time_ns() // 1000)
    return release.folder
