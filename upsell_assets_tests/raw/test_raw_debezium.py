"""What becomes of Debezium's events (generated from the documented format), and what is rejected."""

from __future__ import annotations

import json
from datetime import date
from typing import Any

import pyarrow as pa
import pytest
from producers import COLUMNS, Change, enveloped, event, flattened, json_lines, parquet, parquet_of

from upsell_assets.contracts import Contract
from upsell_assets.errors import FileRejectedError
from upsell_assets.raw.debezium import change_seq
from upsell_assets.raw.files import Accepted, read_changes
from upsell_assets.raw.landing import LandedFile

FILE = LandedFile("topics/t/t+0+0000000000.parquet", "e", 1, date(2024, 6, 13))
PLACEHOLDER = "__debezium_unavailable_value"
CREATED, UPDATED, DELETED, SNAPSHOT, TRUNCATED = (Change(op, 1, 1, 7, "a", 5) for op in "IUDRT")


def contract(of: dict[str, Any] | None = None, **files: Any) -> Contract:
    table = {"schema": "s", "table": "t", "key": ["id"], "columns": COLUMNS, "order": ["change_seq"]}
    said = {"layout": "debezium", "path": "topics/t", **files}
    return Contract.model_validate({**table, "change_seq_type": "string", **(of or {}), "files": said})


def read(body: bytes, of: Contract | None = None) -> Accepted:
    return read_changes(body, FILE, of or contract())


def rows(body: bytes, of: Contract | None = None) -> list[dict[str, Any]]:
    return list(read(body, of).changes.to_pylist())


def place(commit: int, number: int) -> str:
    return f"{commit:020d}/{number:020d}"


FLAT = pa.schema([(n, pa.string()) for n in ("id", "name", "points", "__op", "__source_sequence", "__source_ts_ms")])
EVENTS = [event(CREATED), event(UPDATED), event(DELETED), event(SNAPSHOT, commit=None)]


@pytest.mark.parametrize(
    ("body", "files"),
    [
        (enveloped(EVENTS), {}),
        (json_lines(EVENTS), {"format": "json"}),
        (json_lines(EVENTS, schemas=True), {"format": "json"}),
        (parquet(flattened(EVENTS)), {"shape": "flat"}),
        (json_lines(flattened(EVENTS)), {"shape": "flat", "format": "json"}),
    ],
)
def test_events_are_read_in_each_shape(body: bytes, files: dict[str, Any]) -> None:
    found = rows(body, contract(**files))

    assert [(row["_op"], row["id"], row["name"], row["points"]) for row in found] == [
        ("I", 1, "a", 5),
        ("U", 1, "a", 5),
        ("D", 1, None, None),
        ("I", 1, "a", 5),
    ]
    assert [row["_change_seq"] for row in found] == [*[place(1000, 7)] * 3, place(0, 7)]
    assert {row["_modified_date"] for row in found} == {CREATED.at}


@pytest.mark.parametrize(
    ("events", "files"),
    [
        ([event(DELETED)], {"format": "json"}),
        ([event(CREATED)], {"format": "json"}),
    ],
)
def test_a_file_of_which_no_event_has_a_row_on_one_side_is_read(
    events: list[dict[str, Any]], files: dict[str, Any]
) -> None:
    assert [row["id"] for row in rows(json_lines(events), contract(**files))] == [1]


@pytest.mark.parametrize(("body", "shape"), [(enveloped([]), "envelope"), (parquet([], FLAT), "flat")])
def test_a_file_without_events_is_accepted(body: bytes, shape: str) -> None:
    assert rows(body, contract(shape=shape)) == []


def test_numbers_of_json_keep_their_digits() -> None:
    of = contract(
        {"columns": {"id": "bigint", "price": "decimal(20,10)", "big": "bigint", "ok": "boolean"}}, format="json"
    )
    body = json_lines([event(CREATED)]).replace(
        b'"name": "a"', b'"price": 0.1000000001, "big": 9007199254740993, "ok": true'
    )

    [row] = rows(body, of)

    assert (str(row["price"]), row["big"], row["ok"]) == ("0.1000000001", 9007199254740993, True)


def test_the_order_is_that_of_commits_where_transactions_overlap_in_the_log() -> None:
    """T1 writes at 100 and 112 and commits last; T2 writes at 108 and commits at 118, before it."""
    arrived = ['["90","108"]', '["118","100"]', '["118","112"]', '["130","125"]']

    assert sorted(arrived, key=lambda said: change_seq(said, snapshot=False)) == arrived


