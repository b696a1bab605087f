"""Item vectors of items that the model was not trained with: the same text tower, the same function as in training.

Shape letters: N new items, D width, M width of the further vectors.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from clm_ray.errors import ReleaseError
from clm_ray.features.catalogue import Catalogue
from clm_ray.model.files import ModelFolder
from clm_ray.model.items import bucket_slot
from clm_ray.model.network import ItemInputs, Network
from clm_ray.model.text import TextTower, tokenize

_TEXTS_PER_PASS = 32


@dataclass(frozen=True)
class NewItem:
    """What an item's vector is made of. vector: further vectors of the length that the model was trained with; any other counts as none."""

    item_id: str
    text: str
    categories: tuple[str, ...]
    vector: tuple[float, ...] | None = None


class ItemEncoder:
    """Makes item vectors on the CPU, exactly as training made those of the catalogue."""

    def __init__(
        self,
        *,
        network: Network,
        text: tuple[TextTower, object] | None,
        max_tokens: int,
        known: Catalogue,
        slot_I: NDArray[np.int32],
        buckets: int,
    ) -> None:
        self._network = network
        self._text = text
        self._max_tokens = max_tokens
        self._known = known
        self._slot_I = slot_I
        self._buckets = buckets
        self._code = {name: code for code, name in enumerate(known.categories)}

    @staticmethod
    def open(folder: Path, *, threads: int = 1) -> ItemEncoder:
        """Open a model folder or a release. Raises ReleaseError where a file is missing. Sets torch's thread count."""
        torch.set_num_threads(threads)
        files = ModelFolder.open(folder)
        recipe = files.recipe()
        slots = folder / "item_slot.npy"
        if not slots.is_file():
            raise ReleaseError(
                "a file of the model is missing", field="model", value=str(slots), fix="run jobs/train.py"
            )
        return ItemEncoder(
            network=files.network(),
            text=files.text_tower() if recipe.model.use_text else None,
            max_tokens=recipe.model.encoder.max_tokens,
            known=files.catalogue(),
            slot_I=np.load(slots),
            buckets=recipe.model.id_buckets,
        )

    @torch.inference_mode()
    def encode(self, items: Sequence[NewItem]) -> NDArray[np.float32]:
        """float32 [N, D]. Categories that the model does not know count as none; an item of the catalogue keeps its identifier."""
        if not items:
            return np.empty((0, self._network.sizes.width), np.float32)
        vectors = self._network.item_vectors(self._texts([item.text for item in items]), self._inputs(items))
        return vectors.float().numpy()

    def _texts(self, texts: Sequence[str]) -> torch.Tensor:
        """[N, H] text vectors; empty where the model reads no texts."""
        if self._text is None:
            return torch.zeros(len(texts), 0)
        tower, tokenizer = self._text
        tokens = tokenize(texts, tokenizer, max_tokens=self._max_tokens)
        found = torch.zeros(len(texts), tower.hidden)
        for which, ids, mask in tokens.batches(range(len(texts)), _TEXTS_PER_PASS):
            found[torch.from_numpy(which)] = tower(ids, mask)
        return found

    def _inputs(self, items: Sequence[NewItem]) -> ItemInputs:
        codes = [sorted({self._code.get(name, 0) for name in item.categories} - {0}) or [0] for item in items]
        width = self._network.sizes.vector_width
        has = np.array([item.vector is not None and len(item.vector) == width > 0 for item in items])
        vector_NM = np.zeros((len(items), width), np.float32)
        for n in np.flatnonzero(has).tolist():
            vector_NM[n] = items[n].vector
        return ItemInputs(
            text_U=torch.arange(len(items)),
            slot_U=torch.tensor([self._slot(item.item_id) for item in items]),
            category=torch.tensor([code for row in codes for code in row]),
            category_start_U=torch.tensor(np.cumsum([0, *(len(row) for row in codes[:-1])])),
            vector_UM=torch.from_numpy(vector_NM),
            has_vector_U=torch.from_numpy(has),
        )

    def _slot(self, item_id: str) -> int:
        row = self._known.row_of.get(item_id, 0)
        return int(self._slot_I[row]) if row else bucket_slot(item_id, self._buckets)
