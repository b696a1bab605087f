"""The model folder: everything that scoring needs, as plain files. Weights are safetensors only.

model.safetensors  model.json  encoder/  item_vectors.npy  item_text.npy  frozen_text_vectors.npy
items.parquet  users.parquet  item_statistics.parquet  neighbours.parquet  features.json  recipe.yaml  training.json
item_factors.npy  factors.safetensors      with model.factors
"""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
import yaml
from safetensors.torch import load_file, save_file

from clm_ray.config.recipe import Recipe, recipe_from
from clm_ray.errors import ReleaseError
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.neighbours import ItemNeighbours
from clm_ray.features.spec import FeatureSpec
from clm_ray.features.statistics import STATISTICS, ItemStatistics
from clm_ray.model.calibration import IDENTITY, Calibration
from clm_ray.model.factors import Factors
from clm_ray.model.item_index import INDEX, ItemIndex
from clm_ray.model.items import ItemVectors, UserTable
from clm_ray.model.network import Network, Sizes
from clm_ray.model.retention_calibration import UNCALIBRATED, RetentionCalibration
from clm_ray.model.stacking import ALONE, Stacking
from clm_ray.model.text import TextTower
from clm_ray.schema import NEIGHBOURS

WEIGHTS = "model.safetensors"
DESCRIPTION = "model.json"
ITEM_VECTORS = "item_vectors.npy"
ENCODER = "encoder"
TABLES = (
    "items.parquet",
    "users.parquet",
    "item_statistics.parquet",
    "neighbours.parquet",
    "features.json",
    "recipe.yaml",
)
"""Files taken over from the dataset as they are."""


@dataclass(frozen=True)
class Description:
    """model.json: shapes, the user vocabulary, the calibrations of click probabilities and of chances to come back, and how click logits are
    stacked with expected ratings."""

    sizes: Sizes
    users: UserTable
    calibration: Calibration = IDENTITY
    retention: RetentionCalibration = UNCALIBRATED
    stacking: Stacking = ALONE

    def to_dict(self) -> dict[str, Any]:
        """Plain data for JSON."""
        return {
            "sizes": asdict(self.sizes),
            "users": asdict(self.users),
            "calibration": asdict(self.calibration),
            "retention_calibration": self.retention.to_dict(),
            "stacking": asdict(self.stacking),
        }

    @staticmethod
    def from_dict(raw: dict[str, Any]) -> Description:
        """Inverse of `to_dict`. Models made before there was a calibration of the chances to come back, or stacking, answer as they did."""
        users = {name: tuple(values) for name, values in raw["users"].items()}
        calibrated = "retention_calibration" in raw
        return Description(
            Sizes(**raw["sizes"]),
            UserTable(**users),
            Calibration.from_dict(raw["calibration"]),
            RetentionCalibration.from_dict(raw["retention_calibration"]) if calibrated else UNCALIBRATED,
            Stacking(**raw.get("stacking", {})),
        )


def save_weights(folder: Path, state: dict[str, torch.Tensor], description: Description) -> None:
    """Write model.safetensors and model.json."""
    save_file({name: t.detach().cpu().contiguous().clone() for name, t in state.items()}, folder / WEIGHTS)
    (folder / DESCRIPTION).write_text(json.dumps(description.to_dict(), indent=1), encoding="utf-8")


