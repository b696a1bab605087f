"""Bayesian matrix factorisation of ratings (Salakhutdinov & Mnih, 2008), with biases: what a user whose taste is constant would give an item.

rating = mean + user bias + item bias + user · item + noise. Users and items have normal priors whose mean and precision are drawn as well
(normal-Wishart), so how strongly each is held back is learned and not tuned. Gibbs sampling; the prediction is the mean over the kept samples.
Of these the items' vectors are kept and the users' prior. A user's own vector follows from the ratings given so far (its posterior mean), so that
users who were not there in training have one too, and every new rating counts at once.

Shape letters: N ratings, I item rows, C candidates, S samples, K width, L = K + 1 (the last is the bias), F = S · (L + 1).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file
from scipy.stats import wishart

from clm_ray.config.model import FactorsConfig

ITEMS, PRIOR = "item_factors.npy", "factors.safetensors"
"""Files of a model folder. Nothing in them is about one user."""

_RATINGS_AT_ONCE = 1 << 17
_PRIOR_ROWS = 2.0
"""How many rows the prior of a mean counts for."""

Floats = NDArray[np.float64]


@dataclass(frozen=True)
class Ratings:
    """user_N: number of the user, item_N: item row; `users`, `items`: how many there are of either."""

    users: int
    items: int
    user_N: NDArray[np.int64]
    item_N: NDArray[np.int64]
    rating_N: Floats


@dataclass(frozen=True)
class Factors:
    """item_IF: of each sample the item's vector, 1, and its bias; NaN for items without a rating. Users' prior and noise by sample; mean and spread
    of the training ratings, in whose units all these are."""

    item_IF: NDArray[np.float32]
    mean_SL: NDArray[np.float64]
    precision_SLL: NDArray[np.float64]
    noise_S: NDArray[np.float64]
    mean: float
    spread: float

    def rated(self, item_C: NDArray[np.int32]) -> NDArray[np.bool_]:
        """bool [C]: the item had a rating in training. Rows beyond the catalogue of then are allowed."""
        rated_C: NDArray[np.bool_] = item_C < len(self.item_IF)
        rated_C[rated_C] = ~np.isnan(self.item_IF[item_C[rated_C], 0])
        return rated_C

    def taste(self, item_N: NDArray[np.int32], rating_N: NDArray[np.float32]) -> NDArray[np.float32] | None:
        """float32 [F]: of each sample the user's vector, bias, and 1, given what the user rated; None where none of it counts."""
        counts_N = self.rated(item_N) & ~np.isnan(rating_N)
        if not counts_N.any():
            return None
        samples, length = self.mean_SL.shape
        found_NSX = self.item_IF[item_N[counts_N]].reshape(-1, samples, length + 1).astype(np.float64)
        x_SNL = found_NSX[:, :, :length].transpose(1, 0, 2)
        value_N = (rating_N[counts_N].astype(np.float64) - self.mean) / self.spread
        left_SN = (value_N[:, None] - found_NSX[:, :, length]).T
        posterior = self.precision_SLL + self.noise_S[:, None, None] * (x_SNL.transpose(0, 2, 1) @ x_SNL)
        right = self._pull_SL + self.noise_S[:, None] * (x_SNL * left_SN[:, :, None]).sum(1)
        vector_SL = np.linalg.solve(posterior, right[:, :, None])[:, :, 0]
        return _beside(vector_SL, 1.0).astype(np.float32).ravel()

    def expected(self, taste_F: NDArray[np.float32] | None, item_C: NDArray[np.int32]) -> NDArray[np.float32]:
        """float32 [C]: expected rating of each item row; NaN for items without one in training, and where there is no taste."""
        expected_C = np.full(len(item_C), np.nan, np.float32)
        if taste_F is not None:
            there_C = item_C < len(self.item_IF)
            product_C = self.item_IF[item_C[there_C]] @ taste_F
            expected_C[there_C] = self.mean + self.spread / len(self.noise_S) * product_C
        return expected_C

    @cached_property
    def _pull_SL(self) -> Floats:
        """Precision times mean of the users' prior."""
        return np.einsum("slk,sk->sl", self.precision_SLL, self.mean_SL)

    def save(self, folder: Path) -> None:
        """Write ITEMS and PRIOR; PRIOR, the last, says that both are there."""
        np.save(folder / ITEMS, self.item_IF)
        scale = np.array([self.mean, self.spread])
        building = folder / f".{PRIOR}"
        save_file(
            {"mean": self.mean_SL, "precision": self.precision_SLL, "noise": self.noise_S, "scale": scale}, building
        )
        building.replace(folder / PRIOR)

    @staticmethod
    def open(folder: Path) -> Factors | None:
        """Those of a folder; None where it has none. Item vectors are mapped into memory: the processes of a node share one copy."""
        if not (folder / PRIOR).is_file():
            return None
        prior = load_file(folder / PRIOR)
        mean, spread = prior["scale"].tolist()
        items = np.load(folder / ITEMS, mmap_mode="r")
        return Factors(items, prior["mean"], prior["precision"], prior["noise"], mean, spread)


