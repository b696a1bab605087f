"""Vectors of items that are put: the same that training made of the catalogue's."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_text_release import write_text_release

from clm_ray.config.workspace import Workspace
from clm_ray.features.history import EMPTY
from clm_ray.model.encode import ItemEncoder, NewItem
from clm_ray.model.files import ModelFolder
from clm_ray.model.inference import Scorer, UserRequest
from clm_ray.schema import DAY_US

NOW = 17_001 * DAY_US


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_text_release(Workspace(tmp_path_factory.mktemp("shop")), "r1", seed=1)


@pytest.fixture(scope="module")
def encoder(folder: Path) -> ItemEncoder:
    return ItemEncoder.open(folder)


def test_an_item_of_the_catalogue_gets_the_vector_that_it_has(folder: Path, encoder: ItemEncoder) -> None:
    files = ModelFolder.open(folder)
    catalogue = files.catalogue()
    items = [
        NewItem(catalogue.ids[r], catalogue.texts[r], catalogue.categories_of(r)) for r in range(1, len(catalogue))
    ]
    np.testing.assert_allclose(encoder.encode(items), files.item_vectors()[1:], atol=1e-5)
    np.testing.assert_allclose(encoder.encode(items[3:5]), files.item_vectors()[4:6], atol=1e-5)


def test_text_and_categories_of_a_new_item_count_and_unknown_categories_do_not(encoder: ItemEncoder) -> None:
    plain, other_text, other_category, unknown = encoder.encode(
        [
            NewItem("new", "text of i01", ("fruit",)),
            NewItem("new", "text of i02", ("fruit",)),
            NewItem("new", "text of i01", ("bread",)),
            NewItem("new", "text of i01", ("fruit", "never seen")),
        ]
    )
    assert np.abs(plain - other_text).max() > 1e-3
    assert np.abs(plain - other_category).max() > 1e-3
    np.testing.assert_array_equal(plain, unknown)
    assert encoder.encode([]).shape == (0, len(plain))


def test_an_amended_scorer_scores_and_retrieves_the_new_item_and_leaves_the_others(
    folder: Path, encoder: ItemEncoder
) -> None:
    from clm_ray.features.catalogue import Amendment

    scorer = Scorer.open(folder)
    size = len(scorer.items)
    (vector,) = encoder.encode([NewItem("new", "text of i01", ("fruit",))])
    changes = [Amendment(size + 1, "new", "text of i01", ("fruit",)), Amendment(3, "i03", "", (), gone=True)]
    amended = scorer.amended(scorer.items.amended(changes), np.array([size + 1]), vector[None])
    request = UserRequest("ann", EMPTY, NOW)
    (before,), (after,) = scorer.states([request]), amended.states([request])
    rows = np.array([1, 4, size + 1], np.int32)
    scores = amended.click([after], [rows])[0]
    np.testing.assert_allclose(scores[:2], scorer.click([before], [rows[:2]])[0], atol=1e-6)
    assert 0 < scores[2] < 1
    found = amended.retrieve([after], count=100)[0].tolist()
    assert size + 1 in found
    assert 3 not in found, "gone"
    assert size not in found, "no item"
    assert len(scorer.items) == size
