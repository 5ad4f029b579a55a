"""Raw to bronze on a real object store: what landed is taken in once, whatever lies beside it."""

from __future__ import annotations

import io
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, date, datetime
from itertools import permutations
from typing import Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from upsell_assets.bronze import repair as repairs
from upsell_assets.bronze.floors import floors_name
from upsell_assets.bronze.ingest import Ingested, ingest, retry
from upsell_assets.bronze.repair import complaints, rebuild
from upsell_assets.bronze.tables import ARRIVALS_SINCE, changes_name, table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.landing import EVER, Window, landed_at
from upsell_assets.raw.ledger import Ledger, Record
from upsell_assets.services.embedded import Running

DAY = date(2024, 6, 13)
Row = tuple[str, str, int, str | None]
"""Operation, key, hour of the day, name."""


def contract(schema: str, **changed: Any) -> Contract:
    columns = {"id": "string", "Name": "string"}
    return Contract.model_validate({"schema": schema, "table": "t", "key": ["id"], "columns": columns, **changed})


def at(hour: int) -> datetime:
    return datetime(2024, 6, 13, hour, tzinfo=UTC)


def parquet(rows: Iterable[Row], **extra: Any) -> bytes:
    """A file of change rows."""
    rows = list(rows)
    table = pa.table(
        {
            "OP": pa.array([op for op, *_ in rows], pa.string()),
            "id": pa.array([key for _, key, *_ in rows], pa.string()),
            "modified_date": pa.array([at(hour) for _, _, hour, _ in rows], pa.timestamp("us", "UTC")),
            "Name": pa.array([name for *_, name in rows], pa.string()),
        }
        | {name: [value] * len(rows) for name, value in extra.items()}
    )
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


@dataclass
class Place:
    """A table's raw folders and what became of them."""

    lakehouse: Lakehouse
    contract: Contract

    def agree(self, **changed: Any) -> None:
        """Change the contract."""
        self.contract = contract(self.contract.schema_name, **changed)

    def key(self, path: str) -> str:
        return f"raw/{self.contract.schema_name}/{path}"

    def land(self, name: str, *rows: Row, **extra: Any) -> str:
        return self.put(f"cdc/t/{name}", parquet(rows, **extra))

    def put(self, path: str, body: bytes) -> str:
        return self.lakehouse.store.write(self.key(path), body)

    def load(self, name: str, hour: int, parts: dict[str, list[str]]) -> dict[str, bytes]:
        """The objects of a full load, by path: parts with the keys that they hold, and the manifest."""
        folder = f"full_load/t/{name}/"
        objects = {f"{folder}{part}": loaded(keys) for part, keys in parts.items()}
        entries = []
        for path, body in objects.items():
            etag = self.put(path.replace("full_load", "elsewhere"), body)  # an etag follows from the bytes
            entries.append({"key": self.key(path), "etag": etag})
        manifest = {"position": {"modified_date": at(hour).isoformat()}, "files": entries}
        return objects | {f"{folder}_manifest.json": json.dumps(manifest).encode()}

    def ingest(self, window: Window = EVER, **about: int) -> Ingested:
        return ingest(self.lakehouse.store, self.lakehouse.lake, self.contract, window, **about)

    def rows(self) -> dict[str, str | None]:
        table = self.lakehouse.lake.open(table_name(self.contract)).to_pyarrow_table()
        assert len(set(table["id"].to_pylist())) == table.num_rows
        return dict(zip(table["id"].to_pylist(), table["Name"].to_pylist(), strict=True))

    def buried(self) -> set[str]:
        return set(self.lakehouse.lake.open(tombstones_name(self.contract)).to_pyarrow_table()["id"].to_pylist())

    def versions(self) -> dict[str, int]:
        lake = self.lakehouse.lake
        names = [
            table_name(self.contract),
            tombstones_name(self.contract),
            changes_name(self.contract),
            f"raw.{self.contract.schema_name}._ledger",
        ]
        return {name: lake.open(name).version() for name in names if lake.exists(name)}

    def retry(self, *paths: str) -> list[Record]:
        store = self.lakehouse.store
        files = [file for path in paths if (file := landed_at(store, self.contract, self.key(path)))]
        return retry(store, self.lakehouse.lake, self.contract, files)

    def held(self) -> list[str]:
        records = Ledger(self.lakehouse.lake, self.contract).quarantined()
        return [record.file.key.rpartition("/")[2] for record in records]

    def arrivals(self) -> dict[tuple[str, str], datetime]:
        """When each change arrived, by key and name."""
        rows = self.lakehouse.lake.open(changes_name(self.contract)).to_pyarrow_table().to_pylist()
        return {(row["id"], row["Name"]): row["_ingested_at"] for row in rows}

    def states(self) -> dict[str, str]:
        records = Ledger(self.lakehouse.lake, self.contract).records().values()
        return {record.file.key.rpartition("/")[2]: record.state for record in records}


