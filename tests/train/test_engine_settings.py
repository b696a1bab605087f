"""DeepSpeed settings, parameter groups, learning rates, and the score that chooses the best epoch."""

from __future__ import annotations

import itertools
import math
from pathlib import Path

import pytest
import torch
from small_shop import LOOKS, make_shop, small_recipe
from tiny_bert import write_tiny_bert
from tiny_encoders import tiny_encoder

from clm_ray.config.model import EncoderConfig, LoraConfig
from clm_ray.config.train import TrainConfig
from clm_ray.errors import ConfigError
from clm_ray.model.text import TextTower, load_pretrained
from clm_ray.train.engine import make_optimizer, parameter_groups, rate_factor, settings
from clm_ray.train.validate import score_of


def test_the_recipe_reaches_deepspeed() -> None:
    found = settings(TrainConfig(zero_stage=2, clip_norm=0.5))
    assert (found["zero_optimization"], found["gradient_clipping"]) == ({"stage": 2}, 0.5)
    assert "torch_autocast" not in found
    assert settings(TrainConfig(use_gpu=True))["torch_autocast"] == {"enabled": True, "dtype": "bfloat16"}


def test_further_keys_are_handed_on_beside_ours() -> None:
    found = settings(
        TrainConfig(deepspeed={"zero_optimization": {"stage": 0, "contiguous_gradients": True}, "dump_state": True})
    )
    assert found["zero_optimization"] == {"stage": 0, "contiguous_gradients": True}
    assert found["dump_state"] is True
    assert found["gradient_accumulation_steps"] == 1


@pytest.mark.parametrize(
    ("deepspeed", "field"),
    [
        ({"gradient_clipping": 5.0}, "train.deepspeed.gradient_clipping"),
        ({"zero_optimization": {"stage": 3}}, "train.deepspeed.zero_optimization.stage"),
        ({"zero_optimization": 3}, "train.deepspeed.zero_optimization"),
        ({"gradient_accumulation_steps": 2}, "train.deepspeed.gradient_accumulation_steps"),
    ],
)
def test_a_clash_is_an_error_that_names_key_and_fix(deepspeed: dict[str, object], field: str) -> None:
    with pytest.raises(ConfigError, match="clashes") as caught:
        settings(TrainConfig(deepspeed=deepspeed))
    assert caught.value.field == field
    assert "train.zero_stage" in caught.value.fix


@pytest.mark.parametrize(
    ("deepspeed", "field", "key"),
    [
        ({"optimizer": {"type": "Lamb"}}, "optimizer", "train.optimizer"),
        ({"scheduler": {"type": "WarmupLR"}}, "scheduler", "train.schedule"),
        ({"train_batch_size": 64}, "train_batch_size", "train.windows_per_step"),
        ({"activation_checkpointing": {}}, "activation_checkpointing", "train.activation_checkpointing"),
        (
            {"zero_optimization": {"offload_optimizer": {"device": "cpu"}}},
            "zero_optimization.offload_optimizer",
            "train.offload",
        ),
    ],
)
def test_what_the_recipe_has_a_key_for_is_not_said_to_deepspeed_behind_its_back(
    deepspeed: dict[str, object], field: str, key: str
) -> None:
    with pytest.raises(ConfigError, match="clashes") as caught:
        settings(TrainConfig(deepspeed=deepspeed))
    assert caught.value.field == f"train.deepspeed.{field}"
    assert f"{key}," in caught.value.fix


def test_encoder_and_network_have_their_own_rates_and_only_matrices_decay(tmp_path: Path) -> None:
    encoder, _ = load_pretrained(EncoderConfig(name=str(write_tiny_bert(tmp_path / "bert", LOOKS))))
    model = make_shop().model(TextTower(encoder, trained_layers=1, pooling="mean"))
    config = TrainConfig(learning_rate=0.1, encoder_learning_rate=0.01, weight_decay=0.5)
    groups = parameter_groups(model, config)
    assert [(g["name"], g["lr"], g["weight_decay"]) for g in groups] == [
        ("network", 0.1, 0.5),
        ("network", 0.1, 0.0),
        ("tower", 0.01, 0.5),
        ("tower", 0.01, 0.0),
    ]
    assert all((p.ndim > 1) == (g["weight_decay"] > 0) for g in groups for p in g["params"])
    grouped = [id(p) for g in groups for p in g["params"]]
    assert sorted(grouped) == sorted(id(p) for p in model.parameters() if p.requires_grad)
    assert len(parameter_groups(make_shop().model(), config)) == 2


