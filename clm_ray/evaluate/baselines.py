"""What a model must beat: simple rules turned into honest probabilities.

Every baseline uses only what was known at the moment: the user's events strictly before it, the item statistics of the days
before. Its scores become probabilities by a logistic regression on training targets (with their weights and sampling
offset), and are calibrated on the validation split as the model is (`calibrated.py`), so that log loss and calibration can be compared.

Shape letters: N events of one user, P candidates, F features, R references, B hazard bins.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, logit

from clm_ray.config.recipe import Recipe
from clm_ray.evaluate import calibrated, logistic
from clm_ray.evaluate.boosting import Boosted, fit_boosted
from clm_ray.evaluate.dataset import Occasions
from clm_ray.evaluate.logistic import Logistic
from clm_ray.evaluate.sample import Sample
from clm_ray.evaluate.spending import SpendLine, fit_spend
from clm_ray.evaluate.text_baseline import FrozenTexts, TextLogistic, fit_text
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.features.spec import FeatureSource, retention_feature_names
from clm_ray.features.statistics import ItemStatistics, day_of
from clm_ray.metrics import survival
from clm_ray.model.calibration import IDENTITY, Calibration
from clm_ray.model.retention_calibration import RetentionCalibration

Floats = NDArray[np.float64]

TITLES = {
    "model": "model",
    "popularity": "popularity",
    "repurchase": "repurchase",
    "means": "user and item means",
    "text_logistic": "LR on frozen text vectors",
    "als": "ALS (implicit)",
    "item_knn": "item-kNN",
    "user_knn": "user-kNN",
    "recency": "recency only",
    "rfm": "LR on recency, frequency, spend",
    "boosting": "boosted trees on the same",
    "mean_rating": "mean ratings of item and user",
    "past_spend": "spend in as many days before",
    "rfm_spend": "least squares on recency, frequency, spend",
}
"""How methods are called in tables and pictures."""

_DAYS_KEPT = 64


@dataclass(frozen=True)
class PairFeatures:
    """The few columns that the tabular click baselines look at."""

    statistics: ItemStatistics
    vocabulary: EventVocabulary
    prior: float
    items: int
    _shares: dict[int, Floats] = field(default_factory=dict)

    def of(self, name: str, history: History, occasions: Occasions) -> Floats:
        """[P, F] columns of the baseline `name`."""
        columns: dict[str, Callable[[History, Occasions], Floats]] = {
            "popularity": self.popularity,
            "repurchase": self.repurchase,
            "means": self.means,
        }
        return columns[name](history, occasions)

    def popularity(self, history: History, occasions: Occasions) -> Floats:
        """[P, 1] log of the item's share of all positive events up to the day before, one pseudo-event per item."""
        item_P, day_P = occasions.item_P, day_of(occasions.time_P)
        share_P = np.empty(len(item_P))
        for day in np.unique(day_P):
            at = np.flatnonzero(day_P == day)
            few = len(at) < self.items // 4
            share_P[at] = self._share(item_P[at], int(day)) if few else self._share_of_day(int(day))[item_P[at]]
        return share_P[:, None]

    def _share(self, item_P: NDArray[np.int32], day: int) -> Floats:
        day_P = np.full(len(item_P), day, np.int64)
        total = self.statistics.positives(np.zeros(1, np.int32), day_P[:1])[0] if len(item_P) else 0.0
        return np.log(self.statistics.positives(item_P, day_P) + 1.0) - np.log(total + self.items)

    def _share_of_day(self, day: int) -> Floats:
        if day not in self._shares:
            if len(self._shares) >= _DAYS_KEPT:
                self._shares.pop(next(iter(self._shares)))
            self._shares[day] = self._share(np.arange(self.items, dtype=np.int32), day)
        return self._shares[day]

    def repurchase(self, history: History, occasions: Occasions) -> Floats:
        """[P, 3] whether and (log) how often the user took this item before the moment, then its popularity."""
        count_P = self._count_before(history, occasions)
        return np.column_stack([count_P > 0, np.log1p(count_P), self.popularity(history, occasions)[:, 0]])

    def _count_before(self, history: History, occasions: Occasions) -> Floats:
        taken = history.select(self.vocabulary.labels(history) == 1.0)
        before_P = np.searchsorted(taken.time_N, occasions.time_Q, side="left")[occasions.moment_P]
        # (item, place in time) as one sorted key: how many of an item stand before a place is one search.
        span = len(taken) + 1
        key_N = np.sort(taken.item_N.astype(np.int64) * span + np.arange(len(taken)))
        first_P = occasions.item_P.astype(np.int64) * span
        return (np.searchsorted(key_N, first_P + before_P) - np.searchsorted(key_N, first_P)).astype(np.float64)

    def means(self, history: History, occasions: Occasions) -> Floats:
        """[P, 2] log odds of the user's and of the item's share of positives, each shrunk to that of all items."""
        day_P = day_of(occasions.time_P)
        label_N = self.vocabulary.labels(history)
        known = history.select(~np.isnan(label_N))
        sum_N = np.concatenate([[0.0], np.cumsum(self.vocabulary.labels(known), dtype=np.float64)])
        before_P = np.searchsorted(known.time_N, occasions.time_Q, side="left")[occasions.moment_P]
        overall_P = self.statistics.like_rate(np.zeros(len(day_P), np.int32), day_P, prior=self.prior)
        user_P = (sum_N[before_P] + self.prior * overall_P) / (before_P + self.prior)
        item_P = self.statistics.like_rate(occasions.item_P, day_P, prior=self.prior)
        return np.asarray(logit(np.clip(np.column_stack([user_P, item_P]), 1e-4, 1 - 1e-4)))