def loaded(keys: Iterable[str]) -> bytes:
    """A part of a load without operations or order of its own."""
    sink = io.BytesIO()
    keys = list(keys)
    pq.write_table(pa.table({"id": pa.array(keys, pa.string()), "Name": ["loaded"] * len(keys)}), sink)
    return sink.getvalue()


@pytest.fixture
def place(services: Running) -> Place:
    """A schema of its own in the bucket that all these tests share."""
    return Place(Lakehouse(services.settings), contract(f"s{uuid4().hex}"))


def test_dated_and_flat_files_are_taken_in(place: Place) -> None:
    place.land("2024/06/13/a.parquet", ("I", "a", 1, "x"))
    place.land("b.parquet", ("I", "b", 1, "y"), ("D", "c", 1, None))

    done = place.ingest()

    assert (done.files, done.rows, done.upserts, done.tombstones) == (2, 3, 2, 1)
    assert place.rows() == {"a": "x", "b": "y"}


def test_a_second_ingest_makes_no_commit(place: Place) -> None:
    place.land("2024/06/13/a.parquet", ("I", "a", 1, "x"))
    place.put("cdc/t/2024/06/13/bad.parquet", b"no parquet")
    place.ingest()
    before = place.versions()

    again = place.ingest()

    assert place.versions() == before
    assert (again.files, again.quarantined) == (0, [])
    assert again.version is None


def test_nothing_landed_makes_no_table(place: Place) -> None:
    assert place.ingest() == Ingested()
    assert place.versions() == {}


def test_only_the_window_is_taken_in(place: Place) -> None:
    place.land("2024/06/12/a.parquet", ("I", "a", 1, "x"))
    place.land("2024/06/13/b.parquet", ("I", "b", 1, "x"))

    place.ingest(Window(DAY, DAY))
    assert place.rows() == {"b": "x"}

    place.ingest(Window(None, DAY))
    assert place.rows() == {"a": "x", "b": "x"}


def test_a_late_file_in_an_old_folder_does_not_overwrite_newer_data(place: Place) -> None:
    place.land("2024/06/13/a.parquet", ("U", "a", 5, "new"), ("D", "b", 5, None))
    place.ingest()

    place.land("2024/01/01/late.parquet", ("U", "a", 4, "old"), ("I", "b", 4, "old"), ("I", "c", 4, "late"))
    place.ingest(Window(date(2024, 1, 1), date(2024, 1, 1)))

    assert place.rows() == {"a": "new", "c": "late"}


def test_a_path_with_a_new_etag_is_read_again_whole(place: Place) -> None:
    place.land("2024/06/13/a.parquet", ("I", "a", 1, "x"))
    place.ingest()

    place.land("2024/06/13/a.parquet", ("I", "a", 1, "x"), ("U", "a", 2, "y"), ("I", "b", 2, "y"))
    done = place.ingest()

    assert (done.files, done.rows) == (1, 3)
    assert place.rows() == {"a": "y", "b": "y"}


def test_the_same_file_under_two_names_changes_nothing(place: Place) -> None:
    for name in ("2024/06/13/a.parquet", "2024/06/14/copy.parquet"):
        place.land(name, ("I", "a", 1, "x"), ("D", "b", 2, None))
    place.ingest(Window(DAY, DAY))

    done = place.ingest()

    # modified_date ties without change_seq: the object key is part of the change, its row the same
    assert (done.files, place.rows()) == (1, {"a": "x"})


