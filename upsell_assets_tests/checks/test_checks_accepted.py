"""Raw's accepted changes against bronze: nothing lost, nothing that nobody accepted, and values as the files have them."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from deltalake import write_deltalake

from upsell_assets.bronze.ingest import ingest
from upsell_assets.bronze.tables import table_name, tombstones_name
from upsell_assets.checks import accepted as module
from upsell_assets.checks.accepted import Accepted, accepted
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.ledger import Ledger

pytestmark = pytest.mark.services

NOW = datetime.now(UTC)


def land(lakehouse: Lakehouse, name: str, *rows: tuple[str, str, int, int]) -> str:
    """A file of changes of customers: operation, key, points, sequence."""
    body = pa.BufferOutputStream()
    values = [
        {
            "OP": op,
            "idCustomer": key,
            "PointsCustomer": points,
            "flEmail": 1,
            "modified_date": NOW,
            "change_seq": f"{seq:06}",
        }
        for op, key, points, seq in rows
    ]
    pq.write_table(pa.Table.from_pylist(values), body)
    key = f"raw/upsell/cdc/customers/{NOW:%Y/%m/%d}/{name}.parquet"
    lakehouse.store.write(key, body.getvalue().to_pybytes())
    return key


def take_in(lakehouse: Lakehouse) -> None:
    ingest(lakehouse.store, lakehouse.lake, lakehouse.contracts["customers"])


def held_against(lakehouse: Lakehouse, now: datetime = NOW) -> Accepted:
    return accepted(lakehouse, lakehouse.contracts["customers"], now)


def rewrite(lakehouse: Lakehouse, rows: pa.Table) -> None:
    table = lakehouse.lake.open(table_name(lakehouse.contracts["customers"]))
    write_deltalake(table, rows, mode="overwrite")


def live(lakehouse: Lakehouse) -> pa.Table:
    return lakehouse.lake.open(table_name(lakehouse.contracts["customers"])).to_pyarrow_table()


@pytest.fixture
def well(lakehouse: Lakehouse) -> Lakehouse:
    """Late, repeated and deleted changes; all of it is taken in."""
    land(lakehouse, "b", ("I", "ana", 5, 1), ("U", "ana", 9, 4), ("I", "bia", 1, 2), ("I", "caio", 3, 3))
    take_in(lakehouse)
    land(lakehouse, "a", ("U", "bia", 2, 6), ("D", "caio", 0, 7))
    land(lakehouse, "late", ("U", "caio", 8, 5), ("U", "ana", 7, 2), ("D", "nobody", 0, 8))
    take_in(lakehouse)
    return lakehouse


def test_what_was_accepted_is_there_in_whatever_order_it_came(well: Lakehouse) -> None:
    found = held_against(well)

    assert found.faults == []
    assert (found.files, found.changes, found.live_rows) == (3, 9, 2)
    assert (found.files_read, found.changes_read, found.not_read) == (3, 9, [])


def test_a_row_that_is_lost_is_named_with_its_change(well: Lakehouse) -> None:
    rewrite(well, live(well).filter(pc.field("idCustomer") != "ana"))

    faults = held_against(well).faults

    folder = f"raw/upsell/cdc/customers/{NOW:%Y/%m/%d}"
    assert faults == [
        f"ana: bronze lost the I of {folder}/b.parquet, row 0",
        f"ana: bronze lost the U of {folder}/b.parquet, row 1",
        f"ana: bronze lost the U of {folder}/late.parquet, row 1",
    ]


def test_a_delete_that_is_forgotten_is_named(well: Lakehouse) -> None:
    table = well.lake.open(tombstones_name(well.contracts["customers"]))
    write_deltalake(table, table.to_pyarrow_table().filter(pc.field("idCustomer") != "caio"), mode="overwrite")

    assert [fault.partition(" of ")[0] for fault in held_against(well).faults] == [
        "caio: bronze lost the D",
        "caio: bronze lost the I",
        "caio: bronze lost the U",
    ]


def test_an_older_state_than_was_accepted_is_named(well: Lakehouse) -> None:
    rows = live(well)
    older = ["000002" if row["idCustomer"] == "bia" else row["_change_seq"] for row in rows.to_pylist()]
    rewrite(well, rows.set_column(rows.column_names.index("_change_seq"), "_change_seq", pa.array(older)))

    assert [fault.partition(" of ")[0] for fault in held_against(well).faults] == ["bia: bronze lost the U"]


def test_a_value_that_no_file_has_is_named(well: Lakehouse) -> None:
    rows = live(well)
    rewrite(
        well,
        rows.set_column(rows.column_names.index("PointsCustomer"), "PointsCustomer", pc.add(rows["PointsCustomer"], 1)),
    )

    faults = held_against(well).faults

    assert len(faults) == 2
    assert faults[0].startswith("ana: bronze has other values than raw/upsell/cdc/customers/")


def test_rows_of_a_file_that_nobody_accepted_are_named(well: Lakehouse) -> None:
    rows = live(well)
    files = pa.array(["raw/elsewhere.parquet", rows["_file"][1].as_py()])
    rewrite(well, rows.set_column(rows.column_names.index("_file"), "_file", files))

    assert "1 live rows name raw/elsewhere.parquet, which the ledger never accepted" in held_against(well).faults


def test_more_rows_than_a_file_was_accepted_with_are_named(well: Lakehouse) -> None:
    rows = live(well)
    rewrite(well, pa.concat_tables([rows] * 5))

    assert any("live rows name" in fault and "was accepted with" in fault for fault in held_against(well).faults)


def test_a_file_that_is_gone_is_told_and_is_no_fault(well: Lakehouse) -> None:
    key = next(iter(Ledger(well.lake, well.contracts["customers"]).records().values())).file.key
    well.store.client.delete_object(Bucket=well.store.bucket, Key=key)

    found = held_against(well)

    assert found.faults == []
    assert found.files_read == 2
    assert found.not_read == [f"{key}: is gone, or another version lies there"]


def test_the_newest_files_are_read_and_others_are_drawn_by_the_day(
    lakehouse: Lakehouse, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "NEWEST", 2)
    monkeypatch.setattr(module, "DRAWN", 2)
    for number in range(8):
        land(lakehouse, f"f{number}", ("I", f"c{number}", 1, number + 1))
    take_in(lakehouse)
    read: list[list[Any]] = []
    real = lakehouse.store.read
    monkeypatch.setattr(
        type(lakehouse.store),
        "read",
        lambda self, key, etag=None: (
            read[-1].append(key.split("/")[-1].removesuffix(".parquet")),
            real(key, etag=etag),
        )[1],
    )

    for day in range(12):
        read.append([])
        assert held_against(lakehouse, NOW + timedelta(day)).faults == []

    drawn = [{key for key in keys if key not in ("f7", "f6")} for keys in read]
    assert all({"f7", "f6"} <= set(keys) for keys in read)
    assert {len(keys) for keys in drawn} == {2}
    assert len(set.union(*drawn)) > 2
