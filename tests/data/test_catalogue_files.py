"""Catalogue, user table and availability from files."""

import datetime as dt
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from clm_ray.config.source import ItemsTableConfig, TableConfig, UsersTableConfig
from clm_ray.data.sources.catalogue import (
    fill_template,
    read_availability,
    read_items,
    read_users,
    template_fields,
)
from clm_ray.errors import ConfigError, SchemaError
from clm_ray.schema import AVAILABILITY, ITEMS, QUARANTINE, USERS, validate


def write(path: Path, text: str) -> tuple[str, ...]:
    path.write_text(text, encoding="utf-8")
    return (str(path),)


def test_a_catalogue_in_csv(tmp_path):
    paths = write(
        tmp_path / "goods.csv",
        "sku,name,kind,tags,price,from\n7,Rye,bread,a|b,2.5,2024-01-01\n8,,bread,,x,\n,Ghost,,,,\n7,Again,,,,\n9,Odd\n",
    )
    read = read_items(
        ItemsTableConfig(
            paths=paths,
            format="csv",
            columns={"item_id": "sku", "title": "name", "available_from": "from"},
            text="{title}, {kind}",
            categories=("kind", "tags"),
            separator="|",
            numeric=("price",),
            timezone="Asia/Tokyo",
        )
    )
    assert validate(read.table, ITEMS, name="items").to_pylist() == [
        {
            "item_id": "7",
            "text": "Rye, bread",
            "categories": ["kind:bread", "tags:a", "tags:b"],
            "numeric": [("price", 2.5)],
            "available_from": dt.datetime(2023, 12, 31, 15, tzinfo=dt.UTC),
            "available_until": None,
            "flags": None,
            "vectors": None,
        },
        {
            "item_id": "8",
            "text": "bread",
            "categories": ["kind:bread"],
            "numeric": [],
            "available_from": None,
            "available_until": None,
            "flags": None,
            "vectors": None,
        },
    ]
    rejected = validate(read.rejected, QUARANTINE, name="quarantine").select(["source", "row", "reason"]).to_pylist()
    assert sorted((r["row"], r["reason"], r["source"]) for r in rejected) == [
        (4, "missing item_id", "goods.csv"),
        (5, "item_id used twice", "goods.csv"),
        (6, "broken line", "goods.csv"),
    ]


def test_a_column_of_ones_own_may_be_called_row(tmp_path):
    paths = write(tmp_path / "seats.csv", "item_id,row\na,7\nb,8\n,9\n")
    read = read_items(
        ItemsTableConfig(paths=paths, format="csv", text="row {row}", categories=("row",), numeric=("row",))
    )
    assert read.table.column("text").to_pylist() == ["row 7", "row 8"]
    assert read.table.column("numeric").to_pylist() == [[("row", 7.0)], [("row", 8.0)]]
    (rejected,) = read.rejected.to_pylist()
    assert (rejected["row"], json.loads(rejected["detail"])["row"]) == (4, "9")


