"""Start weights from another model: what it learned of texts and of sequences, not of its own items, users and features.

Layers of the text tower are matched by their place in the encoder, counted from its embeddings: how many of them are trained, and whether by
adapters, may differ on the two sides.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from clm_ray.errors import ConfigError
from clm_ray.model.files import WEIGHTS
from clm_ray.model.recommender import Recommender

TRANSFERRED = (
    "tower.",
    "network.text.",
    "network.item_norm.",
    "network.blocks.",
    "network.user_norm.",
    "network.interaction.",
    "network.retrieval.",
)
"""Beginnings of the names of what is taken over. Identifiers, categories, event types and features mean something in one recipe only."""
_LAYER = re.compile(r"^tower\.(lower|upper)\.(\d+)\.(.+)$")
_ADAPTED = re.compile(r"\.base_layer\.(?=[^.]+$)")
"""What an adapter puts before the name of a weight that it adapts."""
_OWN = re.compile(r"^tower\.pool\.|\.lora_[^.]+\.")
"""Of a text tower, what another one need not have: the pooling's query, and adapters, which are merged in what is saved."""


@torch.no_grad()
def start_from(model: Recommender, folder: Path) -> list[str]:
    """Copy the parameters named by TRANSFERRED from a model folder into `model`; returns their names.

    Raises ConfigError where the folder holds no weights, or none that fit, or one of another size, or another kind of encoder.
    """
    try:
        theirs = load_file(folder / WEIGHTS)
    except (OSError, SafetensorError) as error:
        raise ConfigError(
            f"no weights to start from: {error}",
            field="train.start_from",
            value=str(folder),
            fix="give the folder of a release, or `model` in the folder of a run",
        ) from error
    mine = dict(model.named_parameters())
    there, here = _by_layer(theirs), _by_layer(mine)
    _check_tower(here, there, folder)
    taken = []
    for place, name in here.items():
        if not name.startswith(TRANSFERRED) or place not in there:
            continue
        weight = theirs[there[place]]
        if weight.shape != mine[name].shape:
            raise ConfigError(
                f"{place} is {list(weight.shape)} there and {list(mine[name].shape)} here",
                field="train.start_from",
                value=str(folder),
                fix="use the same encoder, model.width, model.layers and model.heads as there",
            )
        mine[name].copy_(weight)
        taken.append(name)
    if not taken:
        raise ConfigError(
            "nothing of that model fits this one",
            field="train.start_from",
            value=str(folder),
            fix="use the same kind of encoder and interactions",
        )
    return taken


def _by_layer(names: Iterable[str]) -> dict[str, str]:
    """Name without cut and adapters → name: layers of the text tower are counted from the encoder's embeddings."""
    names = list(names)
    layers = [match for name in names if (match := _LAYER.match(name))]
    cut = len({match[2] for match in layers if match[1] == "lower"})
    found = {}
    for name in names:
        place = name
        if match := _LAYER.match(name):
            place = f"tower.layers.{int(match[2]) + (cut if match[1] == 'upper' else 0)}.{match[3]}"
        found[_ADAPTED.sub(".", place)] = name
    return found


def _check_tower(here: Mapping[str, str], there: Mapping[str, str], folder: Path) -> None:
    """Where both have a text tower, it must be of the same encoder: a part of another one would be no encoder at all."""
    mine, theirs = ({p for p in side if p.startswith("tower.") and not _OWN.search(p)} for side in (here, there))
    if mine and theirs and (not mine <= theirs or _layers(mine) != _layers(theirs)):
        raise ConfigError(
            f"the text tower there is of another encoder: it has {_layers(theirs)} layers, here are {_layers(mine)}, and "
            f"{len(mine - theirs)} of the weights here are not among its own",
            field="train.start_from",
            value=str(folder),
            fix="use the encoder that the other model has (model.encoder.name)",
        )


def _layers(places: Iterable[str]) -> int:
    return len({place.split(".")[2] for place in places if place.startswith("tower.layers.")})
