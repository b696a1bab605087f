"""What the gateway needs of a release: enough to check requests, name items and fall back on what is popular; no torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from numpy.typing import NDArray

from clm_ray.config.policy import Stage
from clm_ray.config.recipe import Recipe
from clm_ray.data.clean import Rules, rules_of
from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.statistics import STATISTICS, ItemStatistics
from clm_ray.privacy import Pseudonyms, check_fingerprint, open_pseudonyms
from clm_ray.release.read import manifest_of, missing_file, recipe_of
from clm_ray.release.stage_choices import STAGE_CHOICES, stage_orders
from clm_ray.serve.item_rules import NONE_FORBIDDEN, Forbidden, ItemRules
from clm_ray.serve.popular import Popular, popular_rows
from clm_ray.serve.shelf import STOCK, Shelf


@dataclass(frozen=True)
class ServedCatalogue:
    """One release as the gateway sees it. popular_I: rows, most popular first. popular_at: the same by life-cycle stage, where the log said something
    about it. pseudonyms: None where users keep their ids."""

    release: str
    recipe: Recipe
    catalogue: Catalogue
    vocabulary: EventVocabulary
    popular_I: NDArray[np.int32]
    pseudonyms: Pseudonyms | None = None
    popular_at: Mapping[str, NDArray[np.int32]] = field(default_factory=dict)
    arm: str = ""
    """Which arm of a split this release is; empty where there is no split."""
    stock: pa.Table | None = None
    """Columns STOCK of the items; None: all are available, without flags."""
    amended_shelf: Shelf | None = None
    """With the items that were put or deleted since; None: as the release has it."""

    item_rules: ItemRules | None = None
    """Rules about items; None where the policy has none."""

    def known_as(self, user_id: str) -> str:
        """The id under which everything behind the gateway knows a caller's user."""
        return user_id if self.pseudonyms is None else self.pseudonyms.of(user_id)

    def forbidden(self, user_id: str, *, stage: Stage | None) -> Forbidden:
        """What rules about items say of this user. `stage`: None where it is not known."""
        if self.item_rules is None:
            return NONE_FORBIDDEN
        return self.item_rules.forbidden(user_id, stage=stage, catalogue=self.catalogue)

    def popular(self, stage: str | None) -> NDArray[np.int32]:
        """As `Popular.rows`."""
        return self._popular.rows(stage)

    def popular_place(self, stage: str | None) -> NDArray[np.int64]:
        """place_I: of each row of the catalogue in `popular`; those that are not in it come last."""
        at = stage if stage in self.popular_at else None
        if at not in self._places:
            popular_I = self.popular(at)
            place_I = np.full(len(self.catalogue), len(popular_I), np.int64)
            place_I[popular_I] = np.arange(len(popular_I))
            self._places[at] = place_I
        return self._places[at]

    @cached_property
    def _popular(self) -> Popular:
        return Popular(self.popular_I, self.popular_at)

    @cached_property
    def _places(self) -> dict[str | None, NDArray[np.int64]]:
        return {}

    @cached_property
    def shelf(self) -> Shelf:
        """Which items may be shown, and what moves them."""
        return self.amended_shelf or Shelf.build(self.catalogue, self.stock, self.recipe.serve, popular=self._popular)

    @cached_property
    def rules(self) -> Rules:
        """What cleaning will ask of the events (its bound on the future aside: the endpoint has its own clock)."""
        return rules_of(self.recipe, now_us=0)

    @property
    def event_types(self) -> list[str]:
        """Event types that callers may send."""
        return [name for name in self.vocabulary.names if name != self.recipe.serve.impression_event]


def open_catalogue(folder: Path) -> ServedCatalogue:
    """Read it from a release; popularity as of the end of its statistics.

    Raises ReleaseError when a file is missing, ConfigError when the key of the users' pseudonyms is missing or another one.
    """
    recipe = recipe_of(folder)
    pseudonyms = open_pseudonyms(recipe.privacy)
    check_fingerprint(pseudonyms, manifest_of(folder)["parents"].get("pseudonyms"), field="release")
    try:
        items = pq.read_table(folder / "items.parquet", columns=["item_id", "text", "categories", *STOCK])
        counts = pq.read_table(folder / "item_statistics.parquet", columns=list(STATISTICS))
    except FileNotFoundError as error:
        raise missing_file(error) from error
    catalogue = Catalogue.build(*(items.column(name).to_pylist() for name in ("item_id", "text", "categories")))
    statistics = ItemStatistics(*(counts.column(name).to_numpy() for name in STATISTICS))
    popular_I = popular_rows(statistics, items=len(catalogue))
    choices = folder / STAGE_CHOICES  # a release from before there was any has none
    return ServedCatalogue(
        release=folder.name,
        recipe=recipe,
        catalogue=catalogue,
        vocabulary=EventVocabulary(recipe.event_types),
        popular_I=popular_I,
        popular_at=stage_orders(pq.read_table(choices), popular_I=popular_I) if choices.is_file() else {},
        pseudonyms=pseudonyms,
        item_rules=ItemRules.open(folder, recipe.policy),
        stock=items.select(STOCK),
    )
