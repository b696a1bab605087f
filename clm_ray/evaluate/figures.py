"""Every figure of the report, computed from the prediction tables alone, so that anyone can recompute them.

Shape letters: P rows of predictions, O occasions.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, is_dataclass
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from clm_ray.config.evaluate import EvaluateConfig
from clm_ray.evaluate.slices import slices_of
from clm_ray.metrics import calibration, click, ranking
from clm_ray.metrics.bootstrap import Difference, paired_aucs, paired_mean
from clm_ray.metrics.click import Decisions, Gauc
from clm_ray.metrics.ranking import Found

MODEL = "model"
CLICK_BASELINES = ("popularity", "repurchase", "means", "text_logistic")


@dataclass(frozen=True)
class ClickFigures:
    """One method on all shown candidates. `at_base_rate`: decisions at the observed share of positives as threshold."""

    auc: float
    log_loss: float
    gauc: Gauc
    average_precision: float
    brier: float
    ece: float
    predicted_ctr: float
    observed_ctr: float
    at_half: Decisions
    at_base_rate: Decisions


@dataclass(frozen=True)
class RankingFigures:
    """One method's lists, by cut-off k. Coverage and diversity of whole-catalogue lists only."""

    occasions: int
    recall: Mapping[int, float]
    ndcg: Mapping[int, float]
    hit_rate: Mapping[int, float]
    mrr: float
    coverage: Mapping[int, float]
    vector_diversity: Mapping[int, float]
    category_diversity: Mapping[int, float]


@dataclass(frozen=True)
class SliceFigures:
    """Click figures of one slice, by method."""

    name: str
    rows: int
    positives: int
    auc: Mapping[str, float]
    log_loss: Mapping[str, float]


@dataclass(frozen=True)
class Comparison:
    """Model minus one baseline, with intervals over users."""

    auc: Difference
    log_loss: Difference
    ndcg: Difference


@dataclass(frozen=True)
class ClickReport:
    """Everything about the shown candidates."""

    rows: int
    users: int
    occasions: int
    positives: int
    methods: Mapping[str, ClickFigures]
    ranking: Mapping[str, RankingFigures]
    comparison: Mapping[str, Comparison]
    slices: Sequence[SliceFigures]


@dataclass(frozen=True)
class _Shown:
    """A predictions table as arrays."""

    label_P: NDArray[np.float64]
    weight_P: NDArray[np.float64]
    user_P: NDArray[np.int64]
    occasion_P: NDArray[np.int64]
    item_P: NDArray[np.int32]
    scores: Mapping[str, NDArray[np.float32]]
    losses: Mapping[str, NDArray[np.float64]]


def click_report(predictions: pa.Table, *, config: EvaluateConfig, seed: int, min_group: int = 1) -> ClickReport:
    """Figures of `predictions.parquet`: every method, differences to the model, slices with at least `min_group` users."""
    shown = _shown(predictions)
    row_P = _to_rank(shown)
    label, occasion, item = shown.label_P[row_P], shown.occasion_P[row_P], shown.item_P[row_P]
    positions = {
        name: ranking.found(label, score=score[row_P], occasion=occasion, item=item)
        for name, score in shown.scores.items()
    }
    slices = [
        _slice(name, mask, shown)
        for name, mask in slices_of(predictions, config=config)
        if not mask.any() or len(np.unique(shown.user_P[mask])) >= min_group
    ]
    return ClickReport(
        rows=len(shown.label_P),
        users=len(np.unique(shown.user_P)),
        occasions=len(np.unique(shown.occasion_P)),
        positives=int((shown.label_P > 0).sum()),
        methods={name: _click(shown, name, bins=config.calibration_bins) for name in shown.scores},
        ranking={name: ranking_figures(at, ks=config.ks) for name, at in positions.items()},
        comparison=_comparisons(shown, positions, k=config.ks[0], seed=seed),
        slices=slices,
    )


def _shown(predictions: pa.Table) -> _Shown:
    names = [name for name in CLICK_BASELINES if name in predictions.column_names]
    scores = {MODEL: predictions.column("probability").to_numpy()}
    scores |= {name: predictions.column(name).to_numpy() for name in names}
    label_P = predictions.column("label").to_numpy().astype(np.float64)
    return _Shown(
        label_P,
        predictions.column("weight").to_numpy().astype(np.float64),
        codes(predictions.column("user")),
        predictions.column("occasion").to_numpy().astype(np.int64),
        predictions.column("item_row").to_numpy(),
        scores,
        {name: click.log_losses(label_P, probability=score) for name, score in scores.items()},
    )


def codes(column: pa.ChunkedArray) -> NDArray[np.int64]:
    """A number per distinct value of a text column."""
    encoded = pc.dictionary_encode(column).unify_dictionaries()
    return np.concatenate([chunk.indices.to_numpy() for chunk in encoded.chunks] or [np.empty(0)]).astype(np.int64)


def _to_rank(shown: _Shown) -> NDArray[np.int64]:
    """Rows of the occasions with something to rank: at least one positive and one negative."""
    occasion_P, _ = click.numbered(shown.occasion_P)
    positive_O = np.bincount(occasion_P, shown.label_P > 0)
    choice_O = (positive_O > 0) & (positive_O < np.bincount(occasion_P))
    return np.flatnonzero(choice_O[occasion_P])


