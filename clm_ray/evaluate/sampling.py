"""Draw the baselines' samples on Ray Data: one task per bucket, part files in between.

buckets ─▶ tasks: moments drawn, columns computed as of each moment ─▶ driver: one Sample
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import ray
from numpy.typing import NDArray

from clm_ray.evaluate import slices
from clm_ray.evaluate.baselines import PairFeatures, click_baselines, retention_columns
from clm_ray.evaluate.dataset import Case, Dataset, Occasions, References
from clm_ray.evaluate.sample import Sample
from clm_ray.evaluate.text_baseline import FrozenTexts
from clm_ray.features.history import EMPTY


def draw_sample(
    dataset: Path, *, split: int, model: Path, parts: Path, share: float, seed: int, buckets: Sequence[int]
) -> Sample:
    """The baselines' sample of a split (train or valid): each moment with probability `share`, with every candidate of it.

    Runs as Ray Data tasks, one bucket each. All references are kept: they are few.
    """

    def one(batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        opened = Dataset.open(dataset)
        for bucket in batch["item"].tolist():
            sample = _sample_bucket(opened, int(bucket), split=split, model=model, share=share, seed=seed)
            sample.save(parts / f"sample-{split}-{bucket:05d}.npz")
        return {"bucket": batch["item"]}

    drawn = each_bucket(buckets).map_batches(one, batch_size=1).take_all()
    paths = sorted(parts / f"sample-{split}-{row['bucket']:05d}.npz" for row in drawn)
    return Sample.join([Sample.load(path) for path in paths])


def _sample_bucket(dataset: Dataset, bucket: int, *, split: int, model: Path, share: float, seed: int) -> Sample:
    random = np.random.default_rng([seed, bucket])
    features = pair_features(dataset)
    texts = frozen_texts(dataset, model)
    names = click_baselines(dataset.recipe)
    cases = dataset.target_cases(bucket, split=split)
    found = [_sample_case(dataset, case, features, texts, names, share, random) for case in cases]
    return Sample.join([_sample_nothing(dataset, texts, names), *found])


def _sample_case(
    dataset: Dataset,
    case: Case,
    features: PairFeatures,
    texts: FrozenTexts | None,
    names: Sequence[str],
    share: float,
    random: np.random.Generator,
) -> Sample:
    drawn = case.shown.select(random.random(len(case.shown.time_Q)) < share)
    means = texts.means(case.history, drawn.time_Q) if texts else np.zeros((len(drawn.time_Q), 0), np.float32)
    return Sample(
        drawn.label_P,
        drawn.weight_P,
        drawn.offset_P,
        drawn.item_P,
        drawn.moment_P,
        means,
        {name: features.of(name, case.history, drawn) for name in names},
        retention_columns(dataset.source, case.history, case.references.time_R),
        case.references.bin_R,
        case.references.seen_R,
        case.references.value_R,
        slices.stages(
            case.history, case.references.time_R, vocabulary=dataset.vocabulary, thresholds=dataset.thresholds
        ),
    )


def _sample_nothing(dataset: Dataset, texts: FrozenTexts | None, names: Sequence[str]) -> Sample:
    nobody = Case("", EMPTY, Occasions.none(), Occasions.none(), References.none())
    return _sample_case(dataset, nobody, pair_features(dataset), texts, names, 0.0, np.random.default_rng(0))


def pair_features(dataset: Dataset) -> PairFeatures:
    """What the tabular baselines read."""
    prior = dataset.recipe.features.prior_strength
    return PairFeatures(dataset.statistics, dataset.vocabulary, prior, dataset.items.num_rows)


def frozen_texts(dataset: Dataset, model: Path) -> FrozenTexts | None:
    """The pretrained encoder's vectors in the model folder, if it has any."""
    return FrozenTexts.open(model, vocabulary=dataset.vocabulary, max_context=dataset.recipe.sequences.max_context)


def each_bucket(buckets: Sequence[int]) -> ray.data.Dataset:
    """One row and one block per bucket (column `item`)."""
    return ray.data.from_items(list(buckets), override_num_blocks=len(buckets))
