"""A user's interests: categories of what the user chose, weighted by how recently.

As-of rule: events strictly before t.
"""

from __future__ import annotations

import numpy as np

from clm_ray.features.catalogue import Catalogue
from clm_ray.features.events import EventVocabulary
from clm_ray.features.history import History
from clm_ray.schema import DAY_US


def interests(
    history: History,
    time: int,
    *,
    catalogue: Catalogue,
    vocabulary: EventVocabulary,
    top: int = 5,
    half_life_days: float = 28.0,
) -> list[tuple[str, float]]:
    """The `top` categories with their share of all category weight (shares of all categories sum to 1).

    Each positive event gives 0.5^(age / half_life_days) to every category of its item.
    """
    seen = history.before(time)
    chosen = seen.select(vocabulary.labels(seen) == 1.0)
    if not len(chosen):
        return []
    decay = 0.5 ** ((time - chosen.time_N) / DAY_US / half_life_days)
    which, code, _ = catalogue.explode(chosen.item_N)
    weight = np.bincount(code, decay[which], minlength=len(catalogue.categories))
    weight[0] = 0.0
    if weight.sum() == 0:
        return []
    best = np.lexsort((np.arange(len(weight)), -weight))[:top]
    share = weight / weight.sum()
    return [(catalogue.categories[c], float(share[c])) for c in best if weight[c] > 0]