def test_a_quarantined_file_leaves_its_neighbours_ingested(place: Place) -> None:
    place.land("2024/06/13/a.parquet", ("I", "a", 1, "x"))
    place.put("cdc/t/2024/06/13/b.parquet", b"no parquet")
    place.land("2024/06/13/c.parquet", ("I", "c", 1, "x"), ("X", "d", 1, "x"))
    place.land("2024/06/13/d.parquet", ("I", "d", 1, "x"))

    done = place.ingest()

    assert place.rows() == {"a": "x", "d": "x"}
    reasons = {record.file.key[-9:]: record.reason for record in done.quarantined}
    assert reasons["b.parquet"] is not None
    assert reasons["b.parquet"].startswith("not readable as parquet")
    assert reasons["c.parquet"] == "operation 'X' in row 1 is none of D, I, U"
    assert place.states() == {
        "a.parquet": "accepted",
        "b.parquet": "quarantined",
        "c.parquet": "quarantined",
        "d.parquet": "accepted",
    }


def test_a_file_in_quarantine_is_taken_in_after_a_retry(place: Place) -> None:
    """The contract was mended, the file was not."""
    place.land("2024/06/13/a.parquet", ("c", "a", 1, "x"))
    [held] = place.ingest().quarantined

    place.agree(operations={"insert": ["c"]})
    assert place.ingest().files == 0
    [after] = place.retry("cdc/t/2024/06/13/a.parquet")

    assert (held.state, after.state, after.rows) == ("quarantined", "accepted", 1)
    assert (place.rows(), place.states()) == ({"a": "x"}, {"a.parquet": "accepted"})


def test_a_retry_of_a_file_that_is_still_broken_leaves_it_in_quarantine(place: Place) -> None:
    place.put("cdc/t/a.parquet", b"no parquet")
    [held] = place.ingest().quarantined

    assert place.retry("cdc/t/a.parquet") == [held]
    assert (place.held(), place.ingest().quarantined) == (["a.parquet"], [])


def test_a_retry_takes_the_version_that_lies_there_now(place: Place) -> None:
    place.put("cdc/t/2024/06/13/a.parquet", b"no parquet")
    place.ingest()
    place.land("2024/06/13/a.parquet", ("I", "a", 1, "x"))

    [after] = place.retry("cdc/t/2024/06/13/a.parquet")

    assert (after.state, place.held(), place.rows()) == ("accepted", [], {"a": "x"})


def test_a_sound_version_that_came_back_leaves_the_quarantine(place: Place) -> None:
    place.land("a.parquet", ("I", "a", 1, "x"))
    place.ingest()
    place.put("cdc/t/a.parquet", b"no parquet")
    place.ingest()
    place.land("a.parquet", ("I", "a", 1, "x"))
    assert (place.ingest().files, place.held()) == (0, ["a.parquet"])

    [after] = place.retry("cdc/t/a.parquet")

    assert (after.state, after.rows, place.held()) == ("accepted", 1, [])


def test_a_retried_manifest_waits_for_its_parts_and_then_ends_its_load(place: Place) -> None:
    objects = place.load("L", 5, {"part-0": ["a"]})
    manifest = objects.pop("full_load/t/L/_manifest.json")
    place.put("full_load/t/L/_manifest.json", b"{}")
    place.ingest()
    assert place.held() == ["_manifest.json"]

    place.put("full_load/t/L/_manifest.json", manifest)
    assert place.ingest().loads == []
    for path, body in objects.items():
        place.put(path, body)

    assert (place.ingest().loads, place.held(), place.rows()) == (["L"], [], {"a": "loaded"})


def test_a_repaired_file_is_taken_in_by_its_new_etag(place: Place) -> None:
    place.put("cdc/t/a.parquet", b"no parquet")
    place.ingest()

    place.land("a.parquet", ("I", "a", 1, "x"))

    assert (place.ingest().files, place.rows(), place.held()) == (1, {"a": "x"}, [])


def bare(**columns: list[Any]) -> bytes:
    """A file of these columns and no other."""
    sink = io.BytesIO()
    pq.write_table(pa.table(columns), sink)
    return sink.getvalue()


