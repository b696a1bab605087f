"""Speed of training on MovieLens-100K, per user, as ratios within one run: `python -m benchmarks.train` (needs `make movielens`).

vs_cross_encoder.budget  impressions/s of the recipe, as `benchmarks.quality` trains it, by those of a BERT cross-encoder
vs_cross_encoder.exact   the same with every text of a batch encoded with gradient
vs_plain_torch           windows/s of one worker on Ray Train and DeepSpeed by those of a plain PyTorch loop, one thread each
two_workers_vs_one       windows/s of two workers by those of one, one thread each, with a step of 32 windows and 64 texts

All of them on this machine's CPU; each side is measured before and after the other. Writes benchmarks/results/train.json.
"""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import mean
from typing import Any

import numpy as np
import pyarrow as pa

from benchmarks import cross_encoder, plain_torch
from benchmarks.quality import PER_USER, Data, films, run_of
from benchmarks.record import record
from clm_ray.config.recipe import Recipe, load_recipe
from clm_ray.evaluate.dataset import Dataset
from clm_ray.metrics.click import auc
from clm_ray.train.windows import training_windows

EXACT = ("model.encoder.items_per_step=0", "train.windows_per_step=64", "train.log_every=1")
"""Every text of a batch once, so the batch is a large one."""
LARGE = ("train.windows_per_step=32", "model.encoder.items_per_step=64", "train.log_every=2")
"""The recipe's step times four: as much work per window, while what two workers must exchange per step stays the same."""
ONE_EPOCH = ("train.epochs=1", "train.min_steps=1", "train.checkpoint_steps=0")
SEED = 0


def main(argv: Sequence[str] | None = None) -> None:
    """Measure everything and write it down."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--root", default="workspaces/quality", help="folder for data and runs (default: %(default)s)")
    options.add_argument("--pairs", type=int, default=1536, help="impressions the cross-encoder trains on, in all")
    options.add_argument("--tested", type=int, default=1024, help="test rows that both are compared on")
    args = options.parse_args(argv)

    from jobs.session import start_ray

    start_ray()
    data = films(PER_USER, Path(args.root).resolve())
    dataset = Dataset.open(data.workspace.current("datasets"))
    train, _ = training_windows(dataset.folder)
    impressions = dataset.training_targets() / len(train)

    def ray(*overrides: str) -> float:
        return _on_ray(data, (*ONE_EPOCH, *overrides))

    def plain() -> float:
        return plain_torch.windows_per_second(_recipe(data, ("train.num_workers=1",)), dataset.folder, threads=1)

    figures: dict[str, Any] = {"impressions_per_window": impressions}
    one, loop = _paired(lambda: ray("train.num_workers=1"), plain)
    two, again = _paired(lambda: ray("train.num_workers=2"), lambda: ray("train.num_workers=1"))
    large, large_alone = _paired(lambda: ray("train.num_workers=2", *LARGE), lambda: ray("train.num_workers=1", *LARGE))
    figures |= {
        "vs_plain_torch": mean(one) / mean(loop),
        "two_workers_vs_one": mean(large) / mean(large_alone),
        "two_workers_vs_one_at_the_recipes_step": mean(two) / mean(again),
    }
    figures["windows_per_s"] = {
        "one_worker": one + again,
        "plain_torch": loop,
        "two_workers": two,
        "one_worker_large_step": large_alone,
        "two_workers_large_step": large,
    }
    exact = ray("train.num_workers=2", "train.user_share=0.5", *EXACT)
    figures |= _against_cross_encoder(data, dataset, pairs=args.pairs, tested=args.tested)
    exacts = [exact, ray("train.num_workers=2", "train.user_share=0.5", *EXACT)]
    cross = figures["cross_encoder"]["impressions_per_s"]
    figures["vs_cross_encoder"] = {
        "budget": mean(two) * impressions / cross,
        "exact": mean(exacts) * impressions / cross,
    }
    figures["impressions_per_s"] = {
        "budget": mean(two) * impressions,
        "exact": mean(exacts) * impressions,
        "cross_encoder": cross,
    }
    record("train", figures)


def _paired(mine: Callable[[], float], other: Callable[[], float]) -> tuple[list[float], list[float]]:
    """Mine, other, other, mine: what drifts, drifts for both."""
    first, others = mine(), [other(), other()]
    return [first, mine()], others


def _recipe(data: Data, overrides: Sequence[str]) -> Recipe:
    return load_recipe(data.recipe, overrides=[*data.overrides, *overrides, f"train.seed={SEED}"])


def _on_ray(data: Data, overrides: Sequence[str]) -> float:
    """Windows per second over the steps of an epoch, as the run's own curve says."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from clm_ray.train.run import train

    run = train(_recipe(data, overrides), data.workspace, name="speed", fresh=True, say=lambda _: None)
    curves = EventAccumulator(str(run / "tracking"))
    curves.Reload()
    speed = float(curves.Scalars("train/windows_per_s")[-1].value)
    shutil.rmtree(run)
    return speed


def _against_cross_encoder(data: Data, dataset: Dataset, *, pairs: int, tested: int) -> dict[str, Any]:
    """Train the cross-encoder on random train impressions, and compare on random test rows."""
    import torch

    torch.set_num_threads(os.cpu_count() or 1)
    torch.manual_seed(SEED)
    rng = np.random.default_rng(SEED)
    train = [p for bucket in dataset.buckets for p in cross_encoder.pairs(dataset.train_cases(bucket), dataset)]
    test = [p for bucket in dataset.buckets for p in cross_encoder.pairs(dataset.test_cases(bucket), dataset)]
    some = [test[n] for n in rng.permutation(len(test))[:tested]]
    model = cross_encoder.CrossEncoder(dataset.recipe.model.encoder)
    speed = cross_encoder.fit(model, [train[n] for n in rng.permutation(len(train))[:pairs]])
    label = np.array([pair.label for pair in some])
    theirs = auc(label, score=cross_encoder.score(model, some))
    ours = _probabilities(run_of(data, (f"train.seed={SEED}",)).predictions)
    mine = auc(label, score=np.array([ours[pair.key] for pair in some]))
    return {
        "cross_encoder": {
            "impressions_per_s": speed,
            "trained_on": pairs,
            "of": len(train),
            "tokens": cross_encoder.TOKENS,
            "test_rows": len(some),
            "auc": theirs,
            "auc_of_this_model_on_the_same_rows": mine,
        }
    }


def _probabilities(predictions: pa.Table) -> dict[tuple[str, int, int], float]:
    columns = (
        predictions.column("user").to_pylist(),
        predictions.column("timestamp").cast(pa.int64()).to_pylist(),
        predictions.column("item_row").to_pylist(),
    )
    return dict(zip(zip(*columns, strict=True), predictions.column("probability").to_pylist(), strict=True))


if __name__ == "__main__":
    main()
