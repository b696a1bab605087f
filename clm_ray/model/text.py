"""The text tower: any Hugging Face encoder of the BERT family, cut into a frozen lower and a trained upper part.

The lower part's output of a text never changes, so it is computed once and cached; a step pays for the upper layers only.

Shape letters: X texts, S tokens, H hidden size of the encoder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clm_ray.config.model import EncoderConfig
from clm_ray.errors import AssetError, ConfigError

PACKAGE = "package:"


@dataclass(frozen=True)
class Tokens:
    """Token ids of many texts, ragged: text x is id_V[start[x]:start[x + 1]]."""

    id_V: np.ndarray[Any, np.dtype[np.int32]]
    start: np.ndarray[Any, np.dtype[np.int64]]

    def __len__(self) -> int:
        return len(self.start) - 1

    def lengths(self) -> np.ndarray[Any, np.dtype[np.int64]]:
        """Tokens of each text."""
        return np.diff(self.start)

    def batches(self, order: Sequence[int] | np.ndarray[Any, Any], size: int) -> Iterator[tuple[Any, Tensor, Tensor]]:
        """(texts, ids_XS, mask_XS) in groups of similar length: padding is waste."""
        by_length = np.asarray(order)[np.argsort(self.lengths()[order], kind="stable")]
        for first in range(0, len(by_length), size):
            texts = by_length[first : first + size]
            yield texts, *self.padded(texts)

    def padded(self, texts: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor]:
        """ids_XS (0 where padded) and mask_XS."""
        lengths = self.lengths()[texts]
        mask = np.arange(int(lengths.max(initial=1)))[None, :] < lengths[:, None]
        ids = np.zeros(mask.shape, np.int64)
        rows, cols = np.nonzero(mask)
        ids[rows, cols] = self.id_V[self.start[texts][rows] + cols]
        return torch.from_numpy(ids), torch.from_numpy(mask)


def encoder_path(config: EncoderConfig) -> str:
    """Where the encoder's files are: inside a pip package, a local folder, or a hub name.

    Raises AssetError: package missing, no model in it, or another digest than the recipe pins.
    """
    if not config.name.startswith(PACKAGE):
        _verify(Path(config.name) / "model.safetensors", config) if Path(config.name).is_dir() else None
        return config.name
    fix = "pip install 'clm-ray[demo]', or name a local folder or hub model"
    root = _package_folder(config.name.removeprefix(PACKAGE))
    if root is None:
        raise AssetError(
            "the package with the encoder is not installed", field="model.encoder.name", value=config.name, fix=fix
        )
    folders = sorted(p.parent for p in root.rglob("config.json") if (p.parent / "model.safetensors").is_file())
    if not folders:
        raise AssetError("no model in the package", field="model.encoder.name", value=config.name, fix=fix)
    _verify(folders[0] / "model.safetensors", config)
    return str(folders[0])


def _package_folder(name: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ModuleNotFoundError, ValueError):  # a part of a dotted name is missing; no name at all
        return None
    found = spec.submodule_search_locations if spec is not None else None
    return Path(next(iter(found))) if found else None


def _verify(weights: Path, config: EncoderConfig) -> None:
    if config.sha256 is None:
        return
    if not weights.is_file():
        raise AssetError(
            "the folder has no model.safetensors to check",
            field="model.encoder.name",
            value=config.name,
            fix="give a folder with safetensors weights, or set model.encoder.sha256=null",
        )
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != config.sha256:
        raise AssetError(
            "the encoder's weights are not the pinned ones",
            field="model.encoder.sha256",
            value=found,
            fix=f"install the version whose digest is {config.sha256}, or set model.encoder.sha256=null",
        )


def check_encoder(config: EncoderConfig) -> None:
    """Raises AssetError as `load_pretrained` does, from the encoder's description alone: quick, and before any work is begun."""
    from transformers import AutoConfig

    with _telling(config):
        AutoConfig.from_pretrained(encoder_path(config))


def load_pretrained(config: EncoderConfig) -> tuple[nn.Module, Any]:
    """(encoder in float32, tokenizer). Raises AssetError where the model cannot be had."""
    from transformers import AutoModel, AutoTokenizer

    with _telling(config):
        path = encoder_path(config)
        tokenizer = AutoTokenizer.from_pretrained(path)
        return AutoModel.from_pretrained(path, dtype=torch.float32, attn_implementation="sdpa"), tokenizer