def test_numbers_of_other_lengths_sort_as_numbers() -> None:
    said = ['["9","99"]', '["10","11"]', '["10","100"]', '["18446744073709551615","1"]']

    assert sorted(said, key=lambda one: change_seq(one, snapshot=False)) == said


def test_a_snapshot_is_older_than_the_first_transaction_after_it() -> None:
    """Of both, no commit was seen before; the change may have been written to the log before the snapshot."""
    assert change_seq('[null,"200"]', snapshot=True) < change_seq('[null,"150"]', snapshot=False)
    assert change_seq('[null,"150"]', snapshot=False) < change_seq('["210","160"]', snapshot=False)


@pytest.mark.parametrize("sequence", ["", "7", "[]", '["1"]', '["1",null]', '["a","b"]', '[null,"-9"]', None])
def test_a_sequence_that_is_none_is_rejected_with_its_row(sequence: str | None) -> None:
    broken = event(UPDATED)
    broken["source"]["sequence"] = sequence

    with pytest.raises(
        FileRejectedError, match=r"row 1: source\.sequence .* is no pair of the last commit and a place"
    ):
        rows(enveloped([event(CREATED), broken]))


def test_without_the_sequence_the_contract_can_order_by_the_clock_alone() -> None:
    bare = event(CREATED)
    del bare["source"]["sequence"]
    with pytest.raises(
        FileRejectedError, match=r"source\.sequence is missing, .* order: \[modified_date\] in the contract"
    ):
        rows(json_lines([bare]), contract(format="json"))

    [row] = rows(json_lines([bare]), contract({"order": ["modified_date"]}, format="json"))

    assert (row["_modified_date"], row["_change_seq"]) == (CREATED.at, None)


def test_a_value_that_was_not_sent_is_taken_from_before() -> None:
    change = Change("U", 1, 1, 7, PLACEHOLDER, 6)

    [row] = rows(enveloped([event(change, before={"id": 1, "name": "long", "points": 5})]))

    assert (row["name"], row["points"]) == ("long", 6)


@pytest.mark.parametrize(
    "before", [None, {"id": 1, "name": None, "points": None}, {"id": 1, "name": PLACEHOLDER, "points": 5}]
)
def test_a_value_that_was_not_sent_and_is_not_known_is_rejected_with_row_column_and_advice(before: Any) -> None:
    body = enveloped([event(CREATED), event(Change("U", 1, 1, 8, PLACEHOLDER, 6), before)])

    with pytest.raises(FileRejectedError, match=r"row 1: column 'name' was not sent .*REPLICA IDENTITY FULL"):
        rows(body)


def test_a_placeholder_is_seen_in_an_encoded_column_and_in_bytes() -> None:
    flat = pa.Table.from_pylist(flattened([event(Change("U", 1, 1, 8, PLACEHOLDER, 6))]))
    index, name = flat.column_names.index("name"), flat["name"]

    for values, kind in ((name.dictionary_encode(), "string"), (name.cast(pa.binary()), "binary")):
        of = contract({"columns": {**COLUMNS, "name": kind}}, shape="flat")
        with pytest.raises(FileRejectedError, match="column 'name' was not sent"):
            rows(parquet_of(flat.set_column(index, "name", values)), of)


def test_flat_rows_cannot_complete_themselves() -> None:
    body = parquet(flattened([event(Change("U", 1, 1, 8, PLACEHOLDER, 6), {"id": 1, "name": "long", "points": 5})]))

    with pytest.raises(FileRejectedError, match="row 0: column 'name' was not sent"):
        rows(body, contract(shape="flat"))


def test_a_delete_needs_no_value_but_the_key() -> None:
    [row] = rows(enveloped([event(DELETED, {"id": 1, "name": PLACEHOLDER, "points": 5})]))

    assert (row["_op"], row["id"], row["name"]) == ("D", 1, None)


def test_another_placeholder_is_one_by_the_contract_only() -> None:
    body = enveloped([event(Change("U", 1, 1, 8, "?", 6))])

    assert rows(body)[0]["name"] == "?"
    with pytest.raises(FileRejectedError, match=r"column 'name' was not sent \(it is \?"):
        rows(body, contract(placeholder="?"))


