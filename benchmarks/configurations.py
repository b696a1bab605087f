"""The configurations that `benchmarks.quality` compares: names, and the recipe keys that differ from the recipe as it stands."""

from __future__ import annotations

from collections.abc import Mapping

MOVIELENS = {"ml100k.per_user": "per_user", "ml100k.global": "row_share"}
"""Rows of MovieLens-100K → `split.protocol`."""

NO_RESIDUALS = ("residual", "surprise", "pair_residual", "category_residual", "category_surprise")
"""What past events say beyond the expected: token values and features."""

CLICK_ALONE = ("train.retention_weight=0", "train.retrieval_weight=0")
RETENTION_ALONE = ("train.click_weight=0", "train.retrieval_weight=0", "train.metric=retention_auc")

FROZEN = ("model.encoder.trained_layers=0",)
NO_TEXT = ("model.use_text=false",)

NO_CATEGORIES = ("model.use_categories=false", "model.without=['category_']")

WHOLE: Mapping[str, tuple[str, ...]] = {
    "text frozen": FROZEN,
    "no text": NO_TEXT,
    "no categories": NO_CATEGORIES,
    "no categories, no text": (*NO_CATEGORIES, *NO_TEXT),
}
"""On MovieLens-100K, per user, beside the recipe itself, which trains two layers of the text encoder. The texts name the categories too."""

NEW_USERS: Mapping[str, tuple[str, ...]] = {f"one cut in time: {name}": keys for name, keys in WHOLE.items()}
"""The same with one cut in time, where most test rows are of users that were not there in training."""

ABLATIONS: Mapping[str, tuple[str, ...]] = {
    "no identifiers": ("model.use_ids=false",),
    "no item neighbours": ("model.without=['neighbour_']",),
    "no matrix factorisation": ("model.factors=null",),
    "no residuals": (f"model.without={list(NO_RESIDUALS)}",),
    "click alone": CLICK_ALONE,
    "weights not averaged": ("train.ema=0",),
    "identifiers dropped out, 0.2": ("model.id_dropout=0.2",),
    "one member": ("model.members=1",),
    "isotonic calibration": ("train.calibration=isotonic",),
    "label smoothing 0.05": ("train.label_smoothing=0.05",),
    "also the rating": ("model.outputs=['rating']",),
    **{f"interaction: {name}": (f"model.interactions=['{name}']",) for name in ("linear", "fm", "nfm", "neumf", "dcn")},
    "interaction: attention + dcn": ("model.interactions=['attention', 'dcn']",),
    **{
        f"equal {of} of women and men, weight {weight}": (
            f"train.fairness={{user_column: gender, of: {of}, weight: {weight}}}",
        )
        for of, weight in (("exposure", 10), ("exposure", 100), ("error", 100))
    },
}
"""On MovieLens-100K, per user, all with frozen text and beside the row "text frozen": a quarter of the time."""

DATA_SHARES: Mapping[str, tuple[str, ...]] = {
    f"{share:g} % of the users, {text}": (f"train.user_share={share / 100}", *keys)
    for share in (1, 10, 100)
    for text, keys in (("text trained", ()), ("text frozen", FROZEN), ("no text", NO_TEXT))
}
"""On MovieLens-100K, per user."""

JOURNEY: Mapping[str, tuple[str, ...]] = {
    "as the recipe says": (),
    "text frozen": FROZEN,
    "no text": NO_TEXT,
    "no identifiers": ABLATIONS["no identifiers"],
    "click alone": CLICK_ALONE,
    "retention alone": RETENTION_ALONE,
    "also spend and next action": ("model.outputs=['value', 'next_action']",),
}
"""On The Complete Journey."""

RETENTION_DATA = (
    "impressions.per_occasion=1",
    "impressions.positives_per_occasion=1",
    "impressions.test_occasions=1",
    "impressions.catalogue_occasions=0",
)
"""On The Complete Journey for `benchmarks.retention`: references as the recipe has them, and next to nothing about clicks, which are not learned there."""

SELECTION_PERIODS: Mapping[str, tuple[tuple[str, ...], tuple[int, int]]] = {
    "days 182 to 210": (("split.train_end=2017-06-04", "split.valid_end=2017-07-02"), (182, 210)),
    "days 238 to 266": (("split.train_end=2017-07-30", "split.valid_end=2017-08-27"), (238, 266)),
}
"""Cuts, and days of the references that settings are judged on: everything lies before the recipe's own test period. Training ends 28 days before
calibration does."""

RETENTION: Mapping[str, tuple[str, ...]] = {
    "6 epochs": ("train.epochs=6",),
    "6 epochs, weights averaged": ("train.epochs=6", "train.ema=0.99"),
    "3 epochs, nothing that only grows": ("train.epochs=3", "model.retention_cumulative=false"),
    "2 epochs, weights averaged, the user's state too": (
        "train.epochs=2",
        "train.ema=0.99",
        "model.retention_state=true",
    ),
}
"""What `benchmarks.retention` chooses from, each the retention head alone and without text."""
RETENTION_BASE = (*RETENTION_ALONE, *NO_TEXT, "train.patience=12")