def test_what_is_new_in_the_tower_learns_at_the_rate_of_the_network() -> None:
    config = TrainConfig(learning_rate=0.1, encoder_learning_rate=0.01)
    tower = TextTower(tiny_encoder("gpt2"), trained_layers=1, pooling="attention", lora=LoraConfig())
    groups = [g for g in parameter_groups(make_shop().model(tower), config) if g["name"] == "tower"]
    assert [g["lr"] for g in groups] == [0.1, 0.1]
    assert sorted(map(id, tower.new_parameters())) == sorted(id(p) for g in groups for p in g["params"])


def test_the_rate_rises_and_then_falls_to_a_tenth() -> None:
    config = TrainConfig(warmup_share=0.2)
    rates = [rate_factor(step, 100, config=config) for step in range(100)]
    assert rates[:20] == pytest.approx([(s + 1) / 20 for s in range(20)])
    assert rates[20] == pytest.approx(1.0)
    assert all(a > b for a, b in itertools.pairwise(rates[20:]))
    assert rates[60] == pytest.approx(0.55)
    assert 0.1 < rates[-1] < 0.11
    assert rate_factor(0, 1, config=TrainConfig(warmup_share=0.0)) == 1.0


def test_after_warm_up_the_rate_follows_the_schedule() -> None:
    linear, constant = (
        [rate_factor(step, 100, config=TrainConfig(warmup_share=0.2, schedule=kind)) for step in range(100)]
        for kind in ("linear", "constant")
    )
    assert linear[:20] == constant[:20] == pytest.approx([(s + 1) / 20 for s in range(20)])
    assert (linear[20], linear[60]) == pytest.approx((1.0, 0.55))
    assert all(a - b == pytest.approx(0.9 / 80) for a, b in itertools.pairwise(linear[20:]))
    assert set(constant[20:]) == {1.0}


def test_the_optimizer_is_the_recipes() -> None:
    groups = parameter_groups(make_shop().model(), TrainConfig())
    sgd = make_optimizer(groups, TrainConfig(optimizer="sgd", momentum=0.7))
    assert type(sgd) is torch.optim.SGD
    assert [g["momentum"] for g in sgd.param_groups] == [0.7, 0.7]
    assert type(make_optimizer(groups, TrainConfig(optimizer="adam"))) is torch.optim.Adam
    assert type(make_optimizer(groups, TrainConfig())) is torch.optim.AdamW


def test_offload_and_accumulation_reach_deepspeed() -> None:
    found = settings(TrainConfig(accumulate=4, zero_stage=2, offload="optimizer"))
    assert found["gradient_accumulation_steps"] == 4
    assert found["zero_optimization"] == {"stage": 2, "offload_optimizer": {"device": "cpu"}}
    assert found["zero_force_ds_cpu_optimizer"] is False
    whole = settings(TrainConfig(zero_stage=3, offload="parameters"))["zero_optimization"]
    assert whole == {"stage": 3, "offload_optimizer": {"device": "cpu"}, "offload_param": {"device": "cpu"}}
    pinned = {"zero_optimization": {"offload_optimizer": {"pin_memory": True}}}
    sharded = TrainConfig(offload="optimizer", zero_stage=1, deepspeed=pinned)
    assert settings(sharded)["zero_optimization"]["offload_optimizer"] == {
        "device": "cpu",
        "pin_memory": True,
    }


@pytest.mark.parametrize(("stage", "offload", "fix"), [(0, "optimizer", "=1 or higher"), (2, "parameters", "=3,")])
def test_a_stage_that_cannot_offload_is_an_error(stage: int, offload: str, fix: str) -> None:
    with pytest.raises(ConfigError, match=f"train.offload: ZeRO stage {stage} cannot") as caught:
        settings(TrainConfig.model_validate({"zero_stage": stage, "offload": offload}))
    assert f"train.zero_stage{fix}" in caught.value.fix


def test_the_score_is_larger_for_the_better_epoch() -> None:
    metrics = {"click_auc": 0.7, "click_log_loss": 0.4, "retention_auc": math.nan}
    assert score_of(small_recipe(train={"metric": "click_auc"}), metrics) == 0.7
    assert score_of(small_recipe(train={"metric": "click_log_loss"}), metrics) == -0.4
    assert math.isnan(score_of(small_recipe(train={"metric": "retention_auc"}), metrics))