def test_lists_in_parquet_and_json(tmp_path):
    pq.write_table(
        pa.table({"item_id": [1.0, 2.0], "genre": [["a", "b", "a"], None], "flags": [["adult"], []]}),
        tmp_path / "i.parquet",
    )
    lines = [{"item_id": 1, "genre": ["a", "b", "a"], "flags": ["adult"]}, {"item_id": 2}]
    write(tmp_path / "i.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    for name, format in (("i.parquet", "parquet"), ("i.jsonl", "jsonl")):
        config = ItemsTableConfig(
            paths=(str(tmp_path / name),), format=format, text="film {item_id} {genre}", categories=("genre",)
        )
        table = read_items(config).table
        assert table["item_id"].to_pylist() == ["1", "2"]
        assert table["text"].to_pylist() == ["film 1 a, b, a", "film 2"]
        assert table["categories"].to_pylist() == [["a", "b"], []]
        assert [list(f) for f in table["flags"].to_pylist()] == [["adult"], []]


def test_the_first_row_of_an_id_stays_across_files(tmp_path):
    write(tmp_path / "b.csv", "item_id,name\n1,second\n2,only\n")
    write(tmp_path / "a.csv", "item_id,name\n1,first\n")
    read = read_items(ItemsTableConfig(paths=(str(tmp_path),), format="csv", text="{name}"))
    assert dict(zip(read.table["item_id"].to_pylist(), read.table["text"].to_pylist(), strict=True)) == {
        "1": "first",
        "2": "only",
    }


def test_a_column_that_only_one_file_has(tmp_path):
    write(tmp_path / "a.csv", "item_id,name\n1,first\n")
    write(tmp_path / "b.csv", "item_id,name,colour\n2,second,red\n")
    config = ItemsTableConfig(paths=(str(tmp_path),), format="csv", text="{name} {colour}", categories=("colour",))
    table = read_items(config).table
    assert table["text"].to_pylist() == ["first", "second red"]
    assert table["categories"].to_pylist() == [[], ["red"]]


@pytest.mark.parametrize(
    ("change", "column"),
    [
        ({"text": "{title}"}, "title"),
        ({"categories": ("kind",)}, "kind"),
        ({"numeric": ("price",)}, "price"),
        ({"columns": {"available_from": "start"}}, "start"),
    ],
)
@pytest.mark.parametrize(
    ("format", "content"), [("csv", "item_id,name\n1,x\n"), ("jsonl", '{"item_id": 1, "name": "x"}\n')]
)
def test_a_column_named_in_vain(tmp_path, format, content, change, column):
    paths = write(tmp_path / f"goods.{format}", content)
    with pytest.raises(SchemaError) as caught:
        read_items(ItemsTableConfig(**{"paths": paths, "format": format, **change}))
    for told in (column, f"goods.{format}", "item_id, name"):
        assert told in str(caught.value)


def test_an_id_column_named_in_vain(tmp_path):
    paths = write(tmp_path / "goods.csv", "item_id,name\n1,x\n")
    with pytest.raises(SchemaError, match=r"'sku' \(for item_id\) is not in goods\.csv, which has: item_id, name"):
        read_items(ItemsTableConfig(paths=paths, format="csv", columns={"item_id": "sku"}))


@pytest.mark.parametrize("change", [{"consent": "may"}, {"categorical": ("may",)}, {"timezone_column": "may"}])
def test_a_key_of_the_user_table_named_in_vain(tmp_path, change):
    paths = write(tmp_path / "users.jsonl", '{"user_id": 1}\n')
    with pytest.raises(SchemaError, match=r"'may' is not in users\.jsonl"):
        read_users(UsersTableConfig(paths=paths, format="jsonl", **change))


def test_a_key_that_is_rare_or_always_null_is_there(tmp_path):
    many = "".join(f'{{"item_id": {i}, "kind": null, "padding": "{"x" * 1000}"}}\n' for i in range(1100))
    paths = write(tmp_path / "goods.jsonl", many + '{"item_id": "last", "price": 3}\n')
    config = ItemsTableConfig(paths=paths, format="jsonl", numeric=("price",), categories=("kind",))
    assert read_items(config).table.column("numeric").to_pylist()[-1] == [("price", 3.0)]
    empty = write(tmp_path / "empty.jsonl", "")
    assert read_items(config.model_copy(update={"paths": empty})).table.num_rows == 0


def test_a_mapping_to_a_column_nobody_asks_for(tmp_path):
    paths = write(tmp_path / "goods.csv", "item_id,name\n1,x\n")
    with pytest.raises(ConfigError, match="titel"):
        read_items(ItemsTableConfig(paths=paths, format="csv", columns={"titel": "name"}))


@pytest.mark.parametrize("template", ["{", "{}", "{a.b}x{", "{a!r}", "{a:>10}", "{0"])
def test_templates_that_are_refused(template):
    with pytest.raises(ConfigError, match=r"source\.items\.text"):
        template_fields(template)


def test_templates():
    assert template_fields("{a}, {b} and {a} {{literal}}") == ["a", "b"]
    columns = {"a": pa.array(["x", None, None]), "b": pa.array(["y", "y", None])}
    filled = fill_template("{a}, {b}; {a} | end", columns, rows=3).to_pylist()
    assert filled == ["x, y; x | end", "y; end", "end"]
    assert fill_template("", {}, rows=2).to_pylist() == ["", ""]


def test_users(tmp_path):
    paths = write(
        tmp_path / "m.csv", "id,segment,age,ok,tz\n5.0,town,40,yes,Europe/Berlin\n6,,old,,Mars/Base\n,x,1,yes,UTC\n"
    )
    read = read_users(
        UsersTableConfig(
            paths=paths,
            format="csv",
            columns={"user_id": "id"},
            categorical=("segment",),
            numeric=("age",),
            consent="ok",
            timezone_column="tz",
        )
    )
    assert validate(read.table, USERS, name="users").to_pylist() == [
        {
            "user_id": "5",
            "categorical": [("segment", "town")],
            "numeric": [("age", 40.0)],
            "consent": True,
            "timezone": "Europe/Berlin",
        },
        {"user_id": "6", "categorical": [], "numeric": [], "consent": False, "timezone": "UTC"},
    ]
    assert read.rejected["reason"].to_pylist() == ["missing user_id"]


def test_without_a_consent_column_everyone_consented(tmp_path):
    paths = write(tmp_path / "m.csv", "user_id\n5\n")
    assert read_users(UsersTableConfig(paths=paths, format="csv")).table["consent"].to_pylist() == [True]


def test_availability_is_compact_and_drops_halves(tmp_path):
    write(tmp_path / "a.csv", "place,sku\nfront,1\nfront,2\n,3\nback,\n")
    write(tmp_path / "b.csv", "place,sku\nback,1.0\n")
    read = read_availability(
        TableConfig(paths=(str(tmp_path),), format="csv", columns={"slot": "place", "item_id": "sku"})
    )
    assert all(pa.types.is_dictionary(field.type) for field in read.table.schema)
    plain = read.table.cast(AVAILABILITY).to_pylist()
    assert [(r["slot"], r["item_id"]) for r in plain] == [("front", "1"), ("front", "2"), ("back", "1")]
    assert read.rejected["reason"].to_pylist() == ["missing slot or item_id"] * 2


def test_empty_tables(tmp_path):
    paths = write(tmp_path / "x.csv", "")
    assert read_items(ItemsTableConfig(paths=paths, format="csv", text="{name}")).table.num_rows == 0
    assert read_users(UsersTableConfig(paths=paths, format="csv")).table.num_rows == 0
    assert read_availability(TableConfig(paths=paths, format="csv")).table.num_rows == 0


def _vectors(tmp_path, rows, format):
    if format == "parquet":
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / "i.parquet")
    elif format == "jsonl":
        write(tmp_path / "i.jsonl", "".join(json.dumps(row) + "\n" for row in rows))
    else:
        texts = [" ".join(map(str, row["picture"] or [])) for row in rows]
        lines = [f"{row['item_id']},{text}" for row, text in zip(rows, texts, strict=True)]
        write(tmp_path / "i.csv", "\n".join(["item_id,picture", *lines]))
    return ItemsTableConfig(paths=(str(tmp_path / f"i.{format}"),), format=format, vectors="picture")


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_vectors_of_a_column(tmp_path, format):
    rows = [
        {"item_id": "a", "picture": [0.5, -2.0]},
        {"item_id": "b", "picture": None},
        {"item_id": "c", "picture": [1.0, 2.0]},
    ]
    config = _vectors(tmp_path, rows, format)
    table = validate(read_items(config).table, ITEMS, name="items")
    assert table["vectors"].to_pylist() == [[0.5, -2.0], None, [1.0, 2.0]]
    assert read_items(config.model_copy(update={"vectors": None})).table["vectors"].null_count == 3
    with pytest.raises(SchemaError, match="sound"):
        read_items(config.model_copy(update={"vectors": "sound"}))


