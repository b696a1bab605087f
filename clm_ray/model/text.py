"""The text tower: a Hugging Face encoder (`families.py` knows which), cut into a frozen lower and a trained upper part.

The lower part's output of a text never changes, so it is computed once and cached; a step pays for the upper layers only.

Shape letters: X texts, S tokens, H hidden size of the encoder.
"""

from __future__ import annotations

import hashlib
import importlib.util
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from clm_ray.config.model import EncoderConfig, LoraConfig
from clm_ray.errors import AssetError, ConfigError
from clm_ray.model.families import check_family, take_apart
from clm_ray.model.lora import adapt, merged

PACKAGE = "package:"
OFFSET_POSITIONS = ("roberta", "xlm-roberta", "camembert", "data2vec-text", "mpnet")
"""Model types whose first position is the one after the padding token's number."""


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
    """Raises AssetError as `load_pretrained` does, and ConfigError where the tower cannot be made of this encoder, from its
    description alone: quick, and before any work is begun.
    """
    from transformers import AutoConfig

    with _telling(config):
        described = AutoConfig.from_pretrained(encoder_path(config))
    check_family(described)
    most = getattr(described, "max_position_embeddings", None) or 0
    if described.model_type in OFFSET_POSITIONS:
        most -= described.pad_token_id + 1
    if 0 < most < config.max_tokens:
        raise ConfigError(
            "more tokens than the encoder has positions",
            field="model.encoder.max_tokens",
            value=config.max_tokens,
            fix=f"at most {most}",
        )


def load_pretrained(config: EncoderConfig) -> tuple[nn.Module, Any]:
    """(encoder in float32, tokenizer). Raises AssetError where the model cannot be had."""
    from transformers import AutoModel, AutoTokenizer

    with _telling(config):
        path = encoder_path(config)
        tokenizer = AutoTokenizer.from_pretrained(path)
        return AutoModel.from_pretrained(path, dtype=torch.float32), tokenizer


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
    """Token ids of every text, cut at `max_tokens`. One token at least: GPT-2's tokenizer, which adds none, leaves nothing of ""."""
    found = tokenizer(list(texts), truncation=True, max_length=max_tokens, add_special_tokens=True)["input_ids"]
    nothing = next((i for i in (tokenizer.bos_token_id, tokenizer.eos_token_id) if i is not None), 0)
    found = [ids or [nothing] for ids in found]
    start = np.zeros(len(found) + 1, np.int64)
    np.cumsum([len(ids) for ids in found], out=start[1:])
    flat = np.fromiter((i for ids in found for i in ids), np.int32, count=int(start[-1]))
    return Tokens(flat, start)


class Recomputed:
    """A layer whose activations are computed again in the backward pass, instead of being kept."""

    def __init__(self, layer: Callable[..., Any]) -> None:
        self._layer = layer

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer's own call."""
        return checkpoint(self._layer, *args, use_reentrant=False, **kwargs)


class Narrow:
    """A layer that computes in a narrower type altogether, norms and residual sums too, on copies of its parameters made for the call;
    gradients reach the parameters themselves, which stay float32. Autocast would keep half of that work in float32.
    """

    def __init__(self, layer: nn.Module, dtype: torch.dtype) -> None:
        self._layer = layer
        self._dtype = dtype

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """As the layer's own call, with tensors of the narrower type."""
        narrow = {name: p.to(self._dtype) for name, p in self._layer.named_parameters()}
        return torch.func.functional_call(self._layer, narrow, self._cast(args), self._cast(kwargs))

    def _cast(self, value: Any) -> Any:
        if isinstance(value, Tensor):
            return value.to(self._dtype) if value.is_floating_point() else value
        if isinstance(value, dict):
            return {name: self._cast(one) for name, one in value.items()}
        return type(value)(map(self._cast, value)) if type(value) in (tuple, list) else value


class AttentionPool(nn.Module):
    """The mean of the token states, weighted by a learned query (Yang et al., 2016); it begins as the plain mean."""

    def __init__(self, hidden: int) -> None:
        super().__init__()
        self.query = nn.Parameter(torch.zeros(hidden))

    def forward(self, states_XSH: Tensor, mask_XS: Tensor) -> Tensor:
        """[X, H]."""
        score_XS = states_XSH @ self.query.to(states_XSH.dtype) / states_XSH.shape[-1] ** 0.5
        weight_XS = score_XS.masked_fill(~mask_XS, float("-inf")).softmax(-1).to(states_XSH.dtype)
        return (weight_XS.unsqueeze(1) @ states_XSH).squeeze(1)