@dataclass(frozen=True)
class ModelFolder:
    """An opened model folder."""

    folder: Path

    @staticmethod
    def open(folder: Path) -> ModelFolder:
        """Raises ReleaseError naming the first file that is missing."""
        for name in (WEIGHTS, DESCRIPTION, ITEM_VECTORS, *TABLES):
            if not (folder / name).is_file():
                raise ReleaseError(
                    "a file of the model is missing", field="model", value=str(folder / name), fix="run jobs/train.py"
                )
        return ModelFolder(folder)

    def recipe(self) -> Recipe:
        """The recipe it was trained with."""
        return recipe_from(yaml.safe_load((self.folder / "recipe.yaml").read_text(encoding="utf-8")))

    def description(self) -> Description:
        """Shapes and user vocabulary."""
        return Description.from_dict(json.loads((self.folder / DESCRIPTION).read_text(encoding="utf-8")))

    def features(self) -> FeatureSpec:
        """Feature selection and scale."""
        return FeatureSpec.from_dict(json.loads((self.folder / "features.json").read_text(encoding="utf-8")))

    def catalogue(self) -> Catalogue:
        """Item rows."""
        items = pq.read_table(self.folder / "items.parquet", columns=["item_id", "text", "categories"])
        return Catalogue.build(*(items.column(name).to_pylist() for name in ("item_id", "text", "categories")))

    def statistics(self) -> ItemStatistics:
        """Dated item statistics, as they stood when the model was released: questions come later, new counts do not."""
        table = pq.read_table(self.folder / "item_statistics.parquet")
        columns = (table.column(n).to_numpy() for n in STATISTICS)
        return ItemStatistics(*columns).as_released()

    def neighbours(self) -> ItemNeighbours:
        """Item neighbours; their last slice closed with the log."""
        table = pq.read_table(self.folder / "neighbours.parquet")
        return ItemNeighbours.from_rows(*(table.column(name).to_numpy() for name in NEIGHBOURS.names))

    def users(self) -> pa.Table:
        """The user table."""
        return pq.read_table(self.folder / "users.parquet")

    def item_vectors(self) -> np.ndarray[Any, np.dtype[np.float32]]:
        """Item vectors [I, D], mapped into memory: the processes of a node share one copy. What is written to them stays in this process."""
        return np.load(self.folder / ITEM_VECTORS, mmap_mode="c")

    def index(self) -> ItemIndex | None:
        """The index of the item vectors, where the release has one."""
        return ItemIndex.open(self.folder / INDEX, self.item_vectors())

    def factors(self) -> Factors | None:
        """The matrix factorisation of the ratings, where the model has one."""
        return Factors.open(self.folder)

    def further_vectors(self) -> ItemVectors:
        """What the items bring along beside their texts."""
        return ItemVectors.of(pq.read_table(self.folder / "items.parquet"))

    def network(self) -> Network:
        """The network with its trained weights, in eval mode. Raises ReleaseError where they are those of another network."""
        network = Network(self.description().sizes, self.recipe().model)
        try:
            network.load_state_dict(self._weights("network."))
        except RuntimeError as error:
            raise ReleaseError(
                "the weights are not those of the network that this version builds of the recipe",
                field="model",
                value=str(self.folder / WEIGHTS),
                fix="train and publish again, or serve it with the version that made it",
            ) from error
        return network.eval()

    def text_tower(self) -> tuple[TextTower, Any]:
        """(text tower with its trained weights, in eval mode; tokenizer): what new items are encoded with.

        Raises ReleaseError where the model was trained without text.
        """
        from transformers import AutoConfig, AutoModel, AutoTokenizer

        if not (self.folder / ENCODER).is_dir():
            raise ReleaseError("the model has no text tower", field="model", value=str(self.folder / ENCODER))
        config = self.recipe().model.encoder
        encoder = AutoModel.from_config(AutoConfig.from_pretrained(self.folder / ENCODER))
        tower = TextTower(encoder, trained_layers=config.trained_layers, pooling=config.pooling)
        tower.load_state_dict(self._weights("tower."))
        return tower.eval(), AutoTokenizer.from_pretrained(self.folder / ENCODER)

    def _weights(self, prefix: str) -> dict[str, torch.Tensor]:
        state = load_file(self.folder / WEIGHTS)
        return {n.removeprefix(prefix): t for n, t in state.items() if n.startswith(prefix)}


def columns_of(table: pa.Table, name: str) -> list[dict[str, Any]]:
    """A map column as one dict per row (empty where null)."""
    return [dict(row) if row else {} for row in table.column(name).to_pylist()]