@contextmanager
def _telling(config: EncoderConfig) -> Iterator[None]:
    """What goes wrong while an encoder is loaded, told in our own way."""
    try:
        yield
    except (OSError, ValueError, SafetensorError) as error:
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") == "1" else ""
        raise AssetError(
            f"the encoder cannot be loaded{offline}: {str(error).splitlines()[0]}",
            field="model.encoder.name",
            value=config.name,
            fix="give a local folder with config.json, model.safetensors and the tokenizer, or go online",
        ) from error


def tokenize(texts: Sequence[str], tokenizer: Any, *, max_tokens: int) -> Tokens:
    """Token ids of every text, cut at `max_tokens`."""
    found = tokenizer(list(texts), truncation=True, max_length=max_tokens, add_special_tokens=True)["input_ids"]
    start = np.zeros(len(found) + 1, np.int64)
    np.cumsum([len(ids) for ids in found], out=start[1:])
    flat = np.fromiter((i for ids in found for i in ids), np.int32, count=int(start[-1]))
    return Tokens(flat, start)


class TextTower(nn.Module):
    """An encoder whose top `trained_layers` layers are trained; the rest, the embeddings always, is frozen."""

    def __init__(self, encoder: nn.Module, *, trained_layers: int, pooling: str) -> None:
        super().__init__()
        self.embeddings: nn.Module = _part(encoder, "embeddings")
        layers = _layers(encoder)
        if trained_layers > len(layers):
            raise ConfigError(
                "more layers than the encoder has",
                field="model.encoder.trained_layers",
                value=trained_layers,
                fix=f"at most {len(layers)}",
            )
        cut = len(layers) - trained_layers
        self.lower = nn.ModuleList(layers[:cut])
        self.upper = nn.ModuleList(layers[cut:])
        self.pooling = pooling
        self.recompute = False  # the upper layers in the backward pass, instead of keeping what they computed
        self.hidden = int(encoder.config.hidden_size)  # type: ignore[union-attr, arg-type]
        self.embeddings.requires_grad_(False)
        self.lower.requires_grad_(False)

    def lower_states(self, ids_XS: Tensor, mask_XS: Tensor) -> Tensor:
        """[X, S, H] after embeddings and frozen layers."""
        states = self.embeddings(input_ids=ids_XS)
        return self._run(self.lower, states, mask_XS)

    def pooled(self, states_XSH: Tensor, mask_XS: Tensor) -> Tensor:
        """Text vectors t [X, H] from the lower part's states."""
        recompute = self.recompute and torch.is_grad_enabled()
        states = self._run(self.upper, states_XSH, mask_XS, recompute=recompute)
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":
            last = mask_XS.sum(1) - 1
            return states[torch.arange(len(states), device=states.device), last]
        weight = mask_XS.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)

    def forward(self, ids_XS: Tensor, mask_XS: Tensor) -> Tensor:
        """Text vectors t [X, H] from token ids."""
        return self.pooled(self.lower_states(ids_XS, mask_XS), mask_XS)

    @staticmethod
    def _run(layers: nn.ModuleList, states: Tensor, mask_XS: Tensor, *, recompute: bool = False) -> Tensor:
        allowed = mask_XS[:, None, None, :]
        bias = torch.zeros_like(allowed, dtype=states.dtype).masked_fill(~allowed, torch.finfo(states.dtype).min)
        for layer in layers:
            out: Any = (
                checkpoint(layer, states, attention_mask=bias, use_reentrant=False)
                if recompute
                else layer(states, attention_mask=bias)
            )
            states = out if isinstance(out, Tensor) else out[0]
        return states


def _part(encoder: nn.Module, name: str) -> nn.Module:
    part = getattr(encoder, name, None)
    if not isinstance(part, nn.Module):
        raise ConfigError(
            f"an encoder of type {type(encoder).__name__} has no `{name}`",
            field="model.encoder.name",
            fix="use a model of the BERT family (BERT, RoBERTa, MiniLM, ...)",
        )
    return part


def _layers(encoder: nn.Module) -> list[nn.Module]:
    layers = getattr(_part(encoder, "encoder"), "layer", None)
    if not isinstance(layers, nn.ModuleList):
        raise ConfigError(
            f"an encoder of type {type(encoder).__name__} has no `encoder.layer`",
            field="model.encoder.name",
            fix="use a model of the BERT family (BERT, RoBERTa, MiniLM, ...)",
        )
    return list(layers)
