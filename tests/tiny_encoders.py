"""A tiny random encoder of every family, made on the spot, and what the untouched Hugging Face model says about a text."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from clm_ray.model.text import Tokens

HIDDEN = 16
LAYERS = 3
WORDS = 40
_USUAL = {"hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": 2, "intermediate_size": 24}
_CAUSAL = {**_USUAL, "num_key_value_heads": 1, "head_dim": 8, "max_position_embeddings": 64}
_SIZES: dict[str, dict[str, Any]] = {
    "bert": _USUAL,
    "roberta": {**_USUAL, "max_position_embeddings": 40},
    "electra": {**_USUAL, "embedding_size": 8},
    "mpnet": {**_USUAL, "max_position_embeddings": 40},
    "distilbert": {"dim": HIDDEN, "n_layers": LAYERS, "n_heads": 2, "hidden_dim": 24},
    "gpt2": {"n_embd": HIDDEN, "n_layer": LAYERS, "n_head": 2, "n_positions": 64},
    "xlnet": {"d_model": HIDDEN, "n_layer": LAYERS, "n_head": 2, "d_inner": 24},
    "llama": _CAUSAL,
    "qwen3": _CAUSAL,
}
FAMILIES = tuple(_SIZES)
POOLING = {kind: "last" if kind in ("gpt2", "llama", "qwen3") else "mean" for kind in FAMILIES}
"""How each family is usually pooled."""


def tiny_encoder(kind: str, *, seed: int = 0) -> Any:
    """A Hugging Face model in eval mode. Every parameter is random, biases and norms too, so that none of them hides a mistake."""
    from transformers import AutoConfig, AutoModel

    torch.manual_seed(seed)
    encoder = AutoModel.from_config(AutoConfig.for_model(kind, vocab_size=WORDS, **_SIZES[kind]))
    with torch.no_grad():
        for parameter in encoder.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return encoder.eval()


def random_tokens(lengths: Sequence[int], *, seed: int = 0) -> Tokens:
    """Random words (no special ones) of texts of the given lengths."""
    start = np.cumsum([0, *lengths]).astype(np.int64)
    ids = np.random.default_rng(seed).integers(6, WORDS, int(start[-1]))
    return Tokens(ids.astype(np.int32), start)


def states_of(encoder: Any, ids_XS: Tensor, mask_XS: Tensor) -> Tensor:
    """last_hidden_state [X, S, H] of the encoder, called with what its own tokenizer would give it."""
    config = encoder.config
    inputs = {"input_ids": ids_XS.masked_fill(~mask_XS, config.pad_token_id or 0), "attention_mask": mask_XS.long()}
    if config.model_type == "xlnet":  # the class token, the last one, is a segment of its own
        last = torch.arange(ids_XS.shape[1]) == mask_XS.sum(1, keepdim=True) - 1
        inputs |= {"attention_mask": mask_XS.float(), "token_type_ids": 2 * last.long()}
    states: Tensor = encoder(**inputs).last_hidden_state
    return states


def pooled_one(encoder: Any, tokens: Tokens, text: int, *, pooling: str) -> Tensor:
    """[H] of one text, alone and without padding, through the untouched encoder."""
    ids = torch.from_numpy(tokens.id_V[tokens.start[text] : tokens.start[text + 1]].astype(np.int64))[None]
    states = states_of(encoder, ids, torch.ones_like(ids, dtype=torch.bool))[0]
    return {"mean": states.mean(0), "cls": states[0], "last": states[-1]}[pooling]


def layers_of(encoder: Any) -> nn.ModuleList:
    """The untouched encoder's layers."""
    path = {"distilbert": "transformer.layer", "gpt2": "h", "xlnet": "layer", "llama": "layers", "qwen3": "layers"}
    layers: nn.ModuleList = encoder.get_submodule(path.get(encoder.config.model_type, "encoder.layer"))
    return layers
