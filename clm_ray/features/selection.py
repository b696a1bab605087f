"""Feature selection by rule: constant, duplicated, leaking and useless columns are dropped, each with its reason.

Fitted on train rows only.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from clm_ray.config.data import FeaturesConfig
from clm_ray.features.spec import Selection

_BINS = 20


def select(
    dense_RF: NDArray[np.float32], label_R: NDArray[np.float32], *, names: tuple[str, ...], config: FeaturesConfig
) -> Selection:
    """Choose columns of `dense_RF` [rows, features] given binary labels (rows with a NaN label are not looked at)."""
    known = ~np.isnan(label_R)
    dense, label = dense_RF[known].astype(np.float64), label_R[known]
    dropped: dict[str, str] = {}
    chosen: list[int] = []
    if len(dense):
        mean, sd = dense.mean(0), dense.std(0)
        standard = (dense - mean) / np.where(sd > 0, sd, 1.0)
    for f, name in enumerate(names):
        reason = "no train rows" if not len(dense) else _reason(f, dense, label, sd, config)
        if reason is None:
            for earlier in chosen:
                correlation = abs(float((standard[:, f] * standard[:, earlier]).mean()))
                if correlation > config.max_correlation:
                    reason = f"duplicated: correlation {correlation:.4f} with {names[earlier]}"
                    break
        if reason is None:
            chosen.append(f)
        else:
            dropped[name] = reason
    return Selection(
        names=names,
        chosen=tuple(names[f] for f in chosen),
        dropped=dropped,
        mean=tuple(float(mean[f]) for f in chosen),
        scale=tuple(float(sd[f]) for f in chosen),
    )


def _reason(
    f: int, dense: NDArray[np.float64], label: NDArray[np.float32], sd: NDArray[np.float64], config: FeaturesConfig
) -> str | None:
    if sd[f] < 1e-6:
        return "constant"
    auc = single_auc(dense[:, f], label)
    if max(auc, 1 - auc) > config.max_auc:
        return f"leaking: separates the labels alone with AUC {max(auc, 1 - auc):.4f}"
    information = mutual_information(dense[:, f], label)
    if information < config.min_information:
        return f"useless: mutual information {information:.1e} nats with the label"
    return None


def single_auc(value: NDArray[np.float64], label: NDArray[np.float32]) -> float:
    """AUC of one column as a score (ties count half); 0.5 where one class is missing."""
    positives = int(label.sum())
    negatives = len(label) - positives
    if positives == 0 or negatives == 0:
        return 0.5
    ranks = rankdata(value)
    return float((ranks[label == 1].sum() - positives * (positives + 1) / 2) / (positives * negatives))


def mutual_information(value: NDArray[np.float64], label: NDArray[np.float32]) -> float:
    """Mutual information (nats) of the label and the column cut into equal-mass bins, less its bias under independence.

    The bias of the plug-in estimate, (bins - 1) / (2 rows), is subtracted (Miller, 1955).
    """
    edges = np.unique(np.quantile(value, np.linspace(0, 1, _BINS + 1)[1:-1]))
    code = np.searchsorted(edges, value, side="right")
    joint = np.stack([np.bincount(code, label == y, minlength=len(edges) + 1) for y in (0, 1)]) / len(label)
    outer = joint.sum(1, keepdims=True) * joint.sum(0, keepdims=True)
    cells = joint > 0
    plain = float((joint[cells] * np.log(joint[cells] / outer[cells])).sum())
    used = int((joint.sum(0) > 0).sum())
    return plain - (used - 1) / (2 * len(label))
