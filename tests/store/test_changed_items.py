"""Items put and deleted: who asks for news gets each change, with the vector once there is one."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from clm_ray.store.items import ChangedItem, Mark, PutItem
from clm_ray.store.store import Store


def put(store: Store, *ids: str, text: str = "text") -> None:
    store.put_items(
        [(i, PutItem(i, f"{text} of {i}", ("fruit",), {"price": 1.5}, (0.5,), 1, 2, ("new",))) for i in ids], now=1
    )


def news(store: Store, after: Mark, release: str = "r1") -> tuple[dict[str, ChangedItem], Mark]:
    found, mark = store.changed_items(release=release, after=after)
    return {one.item_id: one for one in found}, mark


def test_an_item_comes_back_as_it_was_put_and_keeps_its_number(store: Store) -> None:
    put(store, "a", "b")
    found, mark = news(store, Mark())
    assert found["a"].item == PutItem("a", "text of a", ("fruit",), {"price": 1.5}, (0.5,), 1, 2, ("new",))
    assert [found[i].number for i in "ab"] == [1, 2]
    assert news(store, mark) == ({}, mark)
    put(store, "c", "a", text="another text")
    found, mark = news(store, mark)
    assert {i: one.number for i, one in found.items()} == {"a": 1, "c": 3}
    store.put_items([("a", None)], now=2)
    found, _ = news(store, mark)
    assert [(one.item_id, one.item) for one in found.values()] == [("a", None)]
    assert store.known_items(["a", "x"]) == {"a"}


def test_a_vector_is_news_for_its_release_and_for_its_version_only(store: Store) -> None:
    put(store, "a")
    _, mark = news(store, Mark())
    (waiting,) = store.unencoded_items(release="r1", limit=9)
    store.put_item_vectors([("a", waiting.version, b"vector")], release="r1")
    found, mark = news(store, mark)
    assert found["a"].vector == b"vector"
    assert store.unencoded_items(release="r1", limit=9) == []
    assert len(store.unencoded_items(release="r2", limit=9)) == 1
    assert news(store, Mark(), "r2")[0]["a"].vector is None
    put(store, "a", text="another text")
    assert news(store, mark)[0]["a"].vector is None
    (waiting_again,) = store.unencoded_items(release="r1", limit=9)
    store.put_item_vectors([("a", waiting_again.version, b"newer")], release="r1")
    store.put_item_vectors([("a", waiting.version, b"late")], release="r1")
    assert news(store, mark)[0]["a"].vector == b"newer"


def test_deleted_items_wait_for_no_vector(store: Store) -> None:
    put(store, "a", "b")
    store.put_items([("a", None)], now=2)
    assert [one.item_id for one in store.unencoded_items(release="r1", limit=9)] == ["b"]


def test_who_puts_at_the_same_time_gets_numbers_of_their_own(store: Store) -> None:
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda n: put(store, f"i{n}", "shared"), range(8)))
    found, _ = news(store, Mark())
    assert sorted(one.number for one in found.values()) == list(range(1, 10))
    assert len({one.version for one in found.values()}) == 9


def test_pages_are_by_id(store: Store) -> None:
    put(store, "c", "a", "b")
    assert [one.item_id for one in store.item_page(after="", limit=2)] == ["a", "b"]
    assert [one.item_id for one in store.item_page(after="b", limit=2)] == ["c"]
