"""The law on real Delta tables: any arrival, crashes between the two commits, several writers at once."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, date, datetime
from decimal import Decimal
from itertools import count
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pytest
from arrivals import arrive, holds, take
from histories import CONTRACTS, START, Change, Step, arrow, contract, dated_values, histories, law
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proof import TABLES

from upsell_assets.bronze import layout, upkeep
from upsell_assets.bronze import merge as merging
from upsell_assets.bronze import write as writing
from upsell_assets.bronze.merge import end_load, merge, table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake import files as data_files
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import OP, Position, change_schema

FULL, SEQUENCED = CONTRACTS["modified_date, change_seq"], CONTRACTS["change_seq"]


@pytest.fixture(scope="module")
def lakes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder for lakes of their own for each example."""
    with TemporaryDirectory(dir=tmp_path_factory.mktemp("lakes")) as folder:
        yield Path(folder)


def new_lake(folder: Path) -> Lake:
    return Lake.at(folder / uuid4().hex)


def versions(lake: Lake, of: Contract) -> tuple[int, int]:
    return lake.open(table_name(of)).version(), lake.open(tombstones_name(of)).version()


def changed(op: str, hour: int, seq: Any = None, key: str = "a", name: str = "x") -> Change:
    values = () if op == "D" else (("id", key), ("Name", name))
    return Change((key,), op, START.replace(hour=hour), seq, "raw/s/cdc/t/f", 0, values)


class Crash(Exception):
    """The process dies here."""


SEAMS: list[tuple[Any, str]] = [
    (Lake, "open_or_create"),
    (merging, "write_floor"),
    (writing, "commit_properties"),
    (data_files, "commit_properties"),
]
"""What is called before each commit."""


def crashing(commits: int, act: Callable[..., object], *arguments: Any) -> bool:
    """Act, and die before another commit than the first so many; whether it came to that."""
    calls = count()

    def dying(original: Any) -> Any:
        def may_die(*arguments: Any, **named: Any) -> Any:
            if next(calls) == commits:
                raise Crash
            return original(*arguments, **named)

        return may_die

    with pytest.MonkeyPatch.context() as patch:
        for owner, name in SEAMS:
            patch.setattr(owner, name, dying(getattr(owner, name)))
        try:
            act(*arguments)
        except Crash:
            return True
    return False


@pytest.fixture
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """A few rows take several files, and there always is something to tidy."""
    monkeypatch.setattr(layout, "LEAST_ROWS", 2)
    monkeypatch.setattr(upkeep, "SMALL_FILES", 2)
    monkeypatch.setattr(upkeep, "OVERLAP", 1.0)


