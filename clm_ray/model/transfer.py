"""Start weights from another model: what it learned of texts and of sequences, not of its own items, users and features."""

from __future__ import annotations

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


@torch.no_grad()
def start_from(model: Recommender, folder: Path) -> list[str]:
    """Copy the parameters named by TRANSFERRED from a model folder into `model`; returns their names.

    Raises ConfigError where the folder holds no weights, or none that fit, or one of another size.
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
    taken = []
    for name, mine in model.named_parameters():
        if not name.startswith(TRANSFERRED) or name not in theirs:
            continue
        if theirs[name].shape != mine.shape:
            raise ConfigError(
                f"{name} is {list(theirs[name].shape)} there and {list(mine.shape)} here",
                field="train.start_from",
                value=str(folder),
                fix="use the same encoder, model.width, model.layers and model.heads as there",
            )
        mine.copy_(theirs[name])
        taken.append(name)
    if not taken:
        raise ConfigError(
            "nothing of that model fits this one",
            field="train.start_from",
            value=str(folder),
            fix="use the same kind of encoder and interactions",
        )
    return taken
