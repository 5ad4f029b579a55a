"""A contract that lies: caught with the keys named, and put right by one command once it is corrected."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake

from upsell_assets.bronze import upkeep
from upsell_assets.bronze.merge import merge
from upsell_assets.bronze.repair import doubled_keys, repair
from upsell_assets.bronze.tables import late_name, table_name, tombstones_name
from upsell_assets.bronze.upkeep import SMALL_FILES, Tidied, compact, expired_before, tidy
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import change_schema

JANUARY, MARCH = "2024-01-10T00:00:00.000", "2024-03-20T10:00:00.000"


def contract(**changed: object) -> Contract:
    return Contract.model_validate(
        {
            "schema": "shop",
            "table": "orders",
            "key": ["id"],
            "columns": {"id": "string", "line": "bigint", "placed": "string"},
            "order": ["change_seq"],
            "immutable_date": "placed",
            **changed,
        }
    )


DATED, UNDATED = contract(), contract(immutable_date=None)


def change(seq: int, op: str = "I", key: str = "a", placed: str | None = JANUARY, **more: Any) -> dict[str, Any]:
    return {
        "id": key,
        "line": seq,
        "placed": placed,
        "_op": op,
        "_modified_date": datetime(2024, 5, 1, tzinfo=UTC) + timedelta(seconds=seq),
        "_change_seq": seq,
        "_file": "raw/shop/cdc/orders/f",
        "_row": 0,
        **more,
    }


def take(lake: Lake, of: Contract, *changes: dict[str, Any]) -> Any:
    return merge(lake, of, pa.Table.from_pylist(list(changes), change_schema(of)))


def rows(lake: Lake, of: Contract) -> list[tuple[str, int, str | None]]:
    found = lake.rows(lake.open(table_name(of))).to_table().to_pylist()
    return sorted((row["id"], row["line"], row["placed"]) for row in found)


def test_an_update_whose_immutable_date_moved_replaces_the_row_and_is_named(local_lake: Lake) -> None:
    take(local_lake, DATED, change(1))

    merged = take(local_lake, DATED, change(2, "U", placed=MARCH))

    assert rows(local_lake, DATED) == [("a", 2, MARCH)]
    assert merged.moved == [("a",)]


def test_a_delete_whose_immutable_date_moved_deletes_the_row(local_lake: Lake) -> None:
    take(local_lake, DATED, change(1), change(1, key="b", placed=MARCH))

    take(local_lake, DATED, change(2, "D", placed=MARCH))

    assert rows(local_lake, DATED) == [("b", 1, MARCH)]


def test_a_full_load_is_held_against_rows_of_any_date(local_lake: Lake) -> None:
    take(local_lake, DATED, change(1))

    take(local_lake, DATED, change(2, placed=MARCH, _file="raw/shop/full_load/orders/one/f"))

    assert rows(local_lake, DATED) == [("a", 2, MARCH)]


def test_an_insert_of_another_date_doubles_the_key_until_the_table_is_repaired(local_lake: Lake) -> None:
    take(local_lake, DATED, change(1))
    take(local_lake, DATED, change(2, placed=MARCH), change(2, key="b", placed=MARCH))
    assert doubled_keys(local_lake, DATED) == [("a",)]

    assert repair(local_lake, UNDATED) == 2

    assert doubled_keys(local_lake, UNDATED) == []
    assert rows(local_lake, UNDATED) == [("a", 2, MARCH), ("b", 2, MARCH)]
    take(local_lake, UNDATED, change(3, "U", placed=JANUARY), change(3, "D", key="b", placed=None))
    assert rows(local_lake, UNDATED) == [("a", 3, JANUARY)]


def test_a_table_of_another_layout_is_refused_with_the_command_that_helps(local_lake: Lake) -> None:
    take(local_lake, UNDATED, change(1))

    with pytest.raises(PermanentError, match=r"bronze\.shop\.orders is partitioned by nothing.*upsell repair orders"):
        take(local_lake, DATED, change(2, "U"))
    assert repair(local_lake, DATED) == 1
    take(local_lake, DATED, change(2, "U"))

    assert rows(local_lake, DATED) == [("a", 2, JANUARY)]


def test_two_rows_of_a_key_at_one_place_in_the_order_are_named(local_lake: Lake) -> None:
    merged = take(local_lake, UNDATED, change(1), {**change(1), "line": 7}, change(1, key="b"), change(1, key="b"))

    assert merged.doubled == [("a",)]


@pytest.mark.parametrize("unreadable", [None, "0000-00-00 00:00:00", "soon"])
def test_an_insert_finds_a_row_of_which_only_one_of_them_has_a_readable_date(
    local_lake: Lake, unreadable: str | None
) -> None:
    take(local_lake, DATED, change(1), change(1, key="b", placed=unreadable))

    take(local_lake, DATED, change(2, placed=unreadable), change(2, key="c", placed=MARCH))
    take(local_lake, DATED, change(2, key="b"))

    assert rows(local_lake, DATED) == [("a", 2, unreadable), ("b", 2, JANUARY), ("c", 2, MARCH)]


@pytest.mark.parametrize("unreadable", [None, "0000-00-00 00:00:00", "0001-01-01", "9999-12-31", "soon"])
def test_rows_whose_date_cannot_be_read_are_found_by_changes_with_one(local_lake: Lake, unreadable: str | None) -> None:
    take(local_lake, DATED, change(1, placed=unreadable), change(1, key="b"))

    take(local_lake, DATED, change(2, "U"))
    take(local_lake, DATED, change(3, "U", placed=unreadable), change(3, "D", key="b", placed=unreadable))

    assert rows(local_lake, DATED) == [("a", 3, unreadable)]


@pytest.mark.parametrize("placed", ["2024-02-01 00:00:00 +0000 UTC", "2024-02-01T00:00:00Z", "2024-01-31 21:00:00-03"])
def test_one_moment_in_other_words_is_one_date(local_lake: Lake, placed: str) -> None:
    take(local_lake, DATED, change(1, placed="2024-02-01 00:00:00"))

    merged = take(local_lake, DATED, change(2, "U", placed=placed))

    assert (merged.moved, rows(local_lake, DATED)) == ([], [("a", 2, placed)])


def test_a_change_reads_only_files_of_its_date(local_lake: Lake) -> None:
    days = [f"2024-{month:02}-15T00:00:00.000" for month in range(1, 13)]
    take(local_lake, DATED, *(change(1, key=day, placed=day) for day in days))

    merged = take(local_lake, DATED, change(2, "U", key=days[4], placed=days[4]))

    assert (merged.files, merged.upserts) == ((1, 1), 1)
    assert len(local_lake.open(table_name(DATED)).file_uris()) == 12


def test_microseconds_beyond_the_statistics_are_found(local_lake: Lake) -> None:
    placed = "2024-02-01T00:00:00.000999"
    take(local_lake, DATED, change(1, placed=placed))

    take(local_lake, DATED, change(2, "U", placed=placed))

    assert rows(local_lake, DATED) == [("a", 2, placed)]


@pytest.mark.parametrize("of", [DATED, UNDATED], ids=["dated", "undated"])
def test_a_hundred_small_merges_leave_few_files(local_lake: Lake, of: Contract) -> None:
    for seq in range(100):
        take(local_lake, of, change(seq, key=f"{seq}"), change(seq, "D", key=f"{seq - 50}"))

    for name in (table_name(of), tombstones_name(of)):
        assert len(local_lake.open(name).file_uris()) <= SMALL_FILES
    assert len(rows(local_lake, of)) == 50
    checkpoint = Path(local_lake.uri(table_name(of)), "_delta_log", "_last_checkpoint")
    assert json.loads(checkpoint.read_text())["version"] > 80


@pytest.mark.parametrize("date", ["placed", None])
def test_a_table_of_many_columns_is_searched_and_compacted_too(local_lake: Lake, date: str | None) -> None:
    wide = contract(immutable_date=date, columns=DATED.columns | {f"c{n}": "bigint" for n in range(40)})
    for seq in range(SMALL_FILES):
        take(local_lake, wide, change(seq, key=f"{seq}"))

    merged = take(local_lake, wide, change(99, key="far", placed=MARCH))

    assert merged.files[0] == (0 if date else 1)
    assert len(rows(local_lake, wide)) == SMALL_FILES + 1
    assert len(local_lake.open(table_name(wide)).file_uris()) == 2


@pytest.mark.parametrize("of", [DATED, UNDATED], ids=["dated", "undated"])
def test_of_two_compactions_at_once_one_gives_way(local_lake: Lake, of: Contract) -> None:
    for seq in range(SMALL_FILES - 1):
        take(local_lake, of, change(seq, key=f"{seq}"))
    table = local_lake.open(table_name(of))
    write_deltalake(table, local_lake.rows(table).to_table().slice(0, 0), mode="append")
    first, second = (local_lake.open(table_name(of)) for _ in range(2))
    before = rows(local_lake, of)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(upkeep, "SMALL_FILES", 2)
        replaced = [compact(local_lake, first), compact(local_lake, second)]

    assert replaced == [SMALL_FILES - 1, 0]
    assert rows(local_lake, of) == before
    assert len(local_lake.open(table_name(of)).file_uris()) == 1


def test_a_merge_between_the_compactions_of_two_months_makes_the_second_give_way(local_lake: Lake) -> None:
    for seq, placed in enumerate([JANUARY, MARCH] * 2):
        take(local_lake, DATED, change(seq, key=f"{seq}", placed=placed))
    exchanged = DeltaTable.create_write_transaction

    def then_another_merges(table: DeltaTable, *arguments: Any, **named: Any) -> None:
        exchanged(table, *arguments, **named)
        patch.undo()
        for key, placed in (("0", JANUARY), ("1", MARCH)):
            take(local_lake, DATED, change(9, "U", key=key, placed=placed))

    table = local_lake.open(table_name(DATED))
    with pytest.MonkeyPatch.context() as patch, pytest.MonkeyPatch.context() as small:
        small.setattr(upkeep, "SMALL_FILES", 2)
        patch.setattr(DeltaTable, "create_write_transaction", then_another_merges)
        assert compact(local_lake, table) == 2

    assert [key for key, *_ in rows(local_lake, DATED)] == ["0", "1", "2", "3"]
    assert [seq for _, seq, _ in rows(local_lake, DATED)] == [9, 9, 2, 3]


def test_a_month_whose_files_overlap_is_sorted_again(local_lake: Lake) -> None:
    days = [f"2024-01-{day:02}T00:00:00.000" for day in (1, 31)]
    for seq in range(6):
        take(local_lake, DATED, *(change(seq, key=f"{seq} {day}", placed=day) for day in days))
    before = rows(local_lake, DATED)

    assert tidy(local_lake, DATED, dry_run=True)[table_name(DATED)] == Tidied(6)
    assert tidy(local_lake, DATED)[table_name(DATED)] == Tidied(6)
    assert tidy(local_lake, DATED)[table_name(DATED)] == Tidied()

    assert rows(local_lake, DATED) == before


def test_tombstones_are_kept_for_ever_unless_the_contract_says_otherwise(local_lake: Lake) -> None:
    take(local_lake, DATED, change(1, "D"))
    tidy(local_lake, DATED)

    take(local_lake, DATED, change(0))

    assert rows(local_lake, DATED) == []


def test_after_tombstones_expired_older_changes_of_keys_that_are_not_live_are_set_aside(local_lake: Lake) -> None:
    forgetful = contract(tombstone_days=1)
    take(local_lake, forgetful, change(5, "D"), change(1, key="b"))
    tidy(local_lake, forgetful)

    merged = take(
        local_lake,
        forgetful,
        change(0),
        change(2, "U", key="b"),
        change(9, key="c", _modified_date=datetime.now(UTC)),
    )

    assert merged.late == 1
    assert rows(local_lake, forgetful) == [("b", 2, JANUARY), ("c", 9, JANUARY)]
    late = local_lake.rows(local_lake.open(late_name(forgetful))).to_table().to_pylist()
    assert [(row["id"], row["line"]) for row in late] == [("a", 0)]


def test_a_delete_that_is_not_read_yet_does_not_expire_however_old_it_is(local_lake: Lake) -> None:
    forgetful = contract(tombstone_days=1)
    take(local_lake, forgetful, change(1, "D"))
    read = local_lake.open(tombstones_name(forgetful)).version()
    take(local_lake, forgetful, change(2, "D", key="b"))

    would = tidy(local_lake, forgetful, read, dry_run=True)[tombstones_name(forgetful)]
    done = tidy(local_lake, forgetful, read)[tombstones_name(forgetful)]

    assert (would.expired, done.expired) == (1, 1)
    table = local_lake.open(tombstones_name(forgetful))
    assert table.to_pyarrow_table()["id"].to_pylist() == ["b"]
    assert expired_before(table) is not None


def test_where_no_tombstone_expires_nothing_is_committed(local_lake: Lake) -> None:
    forgetful = contract(tombstone_days=1)
    take(local_lake, forgetful, change(1, "D", _modified_date=datetime.now(UTC)))
    before = local_lake.open(tombstones_name(forgetful)).version()

    tidy(local_lake, forgetful)

    assert local_lake.open(tombstones_name(forgetful)).version() == before
