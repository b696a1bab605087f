"""The configurations that `benchmarks.quality` compares: names, and the recipe keys that differ from the recipe as it stands."""

from __future__ import annotations

from collections.abc import Mapping

MOVIELENS = {"ml100k.per_user": "per_user", "ml100k.global": "row_share"}
"""Rows of MovieLens-100K → `split.protocol`."""

NO_RESIDUALS = ("residual", "surprise", "pair_residual", "category_residual", "category_surprise")
"""What past events say beyond the expected: token values and features."""

CLICK_ALONE = ("train.retention_weight=0", "train.retrieval_weight=0")
RETENTION_ALONE = ("train.click_weight=0", "train.retrieval_weight=0", "train.metric=retention_auc")

ABLATIONS: Mapping[str, tuple[str, ...]] = {
    "text frozen": ("model.encoder.trained_layers=0",),
    "no text": ("model.use_text=false",),
    "no identifiers": ("model.use_ids=false",),
    "no item neighbours": ("model.without=['neighbour_']",),
    "no residuals": (f"model.without={list(NO_RESIDUALS)}",),
    "click alone": CLICK_ALONE,
    "weights not averaged": ("train.ema=0",),
    "no dropout of identifiers": ("model.id_dropout=0",),
    **{f"interaction: {name}": (f"model.interactions=['{name}']",) for name in ("linear", "fm", "nfm", "neumf", "dcn")},
    "interaction: attention + dcn": ("model.interactions=['attention', 'dcn']",),
}
"""On MovieLens-100K, per user."""

DATA_SHARES: Mapping[str, tuple[str, ...]] = {
    f"{share:g} % of the users, {text}": (f"train.user_share={share / 100}", *keys)
    for share in (1, 10)
    for text, keys in (("with text", ()), ("without text", ("model.use_text=false",)))
}
"""On MovieLens-100K, per user; the rows of 100 % are the recipe itself and "no text"."""

JOURNEY: Mapping[str, tuple[str, ...]] = {
    "as the recipe says": (),
    "text frozen": ABLATIONS["text frozen"],
    "no text": ABLATIONS["no text"],
    "no identifiers": ABLATIONS["no identifiers"],
    "click alone": CLICK_ALONE,
    "retention alone": RETENTION_ALONE,
}
"""On The Complete Journey."""
