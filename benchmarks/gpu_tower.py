"""The text tower on a GPU: bert-base in bf16, all layers trained, tokens/s and model FLOP utilisation.

`python -m benchmarks.gpu_tower`. Weights are random (their values do not matter for speed); texts all have
the same number of tokens, so nothing is padding. Writes benchmarks/results/gpu.json (key `tower`).
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.record import record
from clm_ray.model.text import TextTower
from clm_ray.train.run import git_revision

WARMUP, STEPS = 5, 20
DATASHEET_TFLOPS = 989.5
"""Dense bf16 of an H100 SXM."""


def flops_per_token(*, layers: int, width: int, inner: int, tokens: int) -> float:
    """Floating point operations of one token, forward and backward: matrix products and attention of `layers` layers."""
    products = 2 * (4 * width * width + 2 * width * inner)
    attention = 2 * 2 * tokens * width
    return 3.0 * layers * (products + attention)


def peak_flops() -> float:
    """Measured here, bf16: 8192 x 8192 x 8192 matrix products of random numbers."""
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    for _ in range(5):
        a @ b
    seconds = timed(lambda: a @ b, steps=20)
    return 2 * 8192**3 / seconds


def timed(step: Callable[[], Any], *, steps: int) -> float:
    """Median seconds of a call, by device events."""
    marks = [torch.cuda.Event(enable_timing=True) for _ in range(steps + 1)]
    marks[0].record()
    for mark in marks[1:]:
        step()
        mark.record()
    torch.cuda.synchronize()
    each = sorted(a.elapsed_time(b) for a, b in pairwise(marks))
    return each[len(each) // 2] / 1000.0


def tower() -> TextTower:
    """bert-base with random weights, all twelve layers trained."""
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    encoder = BertModel(BertConfig(attn_implementation="sdpa"))
    return TextTower(encoder, trained_layers=12, pooling="mean").cuda().eval()


def measure(made: TextTower, *, texts: int, tokens: int) -> dict[str, float]:
    """tokens/s, share of the card's peak, memory of one training step (forward, backward, AdamW)."""
    states = torch.randn(texts, tokens, made.hidden, device="cuda")
    mask = torch.ones(texts, tokens, dtype=torch.bool, device="cuda")
    optimizer = torch.optim.AdamW([p for p in made.parameters() if p.requires_grad], lr=1e-5, fused=True)

    def forward() -> Tensor:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            return made.pooled(states, mask).float().square().mean()

    def step() -> None:
        optimizer.zero_grad()
        forward().backward()
        optimizer.step()

    torch.cuda.reset_peak_memory_stats()
    started = time.monotonic()
    for _ in range(WARMUP):
        step()
    torch.cuda.synchronize()
    warm = time.monotonic() - started
    seconds = timed(step, steps=STEPS)
    with torch.no_grad():
        ahead = timed(forward, steps=STEPS)
    flops = flops_per_token(layers=12, width=768, inner=3072, tokens=tokens) * texts * tokens
    return {
        "texts": texts,
        "tokens": tokens,
        "step_ms": seconds * 1e3,
        "forward_ms": ahead * 1e3,
        "tokens_per_s": texts * tokens / seconds,
        "tflops": flops / seconds / 1e12,
        "peak_memory_gb": torch.cuda.max_memory_allocated() / 1e9,
        "warmup_s": warm,
    }


def profile(made: TextTower, *, texts: int, tokens: int) -> list[dict[str, Any]]:
    """Kernels of one step by device time."""
    from torch.profiler import ProfilerActivity
    from torch.profiler import profile as profiler

    states = torch.randn(texts, tokens, made.hidden, device="cuda")
    mask = torch.ones(texts, tokens, dtype=torch.bool, device="cuda")

    def step(parts: nn.Module) -> None:
        with torch.autocast("cuda", dtype=torch.bfloat16):
            loss = made.pooled(states, mask).float().square().mean()
        loss.backward()

    step(made)
    with profiler(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as found:
        step(made)
        torch.cuda.synchronize()
    rows = sorted(found.key_averages(), key=lambda e: -e.self_device_time_total)[:14]
    return [{"kernel": e.key[:90], "ms": e.self_device_time_total / 1e3, "calls": e.count} for e in rows]


def main(argv: Sequence[str] | None = None) -> None:
    """Measure, print, write."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument(
        "--sizes", default="512x128,1024x128,2048x32", help="texts x tokens of each (default: %(default)s)"
    )
    options.add_argument("--revision", help="revision of the code, where this is no checkout")
    args = options.parse_args(argv)
    torch.set_float32_matmul_precision("high")
    peak = peak_flops()
    figures: dict[str, Any] = {"device": torch.cuda.get_device_name(), "measured_peak_tflops": peak / 1e12}
    made = tower()
    for size in args.sizes.split(","):
        texts, tokens = (int(number) for number in size.split("x"))
        found = measure(made, texts=texts, tokens=tokens)
        rates = {"mfu": found["tflops"] / DATASHEET_TFLOPS, "share_of_measured_peak": found["tflops"] * 1e12 / peak}
        figures[size] = {**found, **rates}
        print(size, json.dumps(figures[size]), flush=True)
    figures["kernels_512x128"] = profile(made, texts=512, tokens=128)
    figures["git"] = args.revision or git_revision()
    record("gpu", {"tower": figures}, merge=True, git=args.revision)


if __name__ == "__main__":
    main()