@pytest.mark.parametrize(
    ("body", "reason"),
    [
        (b"", "not readable as parquet"),
        (b"no parquet", "not readable as parquet"),
        (bare(OP=["I", "I"], id=["a", None], modified_date=[at(1)] * 2), "1 rows have a null id (first: row 1)"),
        (bare(OP=["I"], Name=["x"], modified_date=[at(1)]), "key column 'id' is missing"),
        (bare(OP=["I"], id=[["a"]], modified_date=[at(1)]), "column 'id' is list"),
        (bare(OP=["I"], id=["a"], Name=[1.5], modified_date=[at(1)]), "column 'Name' is double"),
        (bare(OP=["Z"], id=["a"], modified_date=[at(1)]), "operation 'Z' in row 0 is none of D, I, U"),
        (bare(id=["a"], modified_date=[at(1)]), "operation column 'OP' is missing"),
        (bare(OP=["I"], id=["a"]), "order column 'modified_date' is missing"),
        (bare(OP=["I", "I"], id=["a", "b"], modified_date=[at(1), None]), "1 rows have a null modified_date"),
        (bare(OP=["I"], id=["a"], modified_date=["soon"]), "column 'modified_date' is string"),
    ],
)
def test_each_kind_of_broken_file_is_held_and_the_window_goes_on(place: Place, body: bytes, reason: str) -> None:
    place.land("2024/06/13/1.parquet", ("I", "before", 1, "x"))
    place.put("cdc/t/2024/06/13/2.parquet", body)
    place.land("2024/06/13/3.parquet", ("I", "after", 1, "x"))

    done = place.ingest(Window(DAY, DAY))

    [held] = done.quarantined
    assert held.reason is not None
    assert held.reason.startswith(reason)
    assert (done.files, place.held(), place.rows()) == (2, ["2.parquet"], {"before": "x", "after": "x"})


def test_decisions_are_recorded_per_file_and_told_once(place: Place) -> None:
    place.put("cdc/t/a.parquet", bare(OP=["I"], ID=["a"], modified_date=[at(1)], coupon=["x"]))
    place.put("cdc/t/b.parquet", bare(OP=["I"], id=[7], NAME=["y"], modified_date=[at(1)], Coupon=["y"]))
    place.put("cdc/t/c.parquet", bare(OP=["I"], ID=["c"], Name=["z"], modified_date=[at(1)]))

    done = place.ingest()

    first = ["ID read as id", "Name: missing, null", "coupon: not declared, added as string"]
    second = ["id: bigint cast to string", "NAME read as Name", "Coupon: not declared, added as string"]
    records = Ledger(place.lakehouse.lake, place.contract).records().values()
    assert {record.file.key[-9:-8]: list(record.decisions) for record in records} == {
        "a": first,
        "b": [*second, "Coupon read as coupon"],
        "c": ["ID read as id"],
    }
    assert done.decisions == dict.fromkeys([*first, *second, "Coupon read as coupon"], 1) | {"ID read as id": 2}
    assert place.ingest().decisions == {}


@pytest.mark.parametrize("loaded", [False, True])
def test_a_tick_with_nothing_new_opens_no_table_but_the_ledger(
    place: Place, monkeypatch: pytest.MonkeyPatch, loaded: bool
) -> None:
    place.land("a.parquet", ("I", "a", 1, "x"))
    place.put("cdc/t/b.parquet", b"no parquet")
    for path, body in place.load("L", 5, LOAD_PARTS).items() if loaded else ():
        place.put(path, body)
    place.ingest()
    before = place.versions()
    opened: list[str] = []

    def noting(method: Callable[..., Any]) -> Callable[..., Any]:
        def noted(lake: Lake, name: str, *arguments: Any, **named: Any) -> Any:
            opened.append(name)
            return method(lake, name, *arguments, **named)

        return noted

    with monkeypatch.context() as patch:
        patch.setattr(Lake, "open", noting(Lake.open))
        patch.setattr(Lake, "open_or_create", noting(Lake.open_or_create))
        place.ingest()

    assert opened == [f"raw.{place.contract.schema_name}._ledger"]
    assert place.versions() == before