def factorise(ratings: Ratings, config: FactorsConfig, *, seed: int) -> Factors:
    """Sample the factors. The time of a sweep grows with ratings · width², the memory does not grow with the ratings."""
    mean = float(ratings.rating_N.mean())
    spread = float(ratings.rating_N.std()) or 1.0
    value_N = (ratings.rating_N - mean) / spread
    by_user = _Grouped.of(ratings.user_N, ratings.users, other_N=ratings.item_N, value_N=value_N)
    by_item = _Grouped.of(ratings.item_N, ratings.items, other_N=ratings.user_N, value_N=value_N)
    rated_I = by_item.count > 0
    rng = np.random.default_rng(seed)
    user_UL = rng.normal(0.0, 0.1, (ratings.users, config.width + 1))
    item_IL = np.where(rated_I[:, None], rng.normal(0.0, 0.1, (ratings.items, config.width + 1)), 0.0)
    noise = 1.0
    priors: list[_Prior] = []
    noises: list[float] = []
    items: list[Floats] = []
    for sweep in range(1, config.burn_in + config.samples * config.thin + 1):
        prior, drawn_with = _prior(user_UL, rng), noise
        user_UL = _sampled(by_user, item_IL, prior, noise, rng)
        # Only rated items say how items are spread.
        item_IL = _sampled(by_item, user_UL, _prior(item_IL[rated_I], rng), noise, rng)
        noise = rng.gamma(1.0 + len(value_N) / 2, 1.0 / (1.0 + by_user.squared_error(user_UL, item_IL) / 2))
        if sweep > config.burn_in and (sweep - config.burn_in) % config.thin == 0:
            priors.append(prior)
            noises.append(drawn_with)
            items.append(np.column_stack([item_IL[:, :-1], np.ones(ratings.items), item_IL[:, -1]]))
    item_IF = np.concatenate(items, axis=1).astype(np.float32)
    item_IF[~rated_I] = np.nan
    return Factors(
        item_IF,
        np.stack([prior.mean_L for prior in priors]),
        np.stack([prior.precision_LL for prior in priors]),
        np.array(noises),
        mean,
        spread,
    )