@pytest.mark.usefixtures("_small_files")
@given(name=st.sampled_from(list(CONTRACTS)), data=st.data())
@settings(max_examples=TABLES.count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_arrival_and_any_crash_give_what_the_oracle_says(lakes: Path, name: str, data: st.DataObject) -> None:
    """Opening a table that exists counts as a commit, so that some crashes find everything done."""
    of = CONTRACTS[name]
    history = data.draw(histories(of))
    lake = new_lake(lakes)
    undone: list[Step] = []
    for step in history.steps:
        commits = data.draw(st.none() | st.integers(0, 8), "commits before the crash")
        if commits is None:
            arrive(lake, of, step)
        elif crashing(commits, arrive, lake, of, step):
            undone.append(step)
        if data.draw(st.booleans(), "repeat now"):
            again(lake, of, undone)
        if data.draw(st.integers(0, 3), "tidy at 0") == 0:
            upkeep.tidy(lake, of)
    again(lake, of, undone)
    take(lake, of)  # for tables to be there

    assert holds(lake, of) == law(of).oracle(history.changes, history.loads)


def again(lake: Lake, of: Contract, undone: list[Step]) -> None:
    while undone:
        arrive(lake, of, undone.pop())


def test_a_crash_leaves_the_tombstone_without_the_delete_and_a_repeat_finishes_it(local_lake: Lake) -> None:
    take(local_lake, FULL, changed("I", 1))
    assert crashing(4, take, local_lake, FULL, changed("D", 2))
    assert versions(local_lake, FULL) == (1, 1)
    assert local_lake.open(table_name(FULL)).to_pyarrow_table().num_rows == 1

    take(local_lake, FULL, changed("D", 2))

    assert holds(local_lake, FULL).live == {}
    assert versions(local_lake, FULL) == (2, 1)


def test_a_repeat_makes_no_commit(local_lake: Lake) -> None:
    changes = [changed("I", 1, key="a"), changed("I", 1, key="b"), changed("D", 2, key="b"), changed("D", 3, key="c")]
    take(local_lake, FULL, *changes)
    before = versions(local_lake, FULL)

    again = take(local_lake, FULL, *changes, *changes)

    assert versions(local_lake, FULL) == before
    assert (again.upserts, again.deletes, again.tombstones) == (0, 0, 0)


def test_inserts_and_an_unknown_delete_need_no_rewrite(local_lake: Lake) -> None:
    merged = take(local_lake, FULL, changed("I", 1), changed("D", 1, key="b"))

    assert (merged.upserts, merged.deletes, merged.tombstones, merged.version) == (1, 0, 1, 1)
    operations = [commit["operation"] for commit in local_lake.open(table_name(FULL)).history()]
    assert operations == ["WRITE", "CREATE TABLE"]


def test_ending_a_load_twice_does_nothing_the_second_time(local_lake: Lake) -> None:
    take(local_lake, FULL, changed("I", 1))
    at = Position(START.replace(hour=2))
    assert end_load(local_lake, FULL, at, "load")
    before = versions(local_lake, FULL)

    assert end_load(local_lake, FULL, at, "load") is None
    assert versions(local_lake, FULL) == before


def test_rows_written_and_deleted_carry_the_version_of_their_commit(local_lake: Lake) -> None:
    """Silver finds what changed by it."""
    take(local_lake, FULL, changed("I", 1, key="a"))
    take(local_lake, FULL, changed("I", 1, key="b"), changed("D", 5, key="a"))

    live = local_lake.open(table_name(FULL)).to_pyarrow_table().to_pylist()
    graves = local_lake.open(tombstones_name(FULL)).to_pyarrow_table().to_pylist()
    assert [(row["id"], row["_version"]) for row in live] == [("b", 2)]
    assert [(row["id"], row["_version"]) for row in graves] == [("a", 1)]
    assert live[0]["_ingested_at"].tzinfo is not None


def test_tombstones_hold_key_and_order_only(local_lake: Lake) -> None:
    take(local_lake, FULL, changed("I", 1, name="Ana"), changed("D", 2, 7))

    assert local_lake.open(tombstones_name(FULL)).to_pyarrow_table().drop_columns(["_version"]).to_pylist() == [
        {"id": "a", "_modified_date": START.replace(hour=2), "_change_seq": 7, "_file": "raw/s/cdc/t/f", "_row": 0}
    ]


def evolved(of: Contract, change: Change, **extra: Any) -> pa.Table:
    rows = arrow(of, [change])
    for name, value in extra.items():
        rows = rows.append_column(name, pa.array([value]))
    return rows


def live_rows(lake: Lake, of: Contract) -> list[dict[str, Any]]:
    rows = lake.open(table_name(of)).to_pyarrow_table().sort_by("id").to_pylist()
    return [{n: v for n, v in row.items() if not n.startswith("_") and v is not None} for row in rows]


@pytest.mark.parametrize("late", [False, True])
def test_a_newer_row_without_an_evolved_column_has_none(local_lake: Lake, late: bool) -> None:
    batches = [evolved(FULL, changed("I", 1), colour="red"), evolved(FULL, changed("U", 2, name="new"))]
    for batch in batches[::-1] if late else batches:
        merge(local_lake, FULL, batch)

    assert live_rows(local_lake, FULL) == [{"id": "a", "Name": "new"}]


def test_a_column_that_appears_later_is_added_and_older_rows_have_none(local_lake: Lake) -> None:
    merge(local_lake, FULL, evolved(FULL, changed("I", 1, key="a")))
    merge(local_lake, FULL, evolved(FULL, changed("I", 1, key="b"), colour="red"))
    merge(local_lake, FULL, evolved(FULL, changed("U", 2, key="b"), Colour="blue", size=3))

    assert live_rows(local_lake, FULL) == [
        {"id": "a", "Name": "x"},
        {"id": "b", "Name": "x", "colour": "blue", "size": 3},
    ]


def test_the_greatest_row_does_not_depend_on_which_columns_its_batch_had(local_lake: Lake) -> None:
    """A column of other rows, between two of these in the text: the comparison must not see the gap."""
    merge(local_lake, FULL, evolved(FULL, changed("U", 1, 1, key="b"), middle="m"))
    take(local_lake, FULL, changed("U", 1, 1, name="z"))

    take(local_lake, FULL, changed("U", 1, 1, name="a"))

    assert live_rows(local_lake, FULL)[0] == {"id": "a", "Name": "z"}


@pytest.mark.parametrize(
    ("kind", "one", "other"),
    [
        ("bigint", 1, 2),
        ("smallint", 1, 2),
        ("date", date(2024, 2, 1), date(2024, 2, 2)),
        ("timestamp", datetime(2024, 2, 1, tzinfo=UTC), datetime(2024, 2, 1, 0, 0, 0, 1, tzinfo=UTC)),
        ("decimal(10,2)", Decimal("1.00"), Decimal("1.01")),
        ("binary", b"\x00", b"\xff'"),
        ("boolean", True, False),
        ("string", "a", "A"),
        ("string", "", " "),
        ("double", 0.1, 0.2),
    ],
)
def test_keys_may_be_of_any_type(local_lake: Lake, kind: str, one: Any, other: Any) -> None:
    of = contract(["change_seq"], key={"id": kind})
    rows = [
        Change((key,), op, None, seq, "f", seq, () if op == "D" else (("Name", f"{seq}"),))
        for seq, (op, key) in enumerate([("I", one), ("I", other), ("U", one), ("D", other), ("I", other), ("D", one)])
    ]
    for row in rows[::-1]:
        take(local_lake, of, row)

    assert holds(local_lake, of) == law(of).oracle([r if r.op == "D" else with_key(r) for r in rows])


def with_key(row: Change) -> Change:
    return Change(row.key, row.op, row.modified, row.seq, row.file, row.row, (("id", row.key[0]), *row.values))


def test_a_delete_that_carries_only_the_key_removes_the_row(local_lake: Lake) -> None:
    of = CONTRACTS["composite key"]
    row = Change(("a", 1), "I", START, 1, "f", 0, (("id", "a"), ("Line", 1), ("Name", "x"), ("points", 3)))
    take(local_lake, of, row)

    take(local_lake, of, Change(("a", 1), "D", START, 2, "f", 1))

    assert holds(local_lake, of).live == {}


def test_columns_with_awkward_names_are_merged(local_lake: Lake) -> None:
    of = Contract.model_validate(
        {"schema": "s", "table": "t", "key": ["Select"], "columns": {"Select": "string", "Group": "bigint"}}
    )
    for hour, value in ((1, 1), (2, 2)):
        rows = {
            "Select": "a",
            "Group": value,
            OP: "U",
            "_modified_date": START.replace(hour=hour),
            "_file": "f",
            "_row": 0,
        }
        merge(local_lake, of, pa.Table.from_pylist([rows], change_schema(of)))

    assert local_lake.open(table_name(of)).to_pyarrow_table()["Group"].to_pylist() == [2]


def meanwhile(patch: pytest.MonkeyPatch, owner: Any, name: str, act: Callable[[], object]) -> None:
    """Let something happen once, right after the next call of a function."""
    original = getattr(owner, name)

    def and_then(*arguments: Any, **named: Any) -> Any:
        found = original(*arguments, **named)
        patch.setattr(owner, name, original)
        act()
        return found

    patch.setattr(owner, name, and_then)


MEANWHILE = pytest.mark.parametrize(("owner", "name"), [(Lake, "open_or_create"), (merging, "read_floors")])


@MEANWHILE
def test_a_delete_remembered_meanwhile_holds_back_an_older_insert(
    local_lake: Lake, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    take(local_lake, FULL)
    meanwhile(monkeypatch, owner, name, lambda: take(local_lake, FULL, changed("D", 2)))

    take(local_lake, FULL, changed("I", 1))

    assert holds(local_lake, FULL).live == {}


@MEANWHILE
def test_a_load_ended_meanwhile_settles_an_older_insert(
    local_lake: Lake, monkeypatch: pytest.MonkeyPatch, owner: Any, name: str
) -> None:
    take(local_lake, FULL)
    meanwhile(monkeypatch, owner, name, lambda: end_load(local_lake, FULL, Position(START.replace(hour=2)), "load"))

    take(local_lake, FULL, changed("I", 1))

    assert holds(local_lake, FULL).live == {}
    assert set(holds(local_lake, FULL).tombstones) == {("a",)}


@pytest.mark.usefixtures("_small_files")
@pytest.mark.parametrize("name", ["change_seq", "immutable moment"])
def test_two_compactions_at_once_repeat_no_row(local_lake: Lake, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    """delta-rs commits an OPTIMIZE beside another one of the same files, whatever its commit properties say."""
    of = CONTRACTS[name]
    row = Change(("a",), "I", None, "1", "f", 0, dated_values(of, ("a",), "x", 1))
    changes = [
        replace(row, key=(key,), values=(("id", key), *row.values[1:]), op=op)
        for key, op in zip("abcd", "IIDD", strict=True)
    ]
    monkeypatch.setattr(upkeep, "SMALL_FILES", 1000)
    for change in changes:
        take(local_lake, of, change)
    monkeypatch.setattr(upkeep, "SMALL_FILES", 2)
    meanwhile(monkeypatch, upkeep.Files, "of", lambda: upkeep.tidy(local_lake, of))

    upkeep.tidy(local_lake, of)

    assert sorted(local_lake.open(table_name(of)).to_pyarrow_table()["id"].to_pylist()) == ["a", "b"]
    assert sorted(local_lake.open(tombstones_name(of)).to_pyarrow_table()["id"].to_pylist()) == ["c", "d"]


def write_shares(root: str, shares: list[list[Change]]) -> None:
    """One writer: merges its batches one after another."""
    for share in shares:
        take(Lake.at(Path(root)), SEQUENCED, *share)


def contested(rounds: random.Random) -> list[Change]:
    return [
        changed(rounds.choice("IUD"), 1, f"{seq:04d}", key=rounds.choice("abcd"), name=f"{seq}") for seq in range(40)
    ]


@pytest.mark.parametrize("writers", [2, 4])
def test_threads_that_merge_one_table_at_once_lose_and_repeat_nothing(local_lake: Lake, writers: int) -> None:
    changes = contested(random.Random(writers))
    shares = [[changes[w::writers][n::3] for n in range(3)] for w in range(writers)]
    with ThreadPoolExecutor(writers) as pool:
        for done in [pool.submit(write_shares, local_lake.root, share) for share in shares]:
            done.result()

    assert holds(local_lake, SEQUENCED) == law(SEQUENCED).oracle(changes)


def test_a_load_that_ends_while_older_changes_are_merged_settles_them_all(local_lake: Lake) -> None:
    """The floor is read after the live table was opened, so that no merge slips in between."""
    older = [changed("I", 1, f"{seq:04d}", key=f"k{seq}") for seq in range(12)]
    take(local_lake, SEQUENCED)
    with ThreadPoolExecutor(2) as pool:
        merges = pool.submit(write_shares, local_lake.root, [[change] for change in older])
        end = pool.submit(end_load, local_lake, SEQUENCED, Position(change_seq="0100"), "load")
        merges.result(), end.result()

    assert holds(local_lake, SEQUENCED).live == {}
    assert set(holds(local_lake, SEQUENCED).tombstones) == {change.key for change in older}