def test_a_crash_between_the_end_of_a_load_and_the_ledger_is_repaired_by_a_repeat(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path, body in place.load("L", 5, LOAD_PARTS).items():
        place.put(path, body)
    write = Ledger.write

    def stopped(ledger: Ledger, records: Iterable[Record]) -> None:
        records = list(records)
        if any(record.file.key.endswith("_manifest.json") for record in records):
            raise ZeroDivisionError
        write(ledger, records)

    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", stopped)
        with pytest.raises(ZeroDivisionError):
            place.ingest()
    ended = place.versions()[table_name(place.contract)]
    assert "_manifest.json" not in place.states()

    assert place.ingest().loads == []
    assert (place.states()["_manifest.json"], place.versions()[table_name(place.contract)]) == ("accepted", ended)


def test_a_file_without_rows_is_taken_in(place: Place) -> None:
    place.land("a.parquet")

    assert (place.ingest().files, place.rows(), place.states()) == (1, {}, {"a.parquet": "accepted"})


def test_a_file_replaced_after_it_was_listed_is_left_to_the_next_listing(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    place.land("a.parquet", ("I", "a", 1, "x"))
    place.land("b.parquet", ("I", "b", 1, "x"))
    read = ObjectStore.read

    def replaced_first(store: ObjectStore, key: str, *, etag: str | None = None) -> bytes:
        if key.endswith("a.parquet"):
            monkeypatch.undo()
            place.land("a.parquet", ("I", "a", 2, "new"))
        return read(store, key, etag=etag)

    monkeypatch.setattr(ObjectStore, "read", replaced_first)
    first = place.ingest()

    assert (first.files, first.quarantined, place.rows()) == (1, [], {"b": "x"})
    assert (place.ingest().files, place.rows()) == (1, {"a": "new", "b": "x"})


def test_a_crash_before_the_ledger_is_repaired_by_a_repeat(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    place.land("a.parquet", ("I", "a", 1, "x"), ("D", "b", 1, None))
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "write", lambda ledger, records: 1 / 0 if list(records) else None)
        with pytest.raises(ZeroDivisionError):
            place.ingest()
    merged = place.versions()[table_name(place.contract)]

    done = place.ingest()

    assert (done.files, done.upserts, done.tombstones) == (1, 0, 0)
    assert (place.rows(), place.versions()[table_name(place.contract)]) == ({"a": "x"}, merged)


def test_many_changes_are_merged_in_batches(place: Place) -> None:
    for number in range(5):
        place.land(f"{number}.parquet", ("U", "a", number, f"{number}"), ("I", f"k{number}", 1, "x"))

    done = place.ingest(batch_rows=2)

    assert (done.files, done.rows) == (5, 10)
    assert done.version == 5
    assert place.rows() == {"a": "4"} | {f"k{number}": "x" for number in range(5)}


def test_columns_that_files_spell_differently_are_one(place: Place) -> None:
    place.land("a.parquet", ("I", "a", 1, "x"), Colour="red")
    place.land("b.parquet", ("I", "b", 1, "x"), colour="blue")
    place.ingest()
    place.land("c.parquet", ("I", "c", 1, "x"), COLOUR="green")
    place.ingest()

    table = place.lakehouse.lake.open(table_name(place.contract)).to_pyarrow_table().sort_by("id")
    assert table["Colour"].to_pylist() == ["red", "blue", "green"]


def test_an_undeclared_column_of_another_type_is_quarantined_until_it_is_declared(place: Place) -> None:
    place.land("a.parquet", ("I", "a", 1, "x"), size=1)
    place.land("b.parquet", ("I", "b", 1, "x"), size="big")

    [held] = place.ingest().quarantined

    assert held.reason == "undeclared column 'size' is string, other files have int64; declare it in the contract"
    assert place.rows() == {"a": "x"}


def test_a_rejected_file_says_nothing_about_the_types_of_others(place: Place) -> None:
    place.land("a.parquet", ("I", "a", 1, "x"), size=1)
    place.land("b.parquet", ("I", "b", 1, "x"), colour=7, size="big")
    place.land("c.parquet", ("I", "c", 1, "x"), colour="red")

    assert [record.file.key[-9:] for record in place.ingest().quarantined] == ["b.parquet"]
    assert place.rows() == {"a": "x", "c": "x"}


def test_the_history_keeps_every_accepted_change(place: Place) -> None:
    place.agree(history=True)
    place.land("a.parquet", ("I", "a", 1, "x"), ("U", "a", 2, "y"))
    place.land("b.parquet", ("I", "a", 1, "x"), ("X", "a", 3, "z"))
    place.ingest()

    changes = place.lakehouse.lake.open(changes_name(place.contract)).to_pyarrow_table()
    assert changes["Name"].to_pylist() == ["x", "y"]


def test_changes_and_ends_of_loads_arrive_when_the_clock_says_so(place: Place) -> None:
    place.agree(history=True)
    lakehouse = place.lakehouse
    for name, file in place.load("one", 3, {"part": ["a", "b"]}).items():
        place.put(name, file)
    ingest(lakehouse.store, lakehouse.lake, place.contract, clock=lambda: at(7))
    place.land("a.parquet", ("U", "a", 5, "y"))
    ingest(lakehouse.store, lakehouse.lake, place.contract, clock=lambda: at(9))

    assert place.arrivals() == {("a", "loaded"): at(7), ("b", "loaded"): at(7), ("a", "y"): at(9)}
    assert lakehouse.lake.open(floors_name(place.contract)).to_pyarrow_table()["_recorded_at"].to_pylist() == [at(7)]


def test_what_is_taken_in_again_from_raw_arrived_when_it_first_did(place: Place) -> None:
    place.agree(history=True)
    place.land("a.parquet", ("I", "a", 1, "x"))
    place.ingest()
    place.land("b.parquet", ("I", "b", 1, "x"), ("X", "b", 2, "z"))
    place.ingest()
    began = datetime.now(UTC)
    place.land("b.parquet", ("I", "b", 1, "x"))
    rebuild(place.lakehouse.store, place.lakehouse.lake, place.contract)

    arrivals = place.arrivals()
    assert arrivals["a", "x"] < began < arrivals["b", "x"]
    assert place.lakehouse.lake.open(changes_name(place.contract)).transaction_version(ARRIVALS_SINCE) == 0


LOAD_PARTS = {"part-0": ["a"], "part-1": ["b"]}


@pytest.mark.parametrize("order", list(permutations(range(4))), ids=str)
def test_a_full_load_ends_the_same_in_any_order_of_arrival(place: Place, order: tuple[int, ...]) -> None:
    """Two parts, their manifest and a file of changes, each taken in when it lands."""
    objects = place.load("L", 5, LOAD_PARTS)
    objects["cdc/t/c.parquet"] = parquet([("U", "a", 4, "old"), ("I", "gone", 4, "old"), ("I", "new", 6, "new")])
    arrival = list(objects.items())
    ends = []
    for number in order:
        place.put(*arrival[number])
        ends += place.ingest().loads

    assert place.rows() == {"a": "loaded", "b": "loaded", "new": "new"}
    assert place.buried() == {"gone"}
    assert ends == ["L"]


@pytest.mark.parametrize("order", list(permutations(range(3))), ids=str)
def test_several_full_loads_in_any_order_give_the_same_table(place: Place, order: tuple[int, ...]) -> None:
    loads = [
        place.load("early", 2, {"part": ["a", "b"]}),
        place.load("late", 6, {"part": ["b", "c"]}),
        {"cdc/t/f.parquet": parquet([("I", "a", 1, "x"), ("I", "d", 4, "x"), ("I", "e", 8, "new")])},
    ]
    for number in order:
        for path, body in loads[number].items():
            place.put(path, body)
        place.ingest()

    assert place.rows() == {"b": "loaded", "c": "loaded", "e": "new"}
    assert place.buried() == {"a", "d"}


def test_a_load_of_no_file_truncates(place: Place) -> None:
    place.land("f.parquet", ("I", "a", 1, "x"), ("I", "b", 9, "new"))
    for path, body in place.load("truncate", 5, {}).items():
        place.put(path, body)

    done = place.ingest()

    assert (done.loads, done.deletes) == (["truncate"], 1)
    assert (place.rows(), place.buried()) == ({"b": "new"}, {"a"})


def test_an_ended_load_makes_no_commit_again(place: Place) -> None:
    for path, body in place.load("L", 5, LOAD_PARTS).items():
        place.put(path, body)
    place.ingest()
    before = place.versions()

    assert (place.ingest().loads, place.versions()) == ([], before)


def test_a_load_with_a_quarantined_part_does_not_end_until_the_part_is_replaced(place: Place) -> None:
    objects = place.load("L", 5, LOAD_PARTS)
    broken = place.put("full_load/t/L/part-1", b"no parquet")
    good = json.loads(objects["full_load/t/L/_manifest.json"])
    good["files"][1]["etag"] = broken
    objects["full_load/t/L/_manifest.json"] = json.dumps(good).encode()
    part = objects.pop("full_load/t/L/part-1")
    place.land("f.parquet", ("I", "gone", 1, "x"))
    for path, body in objects.items():
        place.put(path, body)

    first = place.ingest()
    assert (first.loads, len(first.quarantined), place.rows()) == ([], 1, {"a": "loaded", "gone": "x"})

    place.put("full_load/t/L/part-1", part)
    assert (place.ingest().loads, place.rows()) == (["L"], {"a": "loaded", "b": "loaded"})


def test_an_older_version_of_a_part_than_the_manifest_names_does_not_end_the_load(place: Place) -> None:
    objects = place.load("L", 5, LOAD_PARTS)
    place.put("full_load/t/L/part-1", loaded([]))
    for path in ("full_load/t/L/part-0", "full_load/t/L/_manifest.json"):
        place.put(path, objects[path])
    assert place.ingest().loads == []

    place.put("full_load/t/L/part-1", objects["full_load/t/L/part-1"])
    assert (place.ingest().loads, place.rows()) == (["L"], {"a": "loaded", "b": "loaded"})


def test_a_manifest_that_comes_days_later_ends_the_load_in_its_own_window(place: Place) -> None:
    objects = place.load("2024/06/01", 5, LOAD_PARTS)
    manifest = objects.pop("full_load/t/2024/06/01/_manifest.json")
    for path, body in objects.items():
        place.put(path, body)
    waiting = place.ingest(Window(date(2024, 6, 1), date(2024, 6, 1)))
    assert (waiting.files, [key[-6:] for key in waiting.waiting]) == (0, ["part-0", "part-1"])

    place.put("full_load/t/2024/06/01/_manifest.json", manifest)
    today = datetime.now(UTC).date()
    done = place.ingest(Window(today, today))

    assert (done.loads, place.rows()) == (["2024/06/01"], {"a": "loaded", "b": "loaded"})


def test_a_manifest_with_another_position_has_its_parts_read_again(place: Place) -> None:
    """Else the end of the load would delete its own rows, which stand at the old position."""
    for hour in (3, 5):
        for path, body in place.load("L", hour, LOAD_PARTS).items():
            place.put(path, body)
        place.ingest()

    assert place.rows() == {"a": "loaded", "b": "loaded"}


def test_a_file_of_the_folder_that_the_manifest_does_not_name_is_not_read(place: Place) -> None:
    for path, body in place.load("L", 5, LOAD_PARTS).items():
        place.put(path, body)
    place.put("full_load/t/L/left-over", loaded(["z"]))

    done = place.ingest()

    assert (done.loads, done.waiting) == (["L"], [place.key("full_load/t/L/left-over")])
    assert place.rows() == {"a": "loaded", "b": "loaded"}


def test_a_manifest_that_is_none_is_quarantined_and_blocks_nothing(place: Place) -> None:
    place.land("f.parquet", ("I", "a", 1, "x"))
    place.put("full_load/t/L/_manifest.json", b"{}")

    done = place.ingest()

    assert [record.file.key for record in done.quarantined] == [place.key("full_load/t/L/_manifest.json")]
    assert (place.rows(), place.states()["_manifest.json"]) == ({"a": "x"}, "quarantined")
    assert place.ingest().quarantined == []


def test_the_flat_folder_is_a_load_at_as_of_once_its_files_are_in(place: Place) -> None:
    place.agree(full_load={"as_of": "2024-06-13T05:00:00", "files": 2})
    place.land("f.parquet", ("I", "gone", 4, "x"), ("U", "a", 6, "new"))
    place.put("full_load/t/one.parquet", loaded(["a", "b"]))
    assert place.ingest().loads == []
    assert place.rows() == {"a": "new", "b": "loaded", "gone": "x"}

    place.put("full_load/t/two.parquet", loaded(["c"]))

    assert place.ingest().loads == [place.key("full_load/t/")]
    assert place.rows() == {"a": "new", "b": "loaded", "c": "loaded"}


def test_the_flat_folder_without_as_of_is_refused_until_the_contract_says_when(place: Place) -> None:
    place.put("full_load/t/one.parquet", loaded(["a"]))
    [held] = place.ingest().quarantined
    assert held.reason == (
        "order column 'modified_date' is missing; give the full load a position: "
        "full_load.as_of in the contract, or a manifest"
    )

    place.agree(full_load={"as_of": "2024-06-13T05:00:00", "files": 1})

    assert (place.ingest().loads, place.rows()) == ([place.key("full_load/t/")], {"a": "loaded"})


def test_flat_rows_with_an_order_of_their_own_are_upserts(place: Place) -> None:
    place.land("f.parquet", ("I", "other", 1, "x"))
    place.put("full_load/t/one.parquet", parquet([("I", "a", 2, "x"), ("I", "b", 3, "x")]))

    assert (place.ingest().loads, place.rows()) == ([], {"a": "x", "b": "x", "other": "x"})


def test_the_ledger_names_the_load_and_the_position_of_a_part(place: Place) -> None:
    for path, body in place.load("L", 5, {"part-0": ["a"]}).items():
        place.put(path, body)
    place.ingest()

    ledger = Ledger(place.lakehouse.lake, place.contract)
    [record] = ledger.history("part-0")
    [ended] = ledger.history("_manifest.json")

    assert (record.file.load, record.position, record.rows) == ("L", "2024-06-13T05:00:00+00:00/", 1)
    assert (ended.state, ended.rows) == ("accepted", 0)


def test_a_key_that_is_none_is_named_and_the_rows_come_back_from_raw(place: Place) -> None:
    sink = io.BytesIO()
    pq.write_table(pa.table({"id": ["a", "a", "b"], "Name": ["x", "y", "z"]}), sink)
    etag = place.put("full_load/t/one/part", sink.getvalue())
    entry = {"key": place.key("full_load/t/one/part"), "etag": etag}
    manifest = {"position": {"modified_date": at(3).isoformat()}, "files": [entry]}
    place.put("full_load/t/one/_manifest.json", json.dumps(manifest).encode())
    place.land("2024/06/13/f", ("D", "b", 5, "z"), ("I", "c", 2, "late"))

    [complaint] = complaints(place.contract, place.ingest())
    assert "id = a" in complaint
    assert "upsell repair t --from-raw" in complaint
    place.agree(key=["id", "Name"])
    rebuild(place.lakehouse.store, place.lakehouse.lake, place.contract)

    rows = place.lakehouse.lake.open(table_name(place.contract)).to_pyarrow_table()
    assert sorted(zip(rows["id"].to_pylist(), rows["Name"].to_pylist(), strict=True)) == [("a", "x"), ("a", "y")]
    assert place.ingest().files == 0


def test_a_rebuild_that_was_interrupted_is_finished_by_any_ingest(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, file in place.load("one", 3, {"part": ["a", "b"]}).items():
        place.put(name, file)
    place.land("2024/06/13/f", ("D", "b", 5, None), ("I", "c", 6, "new"))
    place.ingest()
    before, buried = place.rows(), place.buried()
    monkeypatch.setattr(repairs, "ingest", lambda *_, **__: None)

    rebuild(place.lakehouse.store, place.lakehouse.lake, place.contract)
    assert place.rows() == {}
    place.ingest()

    assert (place.rows(), place.buried()) == (before, buried)
