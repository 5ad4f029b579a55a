"""Each producer's layout goes through raw to the same bronze table as our own, on a real object store.

The files are generated from the documented formats of AWS DMS and Debezium (`producers`).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from uuid import uuid4

import pytest
from producers import (
    COLUMNS,
    NOON,
    Change,
    dms_csv,
    dms_rows,
    enveloped,
    event,
    flattened,
    json_lines,
    own,
    parquet,
)

from upsell_assets.bronze.ingest import Ingested, ingest, retry
from upsell_assets.bronze.repair import complaints
from upsell_assets.bronze.tables import table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.landing import landed_at
from upsell_assets.raw.ledger import Ledger
from upsell_assets.services.embedded import Running

LOADED = [Change("I", number, 0, 0, "loaded", number) for number in range(6)]
BATCHES = [
    # Several changes of a key with one commit time; a key deleted and made again; one that only ever was deleted.
    [
        Change("U", 1, 5, 51, "x", 1),
        Change("U", 1, 5, 52, "y", 2),
        Change("D", 2, 5, 53),
        Change("I", 9, 5, 54, "new", 9),
    ],
    [Change("D", 9, 7, 71), Change("I", 2, 7, 72, 'again, "2"\n', None), Change("D", 77, 7, 73), Change("D", 3, 7, 74)],
    # Late: older than what is known.
    [Change("U", 1, 4, 41, "late", 0), Change("U", 3, 4, 42, "late", 0), Change("I", 10, 4, 43, "", 10)],
]
CHANGES = [change for batch in BATCHES for change in batch]


@dataclass
class Table:
    """A table whose files a producer writes, and what becomes of them."""

    lakehouse: Lakehouse
    contract: Contract

    def put(self, path: str, body: bytes) -> None:
        self.lakehouse.store.write(f"{self.folder}/{path}", body)

    @property
    def folder(self) -> str:
        files = self.contract.files
        return f"raw/{self.contract.schema_name}" if files.layout == "own" else files.path

    def agree(self, **changed: Any) -> None:
        said = self.contract.model_dump(by_alias=True, exclude_unset=True)
        self.contract = Contract.model_validate({**said, **changed})

    def ingest(self) -> Ingested:
        return ingest(self.lakehouse.store, self.lakehouse.lake, self.contract)

    def take_in(self) -> Ingested:
        done = self.ingest()
        assert [(record.file.key, record.reason) for record in done.quarantined] == []
        return done

    def rows(self) -> list[dict[str, Any]]:
        live = self.lakehouse.lake.open(table_name(self.contract)).to_pyarrow_table()
        return live.select(list(COLUMNS)).sort_by("id").to_pylist()

    def buried(self) -> set[int]:
        """Keys of effective tombstones: those without a live row."""
        found = self.lakehouse.lake.open(tombstones_name(self.contract)).to_pyarrow_table()["id"].to_pylist()
        return set(found) - {row["id"] for row in self.rows()}


class Tables:
    """Opens tables of any producer, each in a schema of its own in the bucket that all these tests share."""

    def __init__(self, services: Running) -> None:
        self._lakehouse = Lakehouse(services.settings)

    def own(self, **changed: Any) -> Table:
        return self._table(changed)

    def dms(self, *, sequence: bool = True, of: dict[str, Any] | None = None, **files: Any) -> Table:
        said = {
            "layout": "dms",
            "timestamp": "committed_at",
            **({"change_seq": "dms_seq"} if sequence else {}),
            **files,
        }
        return self._table({"change_seq_type": "decimal(38,0)", **(of or {})}, said)

    def debezium(self, **files: Any) -> Table:
        return self._table({"order": ["change_seq"], "change_seq_type": "string"}, {"layout": "debezium", **files})

    def _table(self, changed: dict[str, Any], files: dict[str, Any] | None = None) -> Table:
        schema = f"s{uuid4().hex}"
        said = {"schema": schema, "table": "t", "key": ["id"], "columns": COLUMNS, **changed}
        if files:
            said["files"] = {"path": f"of-{schema}/sales/t", **files}
        return Table(self._lakehouse, Contract.model_validate(said))


@pytest.fixture
def tables(services: Running) -> Tables:
    return Tables(services)


def of_our_own(tables: Tables, batches: Iterable[Sequence[Change]]) -> Table:
    table = tables.own()
    for number, batch in enumerate(batches):
        table.put(f"cdc/t/2024/06/13/{number}.parquet", own(batch))
    table.take_in()
    return table


def as_dms_writes(batch: Sequence[Change], files: dict[str, Any], *, changes: bool = True) -> bytes:
    rows = dms_rows(batch)
    if not changes and not files.get("op_in_full_load"):
        rows = [{name: value for name, value in row.items() if name != "Op"} for row in rows]
    if not changes:
        rows = [row | {"committed_at": "2024-06-13 23:59:59.000000", "dms_seq": None} for row in rows]
    if files.get("format") == "parquet":
        return parquet(rows)
    return dms_csv(rows, header=bool(files.get("header")), delimiter=files.get("delimiter", ","))


DMS = [
    ({}, ""),
    ({"header": True, "op_in_full_load": True}, ""),
    ({"op_in_full_load": True, "delimiter": ";", "day_folder": "YYYY/MM/DD"}, "2024/06/13/"),
    ({"format": "parquet"}, ""),
    ({"format": "parquet", "day_folder": "DD_MM_YYYY"}, "13_06_2024/"),
]


@pytest.mark.parametrize(("files", "folder"), DMS)
def test_files_of_dms_give_the_table_that_our_own_give(tables: Tables, files: dict[str, Any], folder: str) -> None:
    expected = of_our_own(tables, [[*(replace(row, second=-1) for row in LOADED)], *BATCHES])
    table = tables.dms(**files, of={"full_load": {"as_of": NOON, "files": 2}})
    ending = files.get("format", "csv")
    table.put(f"LOAD00000001.{ending}", as_dms_writes(LOADED[:3], files, changes=False))
    for number, batch in enumerate(BATCHES):
        table.put(f"{folder}20240613-12000000{number}.{ending}", as_dms_writes(batch, files))
        table.take_in()
    table.put(f"LOAD00000002.{ending}", as_dms_writes(LOADED[3:], files, changes=False))

    ended = table.take_in().loads

    assert ended == [f"{table.folder}/LOAD"]
    assert (table.rows(), table.buried()) == (expected.rows(), expected.buried())
    assert table.buried() == {3, 9, 77}
    assert table.ingest() == Ingested()


def test_a_reload_under_the_same_names_is_a_new_load(tables: Tables) -> None:
    """What is not in it goes; what changed after it stays."""
    table = tables.dms(of={"full_load": {"as_of": NOON, "files": 1}})
    table.put("LOAD00000001.csv", as_dms_writes(LOADED, {}, changes=False))
    table.put("20240613-120000000.csv", as_dms_writes(CHANGES, {}))
    table.take_in()

    again = [Change("I", number, 0, 0, "reloaded", 0) for number in (0, 1, 4)]
    table.put("LOAD00000001.csv", as_dms_writes(again, {}, changes=False))
    table.agree(full_load={"as_of": NOON.replace(second=6), "files": 1})

    assert table.take_in().loads == [f"{table.folder}/LOAD"]
    names = {row["id"]: row["name"] for row in table.rows()}
    assert names == {0: "reloaded", 1: "reloaded", 4: "reloaded", 2: 'again, "2"\n'}
    assert table.buried() >= {3, 5, 9, 10, 77}


def test_a_reload_at_the_position_of_the_load_before_is_told(tables: Tables) -> None:
    table = tables.dms(of={"full_load": {"as_of": NOON, "files": 1}})
    table.put("LOAD00000001.csv", as_dms_writes(LOADED, {}, changes=False))
    assert complaints(table.contract, table.take_in()) == []

    table.put("LOAD00000001.csv", as_dms_writes(LOADED[:2], {}, changes=False))

    [complaint] = complaints(table.contract, table.take_in())
    assert complaint.startswith(f"1 files of the full load were replaced (first: {table.folder}/LOAD00000001.csv)")
    assert "Set it to when the new load began" in complaint


def test_a_full_load_of_dms_waits_in_quarantine_until_the_contract_says_when_it_was(tables: Tables) -> None:
    table = tables.dms()
    table.put("LOAD00000001.csv", as_dms_writes(LOADED, {}, changes=False))
    table.put("20240613-120000000.csv", as_dms_writes(CHANGES, {}))

    [held] = table.ingest().quarantined
    assert held.file.key.endswith("LOAD00000001.csv")
    assert "full_load.as_of in the contract, the moment (UTC) at which the DMS task began" in (held.reason or "")
    assert {row["id"] for row in table.rows()} == {1, 2, 10}

    table.agree(full_load={"as_of": NOON})
    table.take_in()

    assert {row["id"] for row in table.rows()} == {0, 1, 2, 4, 5, 10}


def debezium_events(batch: Iterable[Change]) -> list[dict[str, Any]]:
    """Each second is one transaction; the commit before it is known by a number that rises with it."""
    return [event(change, commit=100 * change.second or None) for change in batch]


DEBEZIUM = [
    ({}, "partition=0/"),
    ({"format": "json"}, "partition=0/"),
    ({"shape": "flat"}, ""),
    (
        {"shape": "flat", "format": "json", "day_folder": "year=YYYY/month=MM/day=DD/hour=HH"},
        "year=2024/month=06/day=13/hour=12/",
    ),
]


@pytest.mark.parametrize(("files", "folder"), DEBEZIUM)
def test_events_of_debezium_give_the_table_that_our_own_changes_give(
    tables: Tables, files: dict[str, Any], folder: str
) -> None:
    expected = of_our_own(tables, [LOADED, *BATCHES])
    table = tables.debezium(**files)
    for number, batch in enumerate([[replace(row, op="R") for row in LOADED], *BATCHES]):
        events = debezium_events(batch)
        found = flattened(events) if files.get("shape") == "flat" else events
        body = (
            json_lines(found)
            if files.get("format") == "json"
            else (parquet if found is not events else enveloped)(found)
        )
        table.put(f"{folder}t+0+000000000{number}", body)
        table.take_in()

    assert (table.rows(), table.buried()) == (expected.rows(), expected.buried())
    assert table.buried() == {3, 9, 77}
    assert table.ingest() == Ingested()


def test_a_changed_key_arrives_as_a_delete_and_an_insert_at_one_place(tables: Tables) -> None:
    table = tables.debezium()
    moved = [event(Change("D", 1, 5, 51)), event(Change("I", 2, 5, 51, "a", 1))]
    table.put("a", enveloped([event(Change("I", 1, 1, 11, "a", 1)), *moved]))

    table.take_in()

    assert (table.rows(), table.buried()) == ([{"id": 2, "name": "a", "points": 1}], {1})


def test_a_file_with_a_value_that_was_not_sent_is_held_and_its_neighbours_go_on(tables: Tables) -> None:
    table = tables.debezium()
    broken = event(Change("U", 1, 2, 22, "__debezium_unavailable_value", 2))
    table.put("1", enveloped([event(Change("I", 1, 1, 11, "long", 1))]))
    table.put("2", enveloped([broken]))
    table.put("3", enveloped([event(Change("I", 3, 3, 33, "c", 3))]))

    [held] = table.ingest().quarantined
    assert held.file.key.endswith("/2")
    assert "row 0: column 'name' was not sent" in (held.reason or "")
    assert [row["name"] for row in table.rows()] == ["long", "c"]

    table.put("2", enveloped([broken | {"before": {"id": 1, "name": "long", "points": 1}}]))
    found = landed_at(table.lakehouse.store, table.contract, held.file.key)
    assert found
    [after] = retry(table.lakehouse.store, table.lakehouse.lake, table.contract, [found])

    assert (after.state, table.rows()[0]) == ("accepted", {"id": 1, "name": "long", "points": 2})


def test_a_truncate_takes_effect_as_the_reason_of_its_quarantine_says(tables: Tables) -> None:
    table = tables.debezium()
    before, after = event(Change("I", 1, 1, 11, "a", 1)), event(Change("I", 2, 3, 33, "b", 2), commit=2000)
    table.put("1", enveloped([before]))
    table.put("2", enveloped([event(Change("T", 0, 2, 22), commit=1500), after]))

    [held] = table.ingest().quarantined
    advice = re.search(r"(raw/\S+/_manifest\.json) with (\{.*\}), take the row out", held.reason or "")
    assert advice
    table.lakehouse.store.write(advice[1], advice[2].encode())
    table.put("2", enveloped([after]))

    assert table.take_in().loads == ["truncate-1"]
    assert (table.rows(), table.buried()) == ([{"id": 2, "name": "b", "points": 2}], {1})


def test_a_file_that_is_neither_load_nor_readable_is_held_and_not_passed_over(tables: Tables) -> None:
    table = tables.dms()
    table.put("20240613-120000000.csv", as_dms_writes(CHANGES, {}))
    table.put("readme.txt", b"hello")

    [held] = table.ingest().quarantined

    assert held.file.key.endswith("readme.txt")
    assert [record.file.key for record in Ledger(table.lakehouse.lake, table.contract).quarantined()] == [held.file.key]


def test_changes_that_only_their_place_in_the_file_orders_are_counted(tables: Tables) -> None:
    table = tables.dms(sequence=False)
    rows = dms_rows([*BATCHES[0], Change("U", 9, 5, 55, "newer", 9)], sequence=False)
    table.put("20240613-120000000.csv", dms_csv([*rows, rows[2], rows[2] | {"name": "as it was"}]))

    done = table.take_in()

    assert done.tied == 2  # keys 1 and 9; that of key 2 is one delete, three times
    assert [row["name"] for row in table.rows()] == ["y", "newer"]
    assert complaints(table.contract, done) == [
        "2 times a key has several changes with one modified_date and no change_seq. The name of the file and the number "
        "of the row decided which is the newest, and need not be right. Have the producer ship a finer order (of DMS: "
        "upsell dms check)"
    ]


@pytest.mark.parametrize("how", ["dms", "debezium", "own"])
def test_nothing_is_counted_where_a_sequence_orders(tables: Tables, how: str) -> None:
    table = {"dms": tables.dms, "debezium": tables.debezium, "own": tables.own}[how]()
    bodies = {"dms": as_dms_writes(CHANGES, {}), "debezium": enveloped(debezium_events(CHANGES)), "own": own(CHANGES)}
    table.put("cdc/t/a" if how == "own" else "a", bodies[how])

    done = table.take_in()

    assert (done.tied, complaints(table.contract, done)) == (0, [])


def test_only_changes_without_a_sequence_are_counted_where_some_have_one(tables: Tables) -> None:
    table = tables.dms(header=True)
    table.put("1", dms_csv(dms_rows([Change("U", 1, 5, 51, "x", 1), Change("U", 1, 5, 52, "y", 2)]), header=True))
    table.put("2", dms_csv(dms_rows([Change("U", 2, 5, 51, "x", 1)], sequence=False), header=True))

    assert table.take_in().tied == 0


def test_rows_of_a_full_load_are_no_ties_with_each_other_s_versions(tables: Tables) -> None:
    table = tables.dms(of={"full_load": {"as_of": NOON}})
    for number, name in enumerate("ab"):
        row = Change("I", 1, 0, 0, name, 1)
        table.put(f"LOAD0000000{number}.csv", as_dms_writes([row], {}, changes=False))

    assert table.take_in().tied == 0