@dataclass(frozen=True)
class _Grouped:
    """Ratings in the order of the users (or items) that they belong to; those of row r are start[r] ≤ n < start[r + 1]."""

    start: NDArray[np.int64]
    other_N: NDArray[np.int64]
    value_N: Floats

    @staticmethod
    def of(own_N: NDArray[np.int64], rows: int, *, other_N: NDArray[np.int64], value_N: Floats) -> _Grouped:
        order = np.argsort(own_N, kind="stable")
        return _Grouped(np.searchsorted(own_N[order], np.arange(rows + 1)), other_N[order], value_N[order])

    @property
    def count(self) -> NDArray[np.int64]:
        """Ratings of each row."""
        return np.diff(self.start)

    def portions(self) -> Iterator[tuple[int, int]]:
        """Consecutive rows [first, last) with a bounded number of ratings together, one row at least."""
        first, rows = 0, len(self.start) - 1
        while first < rows:
            last = int(np.searchsorted(self.start, self.start[first] + _RATINGS_AT_ONCE, side="right")) - 1
            last = min(max(last, first + 1), rows)
            yield first, last
            first = last

    def sums(self, first: int, last: int, other: Floats) -> tuple[Floats, Floats]:
        """(Σ x xᵀ [R, L, L], Σ x · value less the other's bias [R, L]) of some rows; x is the other's vector, with 1 beside it."""
        length = other.shape[1]
        products, moments = np.zeros((last - first, length, length)), np.zeros((last - first, length))
        begin, end = int(self.start[first]), int(self.start[last])
        row_N = np.repeat(np.arange(last - first), self.count[first:last])
        # One row may have more ratings than are taken at once.
        for cut in range(begin, end, _RATINGS_AT_ONCE):
            at = slice(cut, min(cut + _RATINGS_AT_ONCE, end))
            found = other[self.other_N[at]]
            x_NL = _beside(found[:, :-1], 1.0)
            value_N = self.value_N[at] - found[:, -1]
            here_N = row_N[at.start - begin : at.stop - begin]
            starts = np.flatnonzero(np.diff(here_N, prepend=-1))
            outer = (x_NL[:, :, None] * x_NL[:, None, :]).reshape(len(x_NL), -1)
            products[here_N[starts]] += np.add.reduceat(outer, starts, axis=0).reshape(-1, length, length)
            moments[here_N[starts]] += np.add.reduceat(x_NL * value_N[:, None], starts, axis=0)
        return products, moments

    def squared_error(self, own: Floats, other: Floats) -> float:
        """Σ (value - what the vectors say)²."""
        total = 0.0
        for first, last in self.portions():
            begin, end = int(self.start[first]), int(self.start[last])
            row_N = np.repeat(np.arange(first, last), self.count[first:last])
            for cut in range(begin, end, _RATINGS_AT_ONCE):
                at = slice(cut, min(cut + _RATINGS_AT_ONCE, end))
                a, b = own[row_N[at.start - begin : at.stop - begin]], other[self.other_N[at]]
                said_N = (a[:, :-1] * b[:, :-1]).sum(1) + a[:, -1] + b[:, -1]
                total += float(np.square(self.value_N[at] - said_N).sum())
        return total


@dataclass(frozen=True)
class _Prior:
    """Normal distribution of the vectors of users, or of items."""

    mean_L: Floats
    precision_LL: Floats


def _prior(vector_RL: Floats, rng: np.random.Generator) -> _Prior:
    """A draw given the vectors; the prior of mean and precision is normal-Wishart with the identity as its scale."""
    rows, length = vector_RL.shape
    mean_L = vector_RL.mean(0)
    centred = vector_RL - mean_L
    scatter = np.eye(length) + centred.T @ centred
    scatter += _PRIOR_ROWS * rows / (_PRIOR_ROWS + rows) * np.outer(mean_L, mean_L)
    scale = np.linalg.inv(scatter)
    precision = np.atleast_2d(wishart(df=length + rows, scale=(scale + scale.T) / 2).rvs(random_state=rng))
    drawn = rng.multivariate_normal(
        rows * mean_L / (_PRIOR_ROWS + rows), np.linalg.inv((_PRIOR_ROWS + rows) * precision), method="cholesky"
    )
    return _Prior(drawn, precision)


def _sampled(grouped: _Grouped, other: Floats, prior: _Prior, precision: float, rng: np.random.Generator) -> Floats:
    """[R, L]: a draw of every vector given its ratings and the other side's vectors."""
    drawn = np.empty((len(grouped.start) - 1, other.shape[1]))
    for first, last in grouped.portions():
        products, moments = grouped.sums(first, last, other)
        posterior = prior.precision_LL + precision * products
        right = prior.mean_L @ prior.precision_LL + precision * moments
        noise = rng.normal(size=(last - first, other.shape[1], 1))
        upper = np.swapaxes(np.linalg.cholesky(posterior), 1, 2)
        drawn[first:last] = (np.linalg.solve(posterior, right[:, :, None]) + np.linalg.solve(upper, noise))[:, :, 0]
    return drawn


def _beside(vectors: Floats, value: float) -> Floats:
    """The vectors with one more column of `value`."""
    return np.concatenate([vectors, np.full((len(vectors), 1), value)], axis=1)
