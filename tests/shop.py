"""A tiny shop with structure that a model can learn, in files whose columns are named as no contract names them.

Each customer likes two families of goods (the family's word is in the title) and visits at a rate of their own; some stop
coming. A visit happens on one of three pages whose offers change weekly; what is bought depends on the offers and the liking.
"""

from __future__ import annotations

import csv
import datetime as dt
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

START = dt.datetime(2024, 1, 1, tzinfo=dt.UTC)
FAMILIES = ("bread", "cheese", "coffee", "garden", "toys")
_LOOKS = ("red", "plain", "large", "small", "old", "fresh", "double", "light")
_PAGES = ("front", "deals", "new")
_OFFERED = 15
_ENDINGS = {"parquet": ".parquet", "csv": ".csv", "jsonl": ".jsonl"}


def write_shop(
    folder: Path,
    *,
    users: int = 60,
    items: int = 40,
    days: int = 120,
    seed: int = 0,
    format: str = "parquet",
    availability: bool = True,
) -> dict[str, Any]:
    """Write the shop's tables below `folder`; return its recipe as plain data for `recipe_from`.

    The caller fills in `recipe["model"]["encoder"]["name"]`. Deterministic in all arguments. Without `availability`, negatives
    come from popularity. Times: Arrow timestamps in Parquet, ISO strings in CSV, milliseconds in JSON lines.
    """
    rng = np.random.default_rng(seed)
    offers = _offers(rng, items=items, days=days)
    goods = [_good(rng, number=number) for number in range(items)]
    tables: dict[str, Sequence[dict[str, Any]]] = {
        "goods": goods,
        "members": [_member(number, rng) for number in range(users)],
        "receipts": _receipts(rng, users=users, days=days, goods=goods, offers=offers),
    }
    if availability:
        tables["offers"] = [{"place": slot, "sku": sku} for slot, skus in offers.items() for sku in skus]
    paths = {name: folder / f"{name}{_ENDINGS[format]}" for name in tables}
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in tables.items():
        _write(paths[name], rows, format=format)
    return _recipe(paths, days=days, format=format)