@pytest.mark.parametrize("format", ["parquet", "csv", "jsonl"])
def test_a_vector_of_another_length_is_an_error_that_names_the_item(tmp_path, format):
    rows = [{"item_id": "a", "picture": [1.0]}, *({"item_id": i, "picture": [1.0, 2.0]} for i in "bcd")]
    with pytest.raises(SchemaError, match=r"item 'a'.*\(2\)") as caught:
        read_items(_vectors(tmp_path, rows, format))
    assert (caught.value.field, caught.value.value) == ("source.items.vectors", 1)
    assert "one length" in caught.value.fix


def _consents(tmp_path: Path, *texts: str) -> dict[str, bool]:
    for number, text in enumerate(texts):
        write(tmp_path / f"{number}.csv", text)
    table = read_users(UsersTableConfig(paths=(str(tmp_path),), format="csv", consent="ok", numeric=("age",))).table
    return dict(zip(table["user_id"].to_pylist(), table["consent"].to_pylist(), strict=True))


def test_consent_is_given_where_every_row_of_a_user_gives_it(tmp_path):
    first = "user_id,ok,age\na,yes,1\nb,no,2\nc,yes,3\nd,1.0,4\ne,yes,5\n,no,6\n"
    second = "user_id,ok,age\nb,yes,7\n c ,,8\nd,1,9\na,TRUE,10\n"
    assert _consents(tmp_path, first, second) == {"a": True, "b": False, "c": False, "d": True, "e": True}
    config = UsersTableConfig(paths=(str(tmp_path),), format="csv", consent="ok", numeric=("age",))
    ages = {row["user_id"]: row["numeric"] for row in read_users(config).table.to_pylist()}
    assert ages["b"] == [("age", 2.0)], "of everything else the first row stays"


