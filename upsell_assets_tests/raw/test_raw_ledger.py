"""The ledger of files: the newest record of a version of a file counts."""

from __future__ import annotations

from datetime import date

import pyarrow as pa
import pytest
from deltalake import write_deltalake

from upsell_assets.contracts import Contract
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.landing import LandedFile, Window
from upsell_assets.raw.ledger import SCHEMA, Ledger, Record


def contract(table: str) -> Contract:
    return Contract.model_validate({"schema": "s", "table": table, "key": ["id"], "columns": {"id": "string"}})


@pytest.fixture
def ledger(local_lake: Lake) -> Ledger:
    return Ledger(local_lake, contract("t"))


def file(name: str, day: int = 13, etag: str = "e1") -> LandedFile:
    return LandedFile(f"raw/s/cdc/t/{name}", etag, 10, date(2024, 6, day))


def test_a_table_without_a_ledger_knows_no_file(ledger: Ledger) -> None:
    assert ledger.records() == ledger.known([file("a")]) == {}


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