def _offers(rng: np.random.Generator, *, items: int, days: int) -> dict[str, list[int]]:
    slots = [f"{page}/{week}" for week in range(days // 7 + 1) for page in _PAGES]
    return {s: sorted((1000 + rng.choice(items, min(_OFFERED, items), replace=False)).tolist()) for s in slots}


def _good(rng: np.random.Generator, *, number: int) -> dict[str, Any]:
    family = FAMILIES[number % len(FAMILIES)]
    look = _LOOKS[(number // len(FAMILIES)) % len(_LOOKS)]
    return {
        "sku": 1000 + number,
        "title": f"{look} {family} {number}",
        "family": family,
        "tags": f"{family}|{look}",
        "tag_price": round(float(rng.uniform(1, 20)), 2),
        # Every seventh good has no picture.
        "picture": [number % len(FAMILIES) / 2, number / 10, 1.5] if number % 7 else None,
    }


def _member(number: int, rng: np.random.Generator) -> dict[str, Any]:
    return {
        "customer": f"c{number:03d}",
        "segment": ("town", "country")[number % 2],
        "age": int(rng.integers(18, 80)),
        "may_contact": bool(rng.random() < 0.8),
        "zone": ("Europe/Berlin", "America/New_York")[number % 2],
    }


def _receipts(
    rng: np.random.Generator, *, users: int, days: int, goods: Sequence[dict[str, Any]], offers: dict[str, list[int]]
) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for number in range(users):
        liked = set(rng.choice(FAMILIES, 2, replace=False).tolist())
        rate = float(rng.choice([0.08, 0.2, 0.5]))
        last_day = int(rng.integers(days // 3, days)) if rng.random() < 0.3 else days
        for day in range(last_day):
            if day % 30 == number % 30:
                rows.append(_row(number, day=day, second=0, action="mail", sku=None, price=None, page=None))
            if rng.random() >= rate:
                continue
            page = f"{_PAGES[int(rng.integers(len(_PAGES)))]}/{day // 7}"
            second = int(rng.integers(8 * 3600, 20 * 3600))
            for sku in offers[page]:
                good = goods[sku - 1000]
                if rng.random() < (0.4 if good["family"] in liked else 0.04):
                    price = round(good["tag_price"] * float(rng.uniform(0.9, 1.0)), 2)
                    rows.append(_row(number, day=day, second=second, action="bought", sku=sku, price=price, page=page))
    return rows


def _row(
    number: int, *, day: int, second: int, action: str, sku: int | None, price: float | None, page: str | None
) -> dict[str, Any]:
    at = START + dt.timedelta(days=day, seconds=second)
    return {"customer": f"c{number:03d}", "sku": sku, "action": action, "at": at, "price": price, "page": page}


def _write(path: Path, rows: Sequence[dict[str, Any]], *, format: str) -> None:
    if format == "parquet":
        pq.write_table(pa.Table.from_pylist(list(rows)), path)
        return
    with path.open("w", newline="", encoding="utf-8") as file:
        if format == "csv":
            writer = csv.DictWriter(file, fieldnames=list(rows[0]))
            writer.writeheader()
            writer.writerows(
                {k: v.isoformat() if isinstance(v, dt.datetime) else v for k, v in r.items()} for r in rows
            )
            return
        for row in rows:
            plain = {k: int(v.timestamp() * 1000) if isinstance(v, dt.datetime) else v for k, v in row.items()}
            file.write(json.dumps(plain) + "\n")


def _recipe(paths: dict[str, Path], *, days: int, format: str) -> dict[str, Any]:
    def table(name: str, **more: Any) -> dict[str, Any]:
        return {"paths": [str(paths[name])], "format": format, **more}

    named = {"user_id": "customer", "item_id": "sku", "event_type": "action", "timestamp": "at", "value": "price"}
    source = {
        "kind": "files",
        "events": table(
            "receipts",
            columns={**named, "slot": "page"},
            context_columns=["slot"],
            event_type_map={"bought": "purchase", "mail": "newsletter"},
        ),
        "items": table(
            "goods",
            columns={"item_id": "sku"},
            text="{title}, {family}",
            categories=["tags"],
            separator="|",
            numeric=["tag_price"],
            vectors="picture",
        ),
        "users": table(
            "members",
            columns={"user_id": "customer"},
            categorical=["segment"],
            numeric=["age"],
            consent="may_contact",
            timezone_column="zone",
        ),
    }
    if "offers" in paths:
        source["availability"] = table("offers", columns={"slot": "place", "item_id": "sku"})
    day = {name: (START + dt.timedelta(days=round(days * share))).date().isoformat() for name, share in _CUTS.items()}
    return {
        "name": "shop",
        "description": "A tiny synthetic shop.",
        "source": source,
        "event_types": {
            "purchase": {"roles": ["positive", "context", "activity"], "value": "amount"},
            "newsletter": {"roles": ["context"]},
            "impression": {"roles": []},
            "click": {"roles": ["positive", "context", "activity"]},
        },
        "split": {"protocol": "time", **day},
        "impressions": {
            "negatives": "availability" if "offers" in paths else "popularity",
            "per_occasion": 4,
            "attribution_hours": None,
            "test_occasions": 60,
            "catalogue_occasions": 20,
        },
        "sequences": {"max_context": 16, "body": 16, "buckets": 2},
        "model": {
            "encoder": {"name": "FILL-IN", "max_tokens": 16, "trained_layers": 1, "items_per_step": 16},
            "width": 16,
            "layers": 1,
            "heads": 2,
            "hidden": 16,
            "id_buckets": 16,
        },
        "train": {"epochs": 2, "windows_per_step": 8, "min_steps": 1, "retrieval_negatives": 16, "log_every": 5},
        "serve": {"clock": "log_end"},
    }


_CUTS = {"train_end": 0.65, "valid_end": 0.8}
