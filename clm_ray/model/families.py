"""How a Hugging Face encoder of each family is taken apart, and how its layers are run one by one.

A family holds what an encoder's layers share (embeddings, positions) and knows in which form they take the mask. Rows are padded on
the right; what is in a padded place never changes what is in a real one.

Shape letters: X texts, S tokens, H hidden size of the encoder, A attention heads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from clm_ray.errors import ConfigError

Layer = Callable[..., Any]
"""A layer, or what runs it in a way of its own."""


class Family(nn.Module):
    """What the layers of an encoder share. Frozen: its output is cached."""

    adapted: ClassVar[tuple[str, ...]]
    """The linear modules of a layer that LoRA adapts by default: the attention projections."""
    first_token: ClassVar[str | None] = None
    """Why the first token does not stand for the text; None where it does."""

    def embed(self, ids_XS: Tensor, mask_XS: Tensor) -> Tensor:
        """[X, S, H] that the first layer reads."""
        raise NotImplementedError

    def run(self, layers: Iterable[Layer], states_XSH: Tensor, mask_XS: Tensor) -> Tensor:
        """[X, S, H] after `layers`."""
        raise NotImplementedError


class BertFamily(Family):
    """BERT, RoBERTa, ELECTRA: `embeddings` and `encoder.layer`; every token sees every other."""

    adapted = ("query", "key", "value")

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.embeddings = encoder.embeddings
        self.project = getattr(encoder, "embeddings_project", nn.Identity())

    def embed(self, ids_XS: Tensor, mask_XS: Tensor) -> Tensor:
        """Words, positions and the first token type. (RoBERTa's embeddings count positions from the padding token's number on.)"""
        states: Tensor = self.project(self.embeddings(input_ids=ids_XS))
        return states

    def run(self, layers: Iterable[Layer], states_XSH: Tensor, mask_XS: Tensor) -> Tensor:
        """[X, S, H]."""
        bias = _bias(mask_XS[:, None, None, :], states_XSH.dtype)
        for layer in layers:
            states_XSH = _states(layer(states_XSH, attention_mask=bias))
        return states_XSH


class MPNetFamily(BertFamily):
    """MPNet: BERT with one table of relative position biases for all layers."""

    adapted = ("attn.q", "attn.k", "attn.v")

    def __init__(self, encoder: Any) -> None:
        super().__init__(encoder)
        self.relative_bias = encoder.encoder.relative_attention_bias
        self._bucket = type(encoder.encoder).relative_position_bucket

    def run(self, layers: Iterable[Layer], states_XSH: Tensor, mask_XS: Tensor) -> Tensor:
        """[X, S, H]."""
        index_S = torch.arange(mask_XS.shape[1], device=mask_XS.device)
        position = self.relative_bias(self._bucket(index_S[None, :] - index_S[:, None])).permute(2, 0, 1)
        bias = _bias(mask_XS[:, None, None, :], states_XSH.dtype)
        for layer in layers:
            states_XSH = _states(layer(states_XSH, attention_mask=bias, position_bias=position[None]))
        return states_XSH


class DistilBertFamily(BertFamily):
    """DistilBERT: as BERT, without token types."""

    adapted = ("q_lin", "k_lin", "v_lin")


class GPT2Family(Family):
    """GPT-2: learned positions; a token sees those before it and itself, so padding on the right is seen by none."""

    adapted = ("c_attn",)
    first_token = "sees nothing but itself in a causal encoder"

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        self.wte = encoder.wte
        self.wpe = encoder.wpe

    def embed(self, ids_XS: Tensor, mask_XS: Tensor) -> Tensor:
        """Words and positions."""
        states: Tensor = self.wte(ids_XS) + self.wpe(torch.arange(ids_XS.shape[1], device=ids_XS.device))
        return states

    def run(self, layers: Iterable[Layer], states_XSH: Tensor, mask_XS: Tensor) -> Tensor:
        """[X, S, H]."""
        bias = _bias(_causal(mask_XS), states_XSH.dtype)
        for layer in layers:
            states_XSH = _states(layer(states_XSH, attention_mask=bias))
        return states_XSH


class RotaryFamily(Family):
    """Llama, Qwen: causal, with rotary positions given to every layer."""

    adapted = ("q_proj", "k_proj", "v_proj", "o_proj")
    first_token = "sees nothing but itself in a causal encoder"

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        if set(getattr(encoder.config, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
            raise ConfigError(
                "an encoder with sliding-window attention",
                field="model.encoder.name",
                value=type(encoder).__name__,
                fix="use one whose layers all have full attention",
            )
        self.embed_tokens = encoder.embed_tokens
        self.rotary = encoder.rotary_emb

    def embed(self, ids_XS: Tensor, mask_XS: Tensor) -> Tensor:
        """Words alone."""
        states: Tensor = self.embed_tokens(ids_XS)
        return states

    def run(self, layers: Iterable[Layer], states_XSH: Tensor, mask_XS: Tensor) -> Tensor:
        """[X, S, H]."""
        bias = _bias(_causal(mask_XS), states_XSH.dtype)
        index = torch.arange(mask_XS.shape[1], device=mask_XS.device)[None]
        rotation = self.rotary(states_XSH, index)
        for layer in layers:
            states_XSH = _states(layer(states_XSH, attention_mask=bias, position_embeddings=rotation))
        return states_XSH


class XLNetFamily(Family):
    """XLNet (Yang et al., 2019), its content stream: relative positions, and segments, both given to every layer.

    Its tokenizer puts the class token last, in a segment of its own; so the last real token of a row is taken for it.
    """

    adapted = ("layer_1", "layer_2")
    """The feed-forward part: XLNet keeps its attention projections as bare parameters, which adapters cannot wrap."""
    first_token = "is a word in XLNet, whose class token is the last one"

    def __init__(self, encoder: Any) -> None:
        super().__init__()
        config = encoder.config
        if config.attn_type != "bi" or config.bi_data:
            raise ConfigError(
                "an XLNet of another kind than the published ones",
                field="model.encoder.name",
                value=f"attn_type {config.attn_type}, bi_data {config.bi_data}",
                fix="use one with attn_type=bi and bi_data=false",
            )
        self.words = encoder.word_embedding
        self.clamp = int(config.clamp_len)

    def embed(self, ids_XS: Tensor, mask_XS: Tensor) -> Tensor:
        """Words alone."""
        states: Tensor = self.words(ids_XS)
        return states

    def run(self, layers: Iterable[Layer], states_XSH: Tensor, mask_XS: Tensor) -> Tensor:
        """[X, S, H]; the layers themselves have the texts in the second dimension."""
        states_SXH, tokens = states_XSH.transpose(0, 1).contiguous(), mask_XS.shape[1]
        hidden = (~mask_XS.T)[None, :, :, None]
        index_S = torch.arange(tokens, device=mask_XS.device)
        is_class = index_S[:, None] == mask_XS.sum(1)[None, :] - 1
        segments = F.one_hot((is_class[:, None] != is_class[None, :]).long(), 2).to(states_SXH.dtype)
        shared: dict[str, Any] = {
            "attn_mask_h": hidden.to(states_SXH.dtype),
            "attn_mask_g": None,
            "r": self._positions(tokens, states_SXH),
            "seg_mat": segments,
        }
        for layer in layers:
            states_SXH = _states(layer(states_SXH, None, **shared))
        return states_SXH.transpose(0, 1)

    def _positions(self, tokens: int, like_SXH: Tensor) -> Tensor:
        """[2S, X, H]: sinusoids of the distances S, S - 1, ..., -S + 1 (Dai et al., 2019)."""
        texts, width = like_SXH.shape[1:]
        distance = torch.arange(tokens, -tokens, -1, device=like_SXH.device, dtype=torch.float32)
        if self.clamp > 0:
            distance = distance.clamp(-self.clamp, self.clamp)
        step = torch.arange(0, width, 2, device=like_SXH.device, dtype=torch.float32)
        angle = distance[:, None] * (1.0 / torch.pow(10_000, step / width))
        return torch.cat([angle.sin(), angle.cos()], dim=-1)[:, None].expand(-1, texts, -1).to(like_SXH.dtype)


_FAMILIES: dict[str, tuple[type[Family], str, str | None]] = {
    **dict.fromkeys(
        ("bert", "roberta", "xlm-roberta", "camembert", "electra", "data2vec-text"),
        (BertFamily, "encoder.layer", None),
    ),
    "mpnet": (MPNetFamily, "encoder.layer", None),
    "distilbert": (DistilBertFamily, "transformer.layer", None),
    "gpt2": (GPT2Family, "h", "ln_f"),
    "xlnet": (XLNetFamily, "layer", None),
    **dict.fromkeys(("llama", "qwen2", "qwen3"), (RotaryFamily, "layers", "norm")),
}
"""Model type → its family, where its layers are, and its final norm."""


@dataclass(frozen=True)
class Parts:
    """An encoder taken apart: `layers` read what `family` embeds, `norm` (maybe the identity) what they leave."""

    family: Family
    layers: list[nn.Module]
    norm: nn.Module
    hidden: int


def check_family(config: Any) -> None:
    """Raises ConfigError for an encoder (its Hugging Face config) that no family here can take apart."""
    kind = getattr(config, "model_type", type(config).__name__)
    if kind not in _FAMILIES:
        raise ConfigError(
            "an encoder of a family that is not known here",
            field="model.encoder.name",
            value=kind,
            fix=f"use one of {', '.join(_FAMILIES)}",
        )
    if getattr(config, "is_decoder", False) and issubclass(_FAMILIES[kind][0], BertFamily):
        raise ConfigError(
            "an encoder set up as a decoder", field="model.encoder.name", value=kind, fix="use it with is_decoder=false"
        )


def take_apart(encoder: nn.Module) -> Parts:
    """The parts of a Hugging Face encoder. Raises ConfigError for a family that is not known."""
    config: Any = encoder.config
    check_family(config)
    kind, layers, norm = _FAMILIES[config.model_type]
    return Parts(
        family=kind(encoder),
        layers=list(encoder.get_submodule(layers).children()),
        norm=encoder.get_submodule(norm) if norm is not None else nn.Identity(),
        hidden=int(config.hidden_size),
    )


def _causal(mask_XS: Tensor) -> Tensor:
    """[X, 1, S, S]: which token sees which; every one sees at least the first."""
    tokens = mask_XS.shape[1]
    before = torch.ones(tokens, tokens, dtype=torch.bool, device=mask_XS.device).tril()
    return before[None, None] & mask_XS[:, None, None, :]


def _bias(allowed: Tensor, dtype: torch.dtype) -> Tensor:
    return torch.zeros_like(allowed, dtype=dtype).masked_fill(~allowed, torch.finfo(dtype).min)


def _states(out: Tensor | tuple[Tensor, ...]) -> Tensor:
    return out if isinstance(out, Tensor) else out[0]