@dataclass(frozen=True)
class Baselines:
    """The fitted baselines, coefficients alone. `click`: the tabular ones. `retention`: name → one regression per hazard bin end;
    `boosted`: trees in the same place, None without LightGBM; `spend`: None where no training reference says what was spent.
    `click_scale`, `return_scale`: name → calibration on the validation split; names that are missing have none."""

    click: Mapping[str, Logistic]
    text: TextLogistic | None
    retention: Mapping[str, tuple[Logistic, ...]]
    boosted: Boosted | None = None
    spend: SpendLine | None = None
    click_scale: Mapping[str, Calibration] = field(default_factory=dict)
    return_scale: Mapping[str, RetentionCalibration] = field(default_factory=dict)

    def active_within(self, recency_RF: Floats, stage_R: NDArray[np.int8]) -> dict[str, Floats]:
        """[R, B] P(active again by the end of each bin) by each retention baseline, from `retention_columns` and the stages of the users."""
        return {
            name: calibrated.returns(self.return_scale[name], within_RB, stage_R)
            if name in self.return_scale
            else within_RB
            for name, within_RB in self._active_within(recency_RF).items()
        }

    def _active_within(self, recency_RF: Floats) -> dict[str, Floats]:
        """Without calibration."""
        result = {}
        for name, fitted in self.retention.items():
            x_RF = recency_RF[:, :1] if name == "recency" else recency_RF
            columns = [one.probability(x_RF) for one in fitted]
            # Horizons are fitted one by one; the chance to be back never falls with the days.
            result[name] = np.maximum.accumulate(np.column_stack(columns), axis=1)
        if self.boosted is not None:
            result["boosting"] = self.boosted.active_within(recency_RF)
        return result


@dataclass(frozen=True)
class ClickBaselines:
    """The fitted click baselines together with the data that they look at."""

    fitted: Baselines
    features: PairFeatures
    texts: FrozenTexts | None

    @property
    def names(self) -> tuple[str, ...]:
        """Names of the baselines that can be asked."""
        return (*self.fitted.click, *(("text_logistic",) if self.fitted.text else ()))

    def probability(self, name: str, history: History, occasions: Occasions) -> NDArray[np.float32]:
        """float32 [P]: P(label = 1) of each candidate."""
        if name == "text_logistic":
            assert self.fitted.text is not None
            assert self.texts is not None
            found_P: NDArray[np.floating] = self.fitted.text.probability(
                self.texts, history=history, occasions=occasions
            )
        else:
            found_P = self.fitted.click[name].probability(self.features.of(name, history, occasions))
        return calibrated.click(self.fitted.click_scale.get(name, IDENTITY), found_P)