class TextTower(nn.Module):
    """An encoder whose top `trained_layers` layers are trained, whole or by LoRA; the rest, the embeddings always, is frozen.

    Raises ConfigError: an encoder of an unknown family, more trained layers than it has, a pooling that makes no sense for it.
    """

    def __init__(
        self, encoder: nn.Module, *, trained_layers: int, pooling: str, lora: LoraConfig | None = None
    ) -> None:
        super().__init__()
        parts = take_apart(encoder)
        _check(trained_layers=trained_layers, layers=len(parts.layers), pooling=pooling, first=parts.family.first_token)
        cut = len(parts.layers) - trained_layers
        self.family = parts.family
        self.lower = nn.ModuleList(parts.layers[:cut])
        self.upper = nn.ModuleList(parts.layers[cut:])
        self.norm = parts.norm
        self.pooling = pooling
        self.pool = AttentionPool(parts.hidden) if pooling == "attention" else None
        self.recompute = False  # the upper layers in the backward pass, instead of keeping what they computed
        self.hidden = parts.hidden
        self.family.requires_grad_(False)
        self.lower.requires_grad_(False)
        self.norm.requires_grad_(trained_layers > 0 and lora is None)
        if lora is not None:
            adapt(self.upper, lora, default=parts.family.adapted)

    def lower_states(self, ids_XS: Tensor, mask_XS: Tensor) -> Tensor:
        """[X, S, H] after embeddings and frozen layers."""
        return self.family.run(self.lower, self.family.embed(ids_XS, mask_XS), mask_XS)

    def pooled(self, states_XSH: Tensor, mask_XS: Tensor) -> Tensor:
        """Text vectors t [X, H] from the lower part's states."""
        states = self._upper_states(states_XSH, mask_XS)
        if self.pool is not None:
            vectors: Tensor = self.pool(states, mask_XS)
            return vectors
        if self.pooling == "cls":
            return states[:, 0]
        if self.pooling == "last":
            last = mask_XS.sum(1) - 1
            return states[torch.arange(len(states), device=states.device), last]
        weight = mask_XS.unsqueeze(-1).to(states.dtype)
        return (states * weight).sum(1) / weight.sum(1)

    def _upper_states(self, states_XSH: Tensor, mask_XS: Tensor) -> Tensor:
        upper: list[Any] = list(self.upper)
        device = states_XSH.device.type
        narrow = torch.is_autocast_enabled(device) and all(_whole(p) for p in self.upper.parameters())
        if narrow:
            dtype = torch.get_autocast_dtype(device)
            upper, states_XSH = [Narrow(layer, dtype) for layer in upper], states_XSH.to(dtype)
        if self.recompute and torch.is_grad_enabled():
            upper = [Recomputed(layer) for layer in upper]
        with torch.autocast(device, enabled=torch.is_autocast_enabled(device) and not narrow):
            states: Tensor = self.family.run(upper, states_XSH, mask_XS)
            return self.norm(states.float() if narrow else states)

    def forward(self, ids_XS: Tensor, mask_XS: Tensor) -> Tensor:
        """Text vectors t [X, H] from token ids."""
        return self.pooled(self.lower_states(ids_XS, mask_XS), mask_XS)

    def new_parameters(self) -> list[nn.Parameter]:
        """Trained parameters that were not pretrained (adapters, the pooling's query): they learn at the network's rate."""
        return [p for n, p in self.named_parameters() if p.requires_grad and ("lora_" in n or n.startswith("pool."))]

    def plain_state(self, state: dict[str, Tensor], *, prefix: str) -> dict[str, Tensor]:
        """`state`, in which this tower's names begin with `prefix`, as a tower without adapters has it."""
        return merged(self.upper, state, prefix=f"{prefix}upper.")


def _whole(parameter: nn.Parameter) -> bool:
    """Whether the parameter is here in one piece: under ZeRO-3 only a module's own call gathers it."""
    return not hasattr(parameter, "ds_id")


def _check(*, trained_layers: int, layers: int, pooling: str, first: str | None) -> None:
    if trained_layers > layers:
        raise ConfigError(
            "more layers than the encoder has",
            field="model.encoder.trained_layers",
            value=trained_layers,
            fix=f"at most {layers}",
        )
    if pooling == "cls" and first is not None:
        raise ConfigError(
            f"the first token {first}", field="model.encoder.pooling", value="cls", fix="choose last, mean or attention"
        )