@pytest.mark.parametrize(
    ("order", "position"),
    [
        (["change_seq"], {"change_seq": place(1000, 7)}),
        (["modified_date", "change_seq"], {"modified_date": str(TRUNCATED.at), "change_seq": place(1000, 7)}),
    ],
)
def test_a_truncate_is_rejected_with_the_manifest_of_the_empty_load_that_it_is(
    order: list[str], position: dict[str, str]
) -> None:
    with pytest.raises(FileRejectedError) as error:
        rows(enveloped([event(CREATED), event(TRUNCATED)]), contract({"order": order}))

    text = str(error.value)
    assert text.startswith("row 1 is a truncate of the table.")
    assert f"raw/s/full_load/t/truncate-1/_manifest.json with {json.dumps({'position': position, 'files': []})}" in text


@pytest.mark.parametrize(
    ("body", "files", "reason"),
    [
        (parquet(flattened(EVENTS)), {}, "no Debezium envelope: op, after and source are needed, .*files.shape: flat"),
        (enveloped(EVENTS), {"shape": "flat"}, "neither '__op' nor '__deleted' is there, .*add.fields=op,source.seq"),
        (json_lines([{"id": 1, "__op": "c"}]), {"shape": "flat", "format": "json"}, "__source_sequence is missing"),
        (b'{"op": "c"}\nnull', {"format": "json"}, "line 2 is no JSON object: b'null'"),
        (b'{"op": "c"}\n{', {"format": "json"}, "not readable as JSON lines .line 2: "),
        (b'{"schema": {}, "payload": null}', {"format": "json"}, "an event has no payload .*tombstones.on.delete=false"),
        (json_lines([event(CREATED)]).replace(b'"a"', b'{"b": 1}'), {"format": "json"}, "column 'name' holds objects"),
        (json_lines([event(CREATED)]), {}, "not readable as parquet"),
        (json_lines([event(CREATED)]).replace(b'"op": "c"', b'"op": "m"'), {"format": "json"}, "operation 'm' in row 0"),
        (json_lines([event(CREATED)]).replace(b'"id": 1', b'"id": null'), {"format": "json"}, "1 rows have a null id"),
    ],
)  # fmt: skip
def test_what_cannot_be_read_or_understood_is_rejected(body: bytes, files: dict[str, Any], reason: str) -> None:
    with pytest.raises(FileRejectedError, match=reason):
        rows(body, contract(**files))


TWICE = pa.StructArray.from_arrays([pa.array([1]), pa.array([2])], ["id", "id"])
SOURCE = pa.array([{"sequence": '["1","2"]', "ts_ms": 1}])


@pytest.mark.parametrize(
    ("columns", "reason"),
    [
        ([("op", pa.array(["c"])), ("op", pa.array(["d"]))], "not readable as parquet"),
        ([("op", pa.array(["c"])), ("after", TWICE), ("source", SOURCE)], "column 'id' is there twice"),
        ([("op", pa.array([["c"]])), ("after", pa.array([{"id": 1}])), ("source", SOURCE)], "no events of Debezium"),
        ([("op", pa.array(["c"])), ("after", pa.array([{"id": 1, "op": 2}])), ("source", SOURCE)], "'op' and 'op' differ"),
    ],
)  # fmt: skip
def test_columns_that_cannot_be_told_apart_or_are_none_are_rejected(columns: Any, reason: str) -> None:
    names = [name for name, _ in columns]

    with pytest.raises(FileRejectedError, match=reason):
        rows(parquet_of(pa.table([values for _, values in columns], names)))


def test_text_that_is_no_unicode_is_rejected() -> None:
    with pytest.raises(FileRejectedError, match="holds text that is no Unicode"):
        rows(json_lines([event(CREATED)]).replace(b'"a"', b'"\\ud800"'), contract(format="json"))


def test_of_flat_rows_the_mark_of_a_delete_is_enough() -> None:
    flat = [{k: v for k, v in row.items() if k != "__op"} for row in flattened(EVENTS)]

    assert [row["_op"] for row in rows(parquet(flat), contract(shape="flat"))] == ["U", "U", "D", "U"]


def test_what_debezium_added_is_left_out_and_told() -> None:
    found = read(parquet(flattened(EVENTS)), contract(shape="flat"))

    assert "__table: added by Debezium, left out" in found.decisions
    assert not [name for name in found.changes.column_names if name.startswith("__")]


def test_columns_that_the_contract_does_not_declare_are_added_from_either_shape() -> None:
    of = {"columns": {"id": "bigint", "name": "string"}}

    for body, shape in ((enveloped(EVENTS), "envelope"), (parquet(flattened(EVENTS)), "flat")):
        assert read(body, contract(of, shape=shape)).changes["points"].to_pylist() == [5, 5, None, 5]