def click_baselines(recipe: Recipe) -> tuple[str, ...]:
    """Names of the tabular click baselines of a recipe: repurchase where items are taken again, means where they are rated."""
    return ("popularity", "means") if recipe.impressions.negatives == "explicit" else ("popularity", "repurchase")


def retention_columns(source: FeatureSource, history: History, time_R: NDArray[np.int64]) -> Floats:
    """[R, F] log days since the last activity first, then tenure, gaps between active days, active days and spend per window; as of each
    reference."""
    names = retention_feature_names(source.recipe)
    chosen = ["log_days_since_active", "log_tenure_days", "log_mean_gap_days", "log_sd_gap_days", "log_overdue"]
    for days in source.recipe.features.windows_days:
        chosen += [f"log_active_days_{days}d", f"log_spend_{days}d"]
    where = [names.index("user_" + name) for name in chosen]
    return source.retention(history, time_R)[:, where].astype(np.float64)


def fit_baselines(sample: Sample, *, texts: FrozenTexts | None, bins: int, later: Sample | None = None) -> Baselines:
    """Fit every baseline on the training sample, and calibrate it on `later`, that of the validation split; None: not at all."""
    click = {
        name: logistic.fit_rising(x_PF, label=sample.label_P, weight=sample.weight_P, offset=sample.offset_P)
        for name, x_PF in sample.columns.items()
    }
    text = None
    if texts is not None:
        text = fit_text(
            texts,
            mean_MH=sample.mean_MH,
            moment_P=sample.moment_P,
            item_P=sample.item_P,
            label_P=sample.label_P,
            weight_P=sample.weight_P,
            offset_P=sample.offset_P,
        )
    retention: dict[str, tuple[Logistic, ...]] = {}
    boosted = spend = None
    if len(sample.bin_R):
        for name, width in (("recency", 1), ("rfm", sample.recency_RF.shape[1])):
            retention[name] = tuple(_fit_horizon(sample, horizon=j, width=width) for j in range(bins))
        boosted = fit_boosted(sample.recency_RF, bin_R=sample.bin_R, seen_R=sample.seen_R, bins=bins)
        spend = fit_spend(sample.recency_RF, sample.value_R)
    fitted = Baselines(click, text, retention, boosted, spend)
    return fitted if later is None else _calibrated(fitted, later, texts)


def _calibrated(fitted: Baselines, later: Sample, texts: FrozenTexts | None) -> Baselines:
    chance: dict[str, NDArray[np.floating]] = {
        name: one.probability(later.columns[name]) for name, one in fitted.click.items()
    }
    if fitted.text is not None and texts is not None:
        chance["text_logistic"] = fitted.text.of_sample(
            texts, mean_MH=later.mean_MH, moment_P=later.moment_P, item_P=later.item_P
        )
    within = fitted._active_within(later.recency_RF) if len(later.bin_R) else {}
    return replace(
        fitted,
        click_scale={name: calibrated.fit_click(chance_P, later) for name, chance_P in chance.items()},
        # By stage, "recency only" would be told more than recency.
        return_scale={
            name: calibrated.fit_returns(within_RB, later, by_stage=name != "recency")
            for name, within_RB in within.items()
        },
    )


def _fit_horizon(sample: Sample, *, horizon: int, width: int) -> Logistic:
    at = survival.outcome(sample.bin_R, seen=sample.seen_R, horizon=horizon)
    return logistic.fit(sample.recency_RF[at.known_R, :width], label=at.active_R[at.known_R])


def with_offset(probability_P: NDArray[np.float32], offset_P: NDArray[np.float32]) -> NDArray[np.float32]:
    """Shift the log odds by the candidates' offset (0 where every candidate was kept)."""
    if not offset_P.any():
        return probability_P
    safe_P = np.clip(probability_P.astype(np.float64), 1e-9, 1 - 1e-9)
    return np.asarray(expit(logit(safe_P) + offset_P), np.float32)