def _click(shown: _Shown, method: str, *, bins: int) -> ClickFigures:
    label, weight, score_P = shown.label_P, shown.weight_P, shown.scores[method]
    base_rate = click.mean(label, weight=weight)
    return ClickFigures(
        auc=click.auc(label, score=score_P, weight=weight),
        log_loss=click.mean(shown.losses[method], weight=weight),
        gauc=click.gauc(label, score=score_P, user=shown.user_P, weight=weight),
        average_precision=click.average_precision(label, score=score_P, weight=weight),
        brier=click.brier(label, probability=score_P, weight=weight),
        ece=calibration.ece(label, probability=score_P, weight=weight, bins=bins),
        predicted_ctr=click.mean(score_P, weight=weight),
        observed_ctr=base_rate,
        at_half=click.decisions(label, probability=score_P, threshold=0.5, weight=weight),
        at_base_rate=click.decisions(label, probability=score_P, threshold=base_rate, weight=weight),
    )


def ranking_figures(at: Found, *, ks: Sequence[int]) -> RankingFigures:
    """Recall, NDCG, hit rate and MRR over occasions."""
    nothing: dict[int, float] = {}
    return RankingFigures(
        occasions=len(at),
        recall={k: ranking.recall(at, k=k) for k in ks},
        ndcg={k: ranking.ndcg(at, k=k) for k in ks},
        hit_rate={k: ranking.hit_rate(at, k=k) for k in ks},
        mrr=ranking.mrr(at),
        coverage=nothing,
        vector_diversity=nothing,
        category_diversity=nothing,
    )


def _comparisons(shown: _Shown, positions: Mapping[str, Found], *, k: int, seed: int) -> dict[str, Comparison]:
    others = {name: score for name, score in shown.scores.items() if name != MODEL}
    label, weight, user = shown.label_P, shown.weight_P, shown.user_P
    areas = paired_aucs(label, score=shown.scores[MODEL], others=others, user=user, weight=weight, seed=seed)
    row_P = _to_rank(shown)
    user_O = user[row_P[np.unique(shown.occasion_P[row_P], return_index=True)[1]]]
    loss_P, ndcg_O = shown.losses[MODEL], ranking.ndcgs(positions[MODEL], k=k)
    result = {}
    for name in others:
        loss = paired_mean(loss_P, value_b=shown.losses[name], user=user, weight=weight, seed=seed)
        ndcg = paired_mean(ndcg_O, value_b=ranking.ndcgs(positions[name], k=k), user=user_O, seed=seed)
        result[name] = Comparison(auc=areas[name], log_loss=loss, ndcg=ndcg)
    return result


def _slice(name: str, mask_P: NDArray[np.bool_], shown: _Shown) -> SliceFigures:
    row_P = np.flatnonzero(mask_P)
    label, weight = shown.label_P[row_P], shown.weight_P[row_P]
    return SliceFigures(
        name=name,
        rows=len(row_P),
        positives=int((label > 0).sum()),
        auc={m: click.auc(label, score=score[row_P], weight=weight) for m, score in shown.scores.items()},
        log_loss={m: click.mean(loss[row_P], weight=weight) for m, loss in shown.losses.items()},
    )


def catalogue_report(
    lists: pa.Table, *, ks: Sequence[int], vectors: NDArray[np.float32], categories: Sequence[Sequence[str]]
) -> dict[str, RankingFigures]:
    """Figures of `catalogue_predictions.parquet` by method. `vectors` and `categories` by item row, for the diversity."""
    result = {}
    for name in pc.unique(lists.column("method")).to_pylist():
        mine = lists.filter(pc.equal(lists.column("method"), name))
        rank, occasion, item = (mine.column(c).to_numpy() for c in ("rank", "occasion", "item_row"))
        taken = mine.column("taken").to_numpy(zero_copy_only=False)
        _, occasion_F = np.unique(occasion[taken], return_inverse=True)
        figures = ranking_figures(Found(rank[taken].astype(np.int64), occasion_F.astype(np.int64)), ks=ks)
        order = np.lexsort((rank, occasion))
        order = order[rank[order] > 0]
        shown = np.split(item[order], np.flatnonzero(np.diff(occasion[order])) + 1)
        result[name] = RankingFigures(
            **{key: getattr(figures, key) for key in ("occasions", "recall", "ndcg", "hit_rate", "mrr")},
            coverage={k: ranking.coverage(shown, k=k, catalogue=len(vectors) - 1) for k in ks},
            vector_diversity={k: ranking.vector_diversity(shown, k=k, vectors=vectors) for k in ks},
            category_diversity={k: ranking.category_diversity(shown, k=k, categories=categories) for k in ks},
        )
    return result


def plain(value: Any) -> Any:
    """Dataclasses as plain data for JSON: NaN (undefined) becomes null, keys become text."""
    if is_dataclass(value) and not isinstance(value, type):
        return plain(asdict(value))
    if isinstance(value, Mapping):
        return {str(key): plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    if isinstance(value, float | np.floating):
        return None if math.isnan(value) else float(value)
    return value
