"""Proposed contracts: their text reads back as it was meant, and files that are there stay."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pyarrow as pa
import pytest

from upsell_assets.contracts import load_contracts
from upsell_assets.contracts.propose import Proposal, ProposedColumn, add, lake_name
from upsell_assets.contracts.types import fits, type_name, unify
from upsell_assets.errors import PermanentError

ORDERS = Proposal(
    origin="a test",
    schema="shop",
    table="orders",
    key=("id",),
    columns=(ProposedColumn("id", "bigint"), ProposedColumn("payload", "string", "? jsonb, kept as text")),
    left_out=(("Order Date", "its name has more than letters, digits and '_'"),),
    dates=(("created_at", "does it never change for a key?"),),
)


def test_the_text_says_what_is_known_and_asks_what_is_not() -> None:
    assert ORDERS.text == (
        '# Proposed from a test. A line with "# ?" is for a person to decide.\n'
        "schema: shop\n"
        "table: orders\n"
        "key: [id]\n"
        "columns:\n"
        "  id: bigint\n"
        "  payload: string # ? jsonb, kept as text\n"
        "  # ? Order Date is left out: its name has more than letters, digits and '_'\n"
        "order: [change_seq]\n"
        "change_seq_type: string\n"
        "# immutable_date: created_at # ? does it never change for a key?\n"
    )
    assert ORDERS.questions == 3


@pytest.mark.parametrize("name", ["yes", "null", "on", "No", "1", "0x10", "1_000", "naïve", "é", "y" * 200])
def test_column_names_that_yaml_would_take_for_something_else_stay_names(tmp_path: Path, name: str) -> None:
    columns = (ProposedColumn(name, "string"), ProposedColumn("other", "decimal(10,2)"))

    [added] = add(tmp_path, [replace(ORDERS, key=(name,), columns=columns)])

    assert added.written == tmp_path / "orders.yaml"
    assert load_contracts(tmp_path)["orders"].key == (name,)
    assert load_contracts(tmp_path)["orders"].columns == {name: "string", "other": "decimal(10,2)"}


@pytest.mark.parametrize(
    "name", ["a: b", "quo\"te's", "# no", "a\nb\x7f", "{x}", "[y]", "- z", " blank ", "o.r.d", "ç🎲"]
)
def test_a_source_table_of_any_name_is_read_back(tmp_path: Path, name: str) -> None:
    add(tmp_path, [replace(ORDERS, source_table=name, origin=f"table {name}")])

    assert load_contracts(tmp_path)["orders"].source_table == name


def test_operations_are_read_back(tmp_path: Path) -> None:
    words = {"column": "__op", "insert": ["c", "r"], "update": ["u"], "delete": ["d"]}
    add(tmp_path, [replace(ORDERS, operations=words)])

    read = load_contracts(tmp_path)["orders"].operations
    assert (read.column, read.insert, read.update, read.delete) == ("__op", ("c", "r"), ("u",), ("d",))


def test_a_file_that_exists_is_left_alone_without_force(tmp_path: Path) -> None:
    (tmp_path / "orders.yaml").write_text(ORDERS.text + "# a person's thoughts\n")
    other = replace(ORDERS, key=("payload",))

    [left] = add(tmp_path, [other])
    assert left.written is None
    assert left.said == f"left alone {tmp_path}/orders.yaml: it exists; --force writes it anew"
    assert "thoughts" in (tmp_path / "orders.yaml").read_text()

    [written] = add(tmp_path, [other], force=True)
    assert written.said == f"wrote {tmp_path}/orders.yaml: key payload, 2 columns, 3 questions (lines with # ?)"
    assert load_contracts(tmp_path)["orders"].key == ("payload",)


def test_a_table_that_another_file_declares_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "sales.yaml").write_text(ORDERS.text)

    [left] = add(tmp_path, [ORDERS], force=True)

    assert "another file in" in left.said
    assert [path.name for path in tmp_path.iterdir()] == ["sales.yaml"]


def test_a_table_without_a_key_is_a_draft_that_leaves_the_other_contracts_readable(tmp_path: Path) -> None:
    keyless = replace(ORDERS, table="audit", key=(), key_notes=("? which columns tell rows apart?",))

    whole, draft = add(tmp_path, [ORDERS, keyless])

    assert (whole.draft, draft.draft) == (False, True)
    assert draft.written == tmp_path / "audit.yaml.draft"
    assert "no key found" in draft.said
    assert "rename it to audit.yaml, or give --key" in draft.said
    assert "# key: []\n# ? which columns tell rows apart?\n" in draft.written.read_text()
    assert list(load_contracts(tmp_path)) == ["orders"]

    [done] = add(tmp_path, [keyless.with_key(["PAYLOAD"])], force=True)
    assert done.written == tmp_path / "audit.yaml"
    assert load_contracts(tmp_path)["audit"].key == ("payload",)
    assert not draft.written.exists()


def test_a_chosen_key_must_be_among_the_columns() -> None:
    with pytest.raises(PermanentError, match=r"--key: a test has no column nr that.*there are id, payload"):
        ORDERS.with_key(["id", "nr"])


def test_two_tables_of_one_name_are_refused_and_nothing_is_written(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match="a test, another would both be orders in the lake"):
        add(tmp_path / "new", [ORDERS, replace(ORDERS, table="Orders", origin="another")])

    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("orders", "orders"), ("Order Items", "Order_Items"), ("ação", "acao"), ("2024", "t_2024"), ("_x", "t__x")],
)
def test_table_names_become_names_of_the_lake(name: str, expected: str) -> None:
    assert lake_name(name) == expected


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        (["int"], "int"),
        (["bigint", "smallint"], "bigint"),
        (["float", "double"], "double"),
        (["date", "timestamp", "date"], "timestamp"),
        (["decimal(10,2)", "decimal(8,4)"], "decimal(12,4)"),
        (["int", "decimal(4,2)"], "decimal(12,2)"),
        (["tinyint", "int", "decimal(4,2)", "bigint"], "decimal(21,2)"),
    ],
)
def test_types_that_one_type_holds_need_no_question(names: list[str], expected: str) -> None:
    assert unify(names) == (expected, "")


@pytest.mark.parametrize(
    ("names", "expected", "question"),
    [
        (["string", "timestamp"], "string", "? string, timestamp in the sample: as text all are kept"),
        (["decimal(38,0)", "decimal(38,10)"], "string", "as text all are kept"),
        (["int", "double"], "double", "? int, double in the sample: files whose values do not cast are quarantined"),
        (["boolean", "string"], "string", "files whose values do not cast"),
    ],
)
def test_types_that_no_type_holds_are_asked_about(names: list[str], expected: str, question: str) -> None:
    kind, asked = unify(names)

    assert kind == expected
    assert question in asked


def test_a_type_fits_where_raw_takes_each_of_its_values() -> None:
    assert fits("int", "bigint")
    assert fits("timestamp", "string")
    assert fits("string", "string")
    assert not fits("bigint", "int")
    assert not fits("string", "timestamp")
    assert not fits("double", "string")


def test_types_of_files_have_the_contracts_names() -> None:
    kinds = [pa.large_string(), pa.dictionary(pa.int8(), pa.string()), pa.timestamp("ns"), pa.uint64(), pa.uint32()]
    assert [type_name(kind) for kind in kinds] == ["string", "string", "timestamp", "decimal(20,0)", "bigint"]
    assert [type_name(kind) for kind in (pa.list_(pa.int8()), pa.decimal256(50, 1), pa.time64("us"))] == [None] * 3
