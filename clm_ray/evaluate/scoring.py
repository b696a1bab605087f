"""Score the test split bucket by bucket with the model and every baseline, on Ray Data.

    buckets ─▶ actors, one model each ─▶ part files: predictions, whole-catalogue lists, retention predictions

The model is asked exactly as the endpoint asks it: `Scorer.states` of a user's events before the moment, then `click` on
candidates (given, or retrieved from the whole catalogue) or `survival`.

Shape letters: P candidates, Q moments, R references, B hazard bins, I items.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import ray
from numpy.typing import NDArray

from clm_ray.config.evaluate import EvaluateConfig
from clm_ray.data.buckets import part
from clm_ray.evaluate import slices
from clm_ray.evaluate.baselines import Baselines, ClickBaselines, retention_columns, with_offset
from clm_ray.evaluate.dataset import Case, Dataset, Occasions
from clm_ray.evaluate.outputs import rating_columns, spend_columns
from clm_ray.evaluate.retrieval import FOLDER as RETRIEVAL
from clm_ray.evaluate.retrieval import RetrievalBaselines
from clm_ray.evaluate.sampling import each_bucket, frozen_texts, pair_features
from clm_ray.metrics.ranking import tie_break
from clm_ray.model.inference import Scorer, UserRequest, UserState
from clm_ray.model.retrieval import own_items
from clm_ray.schema import TIMESTAMP

PARTS = ("click", "catalogue", "retention")
MOMENTS_AT_ONCE = 256
CANDIDATES_AT_ONCE = 100_000

OpenScorer = Callable[[Path], Scorer]


@dataclass(frozen=True)
class ScoringPlan:
    """What every worker needs to know. `parts`: where part files go."""

    dataset: Path
    model: Path
    parts: Path
    config: EvaluateConfig
    baselines: Baselines
    open_scorer: OpenScorer


def score_test(plan: ScoringPlan, *, buckets: Sequence[int], say: Callable[[str], None]) -> None:
    """Score every bucket on as many actors as the cluster has CPUs; part files are written to `plan.parts`."""
    actors = max(1, min(len(buckets), int(ray.cluster_resources().get("CPU", 1))))
    scored = each_bucket(buckets).map_batches(
        BucketScorer,
        fn_constructor_args=(plan,),
        batch_size=1,
        num_cpus=1,
        compute=ray.data.ActorPoolStrategy(size=actors),
    )
    done, rows = 0, 0
    for row in scored.iter_rows():
        done, rows = done + 1, rows + int(row["rows"])
        say(f"scored bucket {done}/{len(buckets)}, {rows:,} predictions")


class BucketScorer:
    """Ray actor: one open model, one dataset; scores the buckets it is given."""

    def __init__(self, plan: ScoringPlan) -> None:
        self.plan = plan
        self.dataset = Dataset.open(plan.dataset)
        self.scorer = plan.open_scorer(plan.model)
        self.baselines = ClickBaselines(
            plan.baselines, pair_features(self.dataset), frozen_texts(self.dataset, plan.model)
        )
        self.retrieval = RetrievalBaselines.open(
            plan.parts / RETRIEVAL, self.dataset, self.baselines.features, config=plan.config
        )
        self.item_events_I = self.dataset.training_events_I

    def __call__(self, batch: dict[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """Write the part files of each bucket; returns the number of prediction rows."""
        return {"rows": np.array([self.score(int(bucket)) for bucket in batch["item"]])}

    def score(self, bucket: int) -> int:
        """Write the part files of one bucket; returns the number of prediction rows."""
        rows = 0
        writers: dict[str, pq.ParquetWriter] = {}
        for cases in _portions(self.dataset.test_cases(bucket)):
            tables = (self._clicks(cases), self._catalogue(cases), self._retention(cases))
            for name, table in zip(PARTS, tables, strict=True):
                if table.num_rows and name not in writers:
                    writers[name] = pq.ParquetWriter(self.plan.parts / f"{name}-{part(bucket)}", table.schema)
                if table.num_rows:
                    writers[name].write_table(table)
                    rows += table.num_rows
        for writer in writers.values():
            writer.close()
        return rows

    def _clicks(self, cases: Sequence[Case]) -> pa.Table:
        """Every candidate of every shown occasion."""
        requests = [UserRequest(c.user_id, c.history, int(t)) for c in cases for t in c.shown.time_Q]
        items = [c.shown.items(q) for c in cases for q in range(len(c.shown.time_Q))]
        if not requests:
            return pa.table({})
        click, ratings = self._click(requests, items)
        item_P = np.concatenate(items)
        offset_P = np.concatenate([c.shown.offset_P for c in cases])
        moment_P = np.repeat(np.arange(len(items)), [len(one) for one in items])
        columns: dict[str, Any] = {
            **self._moments(cases, [c.shown.time_Q for c in cases], moment_P),
            "item_row": item_P,
            "label": np.concatenate([c.shown.label_P for c in cases]),
            "weight": np.concatenate([c.shown.weight_P for c in cases]),
            "probability": with_offset(np.concatenate(click), offset_P),
            "item_events": self.item_events_I[item_P].astype(np.int32),
        }
        if ratings:
            columns |= rating_columns(self.dataset.source, cases, ratings)
        for name in self.baselines.names:
            p_P = np.concatenate([self.baselines.probability(name, c.history, c.shown) for c in cases])
            columns[name] = with_offset(p_P, offset_P)
        return pa.table(columns)

    def _catalogue(self, cases: Sequence[Case]) -> pa.Table:
        """The whole catalogue ranked for each catalogue occasion: the first places of each list, and where taken items stand."""
        requests = [UserRequest(c.user_id, c.history, int(t)) for c in cases for t in c.catalogue.time_Q]
        taken = [c.catalogue.items(q) for c in cases for q in range(len(c.catalogue.time_Q))]
        if not requests:
            return pa.table({})
        lists: dict[str, list[tuple[NDArray[np.int32], NDArray[np.float32]]]] = {"model": self._retrieve(requests)}
        open_items = [self._may_be_listed(r) for r in requests]
        for name in (*self.baselines.names, *self.retrieval.names):
            lists[name] = [
                top(item_I, self._by(name, r, item_I), count=self.plan.config.retrieve)
                for r, item_I in zip(requests, open_items, strict=True)
            ]
        tables = []
        times = [c.catalogue.time_Q for c in cases]
        for name, ranked in lists.items():
            rows = [_places(*one, taken=taken[q], keep=max(self.plan.config.ks)) for q, one in enumerate(ranked)]
            moment_L = np.repeat(np.arange(len(rows)), [len(one["item_row"]) for one in rows])
            columns: dict[str, Any] = self._moments(cases, times, moment_L)
            columns["method"] = pa.array([name] * len(moment_L), pa.string())
            columns |= {key: np.concatenate([one[key] for one in rows]) for key in rows[0]}
            tables.append(pa.table(columns))
        return pa.concat_tables(tables)

    def _by(self, name: str, request: UserRequest, item_I: NDArray[np.int32]) -> NDArray[np.float32]:
        """What a baseline says about items at one moment: a probability, or the score of a retrieval baseline."""
        asked = _whole(request.time, item_I)
        if name in self.retrieval.names:
            return self.retrieval.scores(name, request.user_id, request.history, asked)
        return self.baselines.probability(name, request.history, asked)

    def _may_be_listed(self, request: UserRequest) -> NDArray[np.int32]:
        """The catalogue for the user, by the rule that retrieval follows too."""
        every_I = np.arange(1, self.dataset.items.num_rows, dtype=np.int32)
        if self.scorer.recipe.serve.repeat:
            return every_I
        return np.setdiff1d(
            every_I, own_items(request.history.before(request.time), vocabulary=self.dataset.vocabulary)
        )

    def _retention(self, cases: Sequence[Case]) -> pa.Table:
        """Every reference at the end of every hazard bin."""
        requests = [UserRequest(c.user_id, c.history, int(t)) for c in cases for t in c.references.time_R]
        days = self.dataset.recipe.retention.bin_ends
        within_RB, spend_R = self._return(requests, self._stages(cases)) if requests else (None, None)
        if within_RB is None:
            return pa.table({})
        moment_L = np.repeat(np.arange(len(requests)), len(days))
        horizon_L = np.tile(np.arange(len(days)), len(requests))
        bin_L = np.concatenate([c.references.bin_R for c in cases])[moment_L]
        seen_L = np.concatenate([c.references.seen_R for c in cases])[moment_L]
        columns: dict[str, Any] = {
            **self._moments(cases, [c.references.time_R for c in cases], moment_L),
            "horizon_days": np.array(days, np.int32)[horizon_L],
            "outcome": (bin_L <= horizon_L).astype(np.float32),
            "censored": seen_L <= horizon_L,
            "bin": bin_L,
            "seen_bins": seen_L,
            "probability": within_RB.astype(np.float32).ravel(),
        }
        x_RF = np.concatenate([retention_columns(self.dataset.source, c.history, c.references.time_R) for c in cases])
        if spend_R is not None:
            # One figure per reference, in the row of the horizon that it is for.
            longest = max(self.dataset.recipe.retention.report_days)
            spends = spend_columns(self.dataset.vocabulary, cases, spend_R, days=longest)
            if self.plan.baselines.spend is not None:
                spends["rfm_spend"] = self.plan.baselines.spend.expected(x_RF).astype(np.float32)
            for name, value_R in spends.items():
                columns[name] = np.where(columns["horizon_days"] == longest, value_R[moment_L], np.nan)
        for name, other_RB in self.plan.baselines.active_within(x_RF, self._stages(cases)).items():
            columns[name] = other_RB.astype(np.float32).ravel()
        return pa.table(columns)

    def _moments(
        self, cases: Sequence[Case], times: Sequence[NDArray[np.int64]], moment_L: NDArray[np.int64]
    ) -> dict[str, Any]:
        """Columns that say whose moment each row belongs to, and the slices it falls in."""
        time_Q = np.concatenate(times)
        vocabulary, thresholds = self.dataset.vocabulary, self.dataset.thresholds
        owner_Q = np.repeat(np.arange(len(cases)), [len(one) for one in times])
        events_Q = [
            slices.context_events(c.history, t, vocabulary=vocabulary) for c, t in zip(cases, times, strict=True)
        ]
        stage_Q = [
            slices.stages(c.history, t, vocabulary=vocabulary, thresholds=thresholds)
            for c, t in zip(cases, times, strict=True)
        ]
        names = pa.array([c.user_id for c in cases])
        user_L = pa.array(owner_Q[moment_L].astype(np.int32))
        return {
            "user": pa.DictionaryArray.from_arrays(user_L, names).cast(pa.string()),
            "timestamp": pa.array(time_Q[moment_L], TIMESTAMP),
            "user_events": np.concatenate(events_Q)[moment_L],
            "stage": slices.stage_column(np.concatenate(stage_Q)[moment_L]),
        }

    def _click(
        self, requests: Sequence[UserRequest], items: Sequence[NDArray[np.int32]]
    ) -> tuple[list[NDArray[np.float32]], list[NDArray[np.float32]]]:
        """(chances, ratings) by request; no ratings where the model has no such output."""
        clicks: list[NDArray[np.float32]] = []
        ratings: list[NDArray[np.float32]] = []
        for cut in _batches([len(one) for one in items]):
            states = self.scorer.states(requests[cut])
            clicks += self.scorer.click(states, items[cut])
            ratings += self.scorer.ratings(states, items[cut]) or []
        return clicks, ratings

    def _retrieve(self, requests: Sequence[UserRequest]) -> list[tuple[NDArray[np.int32], NDArray[np.float32]]]:
        """Retrieval, then the click head on what was retrieved: the two stages of serving."""
        result = []
        count = self.plan.config.retrieve
        for cut in _batches([count] * len(requests)):
            states: list[UserState] = self.scorer.states(requests[cut])
            rows = self.scorer.retrieve(states, count=count)
            for row_C, p_C in zip(rows, self.scorer.click(states, rows), strict=True):
                result.append(top(row_C, p_C, count=count))
        return result

    def _stages(self, cases: Sequence[Case]) -> NDArray[np.int8]:
        """int8 [R]: stage at each reference."""
        vocabulary, thresholds = self.dataset.vocabulary, self.dataset.thresholds
        return np.concatenate(
            [slices.stages(c.history, c.references.time_R, vocabulary=vocabulary, thresholds=thresholds) for c in cases]
        )

    def _return(
        self, requests: Sequence[UserRequest], stage_R: NDArray[np.int8]
    ) -> tuple[NDArray[np.float32] | None, NDArray[np.float32] | None]:
        """(chance to be active again [R, B], expected spend [R]), each None where the model has no such output."""
        within: list[NDArray[np.float32]] = []
        spend: list[NDArray[np.float32]] = []
        for cut in _batches([1] * len(requests)):
            states = self.scorer.states(requests[cut])
            back = self.scorer.survival(states, stage_B=stage_R[cut])
            for found, parts in ((back, within), (self.scorer.values(states), spend)):
                if found is not None:
                    parts.append(found)
        return (np.concatenate(within) if within else None), (np.concatenate(spend) if spend else None)


def top(
    item_C: NDArray[np.int32], score_C: NDArray[np.float32], *, count: int
) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """The `count` best items and their scores, best first; equal scores in the order of `tie_break`."""
    if len(item_C) > count:
        least = np.partition(score_C, len(score_C) - count)[len(score_C) - count]
        keep = score_C >= least
        item_C, score_C = item_C[keep], score_C[keep]
    order = np.lexsort((tie_break(item_C), -score_C))[:count]
    return item_C[order], score_C[order]


def _places(
    item_K: NDArray[np.int32], score_K: NDArray[np.float32], *, taken: NDArray[np.int32], keep: int
) -> dict[str, NDArray[Any]]:
    """Rows of one list: its first `keep` places, then every taken item beyond them (rank 0: not in the list)."""
    hit_K = np.isin(item_K, taken)
    rank_K = np.arange(1, len(item_K) + 1)
    shown_K = (rank_K <= keep) | hit_K
    missed = np.setdiff1d(taken, item_K)
    return {
        "item_row": np.concatenate([item_K[shown_K], missed]).astype(np.int32),
        "rank": np.concatenate([rank_K[shown_K], np.zeros(len(missed))]).astype(np.int32),
        "probability": np.concatenate([score_K[shown_K], np.full(len(missed), np.nan)]).astype(np.float32),
        "taken": np.concatenate([hit_K[shown_K], np.ones(len(missed))]).astype(bool),
    }


def _whole(time: int, item_I: NDArray[np.int32]) -> Occasions:
    """One moment with the whole catalogue as candidates."""
    nothing = np.empty(0, np.float32)
    return Occasions(
        np.array([time], np.int64), np.array([0, len(item_I)], np.int64), item_I, nothing, nothing, nothing
    )


def _portions(cases: Iterator[Case]) -> Iterator[list[Case]]:
    """Cases together until their candidates or moments fill a portion."""
    portion: list[Case] = []
    moments = candidates = 0
    for case in cases:
        portion.append(case)
        moments += len(case.shown.time_Q) + len(case.references.time_R)
        candidates += len(case.shown.item_P)
        if moments >= 4 * MOMENTS_AT_ONCE or candidates >= 2 * CANDIDATES_AT_ONCE:
            yield portion
            portion, moments, candidates = [], 0, 0
    if portion:
        yield portion


def _batches(sizes: Sequence[int]) -> Iterator[slice]:
    """Consecutive requests whose candidates fit in memory together; at least one each."""
    start = total = 0
    for n, size in enumerate(sizes):
        if n > start and (total + size > CANDIDATES_AT_ONCE or n - start >= MOMENTS_AT_ONCE):
            yield slice(start, n)
            start, total = n, 0
        total += size
    if start < len(sizes):
        yield slice(start, len(sizes))
