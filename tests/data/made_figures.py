"""The figures of a made log, from any number of buckets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from made_bucket import builder_of
from made_logs import DAYS, START, VOCABULARY, Row, table_of

from clm_ray.config.recipe import Recipe
from clm_ray.data.bucket_figures import BucketFigures, Frame, WindowFigures, bucket_figures, frame_of
from clm_ray.data.bucket_lives import bucket_lives
from clm_ray.data.life_counts import LifeCounts
from clm_ray.data.report.figures import Figures, make_figures
from clm_ray.features.spec import FeatureSpec, Selection, click_feature_names, retention_feature_names
from clm_ray.lifecycle.stages import Thresholds
from clm_ray.schema import DAY_US

THRESHOLDS = Thresholds(new_days=7, at_risk_days=3, churned_days=7, reactivated_days=7)
LOG_END = START + DAYS * DAY_US + 1
"""After any made log, so that its splits have their dates."""


def is_activity(row: Row) -> bool:
    """Whether the row's type has the role."""
    return VOCABULARY.types[row.type].roles.count("activity") > 0


def frame_for(log: Sequence[Row], made: Recipe) -> Frame:
    """The frame of the whole log."""
    active = [row.time for row in log if is_activity(row)]
    last = max(row.time for row in log)
    return frame_of(
        VOCABULARY,
        builder_of(log, made, log_end=LOG_END).plan,
        first_us=min(row.time for row in log),
        last_us=last,
        last_activity_us=max(active, default=None),
        max_context=made.sequences.max_context,
    )


def counts_of(log: Sequence[Row], made: Recipe, *, users: Sequence[str]) -> BucketFigures:
    """What a bucket of these users adds."""
    mine = [row for row in log if row.user in users]
    builder = builder_of(log, made, log_end=LOG_END)
    table = table_of(mine)
    return bucket_figures(table, WindowFigures.of(builder.build(table).windows).figures(), frame=frame_for(log, made))


def all_features(made: Recipe) -> FeatureSpec:
    """Every feature selected."""

    def every(names: tuple[str, ...]) -> Selection:
        return Selection(names, names, {}, (0.0,) * len(names), (1.0,) * len(names))

    return FeatureSpec(every(click_feature_names(made)), every(retention_feature_names(made)))


def lives_of(log: Sequence[Row], made: Recipe) -> LifeCounts:
    """The life cycle of all users of the log."""
    return LifeCounts.of([bucket_lives(table_of(log), VOCABULARY, THRESHOLDS)], frame_for(log, made))


def figures_of(counts: BucketFigures, log: Sequence[Row], made: Recipe, **more: Any) -> Figures:
    """The figures of these counts."""
    frame = frame_for(log, made)
    return make_figures(
        counts, made, all_features(made), THRESHOLDS, lives_of(log, made), frame=frame, catalogue=6, **more
    )
