"""Low-rank adapters (Hu et al., 2022) on the trained layers of the text tower: W stays, W + scale · B A is used, A and B are trained.

They exist in training only. What is exported has them merged into W, so that a released tower is a plain encoder and needs no peft.

Shape letters: O output width, I input width, R rank.
"""

from __future__ import annotations

import warnings
from typing import Any

import torch
from torch import Tensor, nn

from clm_ray.config.model import LoraConfig
from clm_ray.errors import ConfigError

_NAME = "default"


def adapt(layers: nn.ModuleList, config: LoraConfig, *, default: tuple[str, ...]) -> None:
    """Put adapters on the modules of `layers` that `config.targets` (or `default`) name; all else in `layers` is frozen.

    Raises ConfigError where peft is not installed, or where no module has such a name.
    """
    try:
        import peft
    except ImportError as error:
        raise ConfigError(
            "LoRA needs the package peft, which is not installed",
            field="model.encoder.lora",
            fix="pip install 'clm-ray[lora]', or set model.encoder.lora=null",
        ) from error
    targets = list(config.targets or default)
    settings = peft.LoraConfig(r=config.rank, lora_alpha=config.alpha, lora_dropout=0.0, target_modules=targets)
    try:
        with warnings.catch_warnings():  # GPT-2 keeps its weights transposed: peft says that it minds this
            warnings.filterwarnings("ignore", message="fan_in_fan_out is set to False")
            peft.inject_adapter_in_model(settings, layers, adapter_name=_NAME)
    except ValueError as error:
        raise ConfigError(
            "no adapter can be put on the encoder's layers",
            field="model.encoder.lora.targets",
            value=targets,
            fix=f"name linear modules of a layer, or leave targets out; {str(error).splitlines()[0]}",
        ) from error
    for name, parameter in layers.named_parameters():
        parameter.requires_grad_("lora_" in name)


def adapters(layers: nn.Module) -> dict[str, Any]:
    """The adapted modules of `layers` by name."""
    return {name: module for name, module in layers.named_modules() if hasattr(module, "lora_A")}


@torch.no_grad()
def merged(layers: nn.Module, state: dict[str, Tensor], *, prefix: str) -> dict[str, Tensor]:
    """`state` with the adapters of `layers`, whose names begin with `prefix`, merged into the weights they adapt."""
    out = dict(state)
    for name, module in adapters(layers).items():
        here = f"{prefix}{name}."
        a_RI, b_OR = (out.pop(f"{here}lora_{part}.{_NAME}.weight").float() for part in "AB")
        change = module.scaling[_NAME] * (b_OR @ a_RI)
        weight = out.pop(f"{here}base_layer.weight")
        out[f"{here}weight"] = weight + (change.T if module.fan_in_fan_out else change).to(weight.dtype)
        if f"{here}base_layer.bias" in out:
            out[f"{here}bias"] = out.pop(f"{here}base_layer.bias")
    return out