def test_a_file_without_the_consent_column_consents_to_nothing(tmp_path):
    assert _consents(tmp_path, "user_id,ok,age\na,yes,1\nb,yes,2\n", "user_id,age\na,3\nc,4\n") == {
        "a": False,
        "b": True,
        "c": False,
    }


@pytest.mark.parametrize("name", ["item_id", "user_id"])
def test_ids_that_went_through_a_float_are_told_from_those_that_are_missing(tmp_path, name):
    ids = pa.array([1.0, 1e17, None, 2.0, 2.0])
    pq.write_table(pa.table({name: ids}), tmp_path / "t.parquet")
    paths = (str(tmp_path / "t.parquet"),)
    read = read_items(ItemsTableConfig(paths=paths)) if name == "item_id" else read_users(UsersTableConfig(paths=paths))
    rejected = {row["row"]: row["reason"] for row in read.rejected.to_pylist()}
    assert rejected == {2: "inexact id", 3: f"missing {name}", 5: f"{name} used twice"}
    assert (read.table.num_rows, read.rows) == (2, 5)


def test_availability_tells_why_an_id_is_none(tmp_path):
    table = {"slot": ["s", "s", None, "s", "1e+7"], "item_id": pa.array([b"a", b"\xff", b"a", b"", b"a"])}
    pq.write_table(pa.table(table), tmp_path / "t.parquet")
    read = read_availability(TableConfig(paths=(str(tmp_path / "t.parquet"),)))
    rejected = {row["row"]: row["reason"] for row in read.rejected.to_pylist()}
    assert rejected == {
        2: "unreadable id",
        3: "missing slot or item_id",
        4: "missing slot or item_id",
        5: "inexact id",
    }
    assert (read.table.num_rows, read.rows) == (1, 5)


def test_broken_lines_are_rows_of_a_table_too(tmp_path):
    paths = write(tmp_path / "x.csv", "item_id,slot\na,s\nb\n")
    assert read_items(ItemsTableConfig(paths=paths, format="csv")).rows == 2
    assert read_availability(TableConfig(paths=paths, format="csv")).rows == 2


def test_numbers_beyond_what_the_model_reckons_with_are_missing_and_counted(tmp_path):
    paths = write(tmp_path / "m.csv", "user_id,age,spend\na,1e300,1\nb,-3e38,\nc,old,2\nd,,x\na,old,old\n")
    config = UsersTableConfig(paths=paths, format="csv", numeric=("age", "spend"))
    read = read_users(config)
    found = {row["user_id"]: dict(row["numeric"]) for row in read.table.to_pylist()}
    assert found == {"a": {"spend": 1.0}, "b": {"age": -3e38}, "c": {"spend": 2.0}, "d": {}}
    assert read.unread == {"age": 2, "spend": 1}, "of the rows that stay"
    goods = write(tmp_path / "i.csv", "item_id,price\na,1e39\nb,2\n")
    assert read_items(ItemsTableConfig(paths=goods, format="csv", numeric=("price",))).unread == {"price": 1}
