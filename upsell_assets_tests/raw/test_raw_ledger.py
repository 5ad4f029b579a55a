"""The ledger of files: the newest record of a version of a file counts."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, date, datetime
from typing import Any

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from upsell_assets.contracts import Contract
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.landing import LandedFile, Window
from upsell_assets.raw.ledger import SCHEMA, SMALL_FILES, Known, Ledger, Record


def contract(table: str) -> Contract:
    return Contract.model_validate({"schema": "s", "table": table, "key": ["id"], "columns": {"id": "string"}})


@pytest.fixture
def ledger(local_lake: Lake) -> Ledger:
    return Ledger(local_lake, contract("t"))


def file(name: str, day: int = 13, etag: str = "e1") -> LandedFile:
    return LandedFile(f"raw/s/cdc/t/{name}", etag, 10, date(2024, 6, day))


def test_a_table_without_a_ledger_knows_no_file(ledger: Ledger) -> None:
    assert ledger.records() == {}
    assert ledger.known([file("a")]) == {}
    assert ledger.quarantined() == ledger.history("a") == []


def test_a_record_is_read_as_it_was_written(ledger: Ledger) -> None:
    part = LandedFile("raw/s/full_load/t/L/f", "e", 10, date(2024, 6, 13), "L")
    record = Record(part, "quarantined", 3, "12 rows have a null id", "2024-06-13T00:00:00+00:00/")

    ledger.write([record])

    assert ledger.records() == {(part.key, "e"): record}


def test_the_newest_record_of_a_file_counts(ledger: Ledger) -> None:
    for state in ("quarantined", "retry", "accepted"):
        ledger.write([Record(file("a"), state)])

    assert [record.state for record in ledger.records().values()] == ["accepted"]


def test_versions_of_a_path_have_records_of_their_own(ledger: Ledger) -> None:
    ledger.write([Record(file("a", etag="e1"), "quarantined"), Record(file("a", etag="e2"), "accepted")])

    assert {etag: record.state for (_, etag), record in ledger.records().items()} == {
        "e1": "quarantined",
        "e2": "accepted",
    }


@pytest.mark.parametrize("states", [("accepted", "quarantined"), ("quarantined", "accepted")])
def test_of_two_records_of_one_moment_the_same_one_counts(ledger: Ledger, states: tuple[str, str]) -> None:
    ledger.write([Record(file("a"), "quarantined")])
    table = ledger.lake.open(ledger.name)
    [row] = table.to_pyarrow_table().to_pylist()
    write_deltalake(table, pa.Table.from_pylist([row | {"state": s} for s in states], SCHEMA), mode="overwrite")

    assert [record.state for record in ledger.records().values()] == ["accepted"]


def test_records_are_read_by_landing_day(ledger: Ledger) -> None:
    ledger.write([Record(file(name, day), "accepted") for name, day in (("a", 12), ("b", 13), ("c", 14))])

    assert [key[-1] for key, _ in ledger.records(Window(date(2024, 6, 13), date(2024, 6, 13)))] == ["b"]
    assert sorted(key[-1] for key, _ in ledger.records(Window(None, date(2024, 6, 13)))) == ["a", "b"]
    assert sorted(key[-1] for key, _ in ledger.known([file("x", 12), file("y", 14)])) == ["a", "c"]


def test_tables_share_a_ledger_without_seeing_each_other(ledger: Ledger) -> None:
    other = Ledger(ledger.lake, contract("other"))
    ledger.write([Record(file("a"), "accepted")])
    other.write([Record(file("b"), "accepted")])

    assert [key[-1] for key, _ in ledger.records()] == ["a"]
    assert other.name == ledger.name


def test_nothing_to_write_makes_no_commit(ledger: Ledger) -> None:
    ledger.write([])

    assert not ledger.lake.exists(ledger.name)


def test_what_was_decided_of_a_file_is_kept(ledger: Ledger) -> None:
    ledger.write([Record(file("a"), "accepted", decisions=("points: string cast to bigint", "at: missing, null"))])

    [record] = ledger.records().values()
    assert record.decisions == ("points: string cast to bigint", "at: missing, null")


def test_a_ledger_of_before_is_read_and_written_on(ledger: Ledger) -> None:
    """It had no decisions, and a partition for each day."""
    old = pa.schema([column for column in SCHEMA if column.name != "decisions"])
    row = {
        "table": "t",
        "day": date(2024, 6, 13),
        "key": "k/a",
        "etag": "e1",
        "size": 1,
        "rows": 2,
        "state": "accepted",
    }
    write_deltalake(ledger.lake.uri(ledger.name), pa.Table.from_pylist([row], old), partition_by=["table", "day"])
    assert ledger.known([file("x")]) == {("k/a", "e1"): Known("accepted", None)}

    ledger.write([Record(file("b"), "accepted", decisions=("at: missing, null",))])

    assert {record.file.key[-1]: record.decisions for record in ledger.records().values()} == {
        "a": (),
        "b": ("at: missing, null",),
    }


def test_the_newest_version_of_a_path_says_whether_it_is_in_quarantine(ledger: Ledger) -> None:
    ledger.write([Record(file(name, etag="e1"), "quarantined", reason=f"bad {name}") for name in "bac"])
    ledger.write([Record(file("c", etag="e2"), "accepted")])
    assert [record.reason for record in ledger.quarantined()] == ["bad a", "bad b"]

    ledger.write([Record(file("c", day=14, etag="e3"), "quarantined", reason="bad again")])
    assert [record.reason for record in ledger.quarantined()] == ["bad a", "bad b", "bad again"]


def test_the_history_of_a_file_is_found_by_the_end_of_its_key(ledger: Ledger) -> None:
    for state in ("quarantined", "retry", "accepted"):
        ledger.write([Record(file("x/a"), state), Record(file("b"), state)])

    assert [record.state for record in ledger.history("x/a")] == ["quarantined", "retry", "accepted"]
    assert ledger.history("x") == []
    assert all(record.recorded_at for record in ledger.history("b"))


def test_many_small_commits_leave_few_files_and_every_record(ledger: Ledger) -> None:
    other = Ledger(ledger.lake, contract("other"))
    other.write([Record(file("o"), "accepted")])
    count = 3 * SMALL_FILES

    for number in range(count):
        ledger.write([Record(file(f"{number}", day=1 + number % 30), "accepted")])

    assert len(ledger.lake.open(ledger.name).file_uris()) <= SMALL_FILES + 2
    assert len(ledger.records()) == count
    assert [record.state for record in other.records().values()] == ["accepted"]


def test_writers_at_one_time_lose_no_record_and_fail_nobody(ledger: Ledger) -> None:
    def write(writer: str) -> None:
        for number in range(2 * SMALL_FILES):
            ledger.write([Record(file(f"{writer}{number}"), "accepted")])

    ledger.write([Record(file("first"), "accepted")])
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(write, "ab"))

    found = [record.file.key for record in ledger.history("")]
    assert (len(found), len(set(found))) == (4 * SMALL_FILES + 1, 4 * SMALL_FILES + 1)


def test_only_files_that_were_taken_in_long_ago_and_are_gone_are_forgotten(ledger: Ledger) -> None:
    ledger.write([Record(file("gone"), "accepted"), Record(file("there"), "accepted")])
    ledger.write([Record(file("held"), "quarantined"), Record(file("replaced", etag="e1"), "accepted")])
    ledger.write([Record(file("replaced", etag="e2"), "quarantined")])
    later = datetime.now(UTC)
    ledger.write([Record(file("young"), "accepted"), Record(file("gone", etag="e0"), "retry")])
    ledger.write([Record(file("gone", etag="e0"), "accepted")])
    other = Ledger(ledger.lake, contract("u"))
    other.write([Record(file("gone"), "accepted")])
    there = {(file("there").key, "e1"), (file("replaced").key, "e2")}

    assert ledger.forget(there, later) == 0
    assert ledger.forget(there, datetime.now(UTC), dry_run=True) == 4
    assert len(ledger.records()) == 7
    assert ledger.forget(there, datetime.now(UTC)) == 4

    assert {key.rpartition("/")[2] for key, _ in ledger.records()} == {"there", "held", "replaced"}
    assert {etag for key, etag in ledger.records() if key.endswith("replaced")} == {"e1", "e2"}
    assert [record.file.key for record in ledger.quarantined()] == [file("held").key, file("replaced", etag="e2").key]
    assert len(other.records()) == 1


def test_a_record_that_is_written_meanwhile_is_not_forgotten(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    ledger.write([Record(file("gone"), "accepted")])
    read = Ledger._sorted

    def then_another_writes(self: Ledger, *arguments: Any, **named: Any) -> pa.Table:
        rows = read(self, *arguments, **named)
        monkeypatch.undo()
        self.write([Record(file("new"), "accepted")])
        return rows

    monkeypatch.setattr(Ledger, "_sorted", then_another_writes)
    ledger.forget(set(), datetime.now(UTC))

    assert (file("new").key, "e1") in ledger.records()
