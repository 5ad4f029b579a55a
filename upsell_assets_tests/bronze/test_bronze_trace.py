"""`upsell trace`: every change of a key, which one wins and why, and what bronze holds; on a real object store.

That the verdict is the law's is tried against the oracle, for random histories.
"""

from __future__ import annotations

import io
import json
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from histories import CONTRACTS, histories, law
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Change, Load
from typer.testing import CliRunner, Result

from upsell_assets.bronze.floors import floors_schema
from upsell_assets.bronze.ingest import ingest
from upsell_assets.bronze.sightings import Sighting, parse_key
from upsell_assets.bronze.tables import table_name
from upsell_assets.bronze.trace import Judged, Trace, judge, trace
from upsell_assets.cli import app
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.duck import connect
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.files import MODIFIED, SEQUENCE
from upsell_assets.services.embedded import Running

ORDERS: dict[str, Any] = {
    "schema": "shop",
    "table": "orders",
    "key": ["id"],
    "columns": {"id": "string", "total": "bigint"},
    "order": ["modified_date", "change_seq"],
}


def at(hour: int) -> datetime:
    return datetime(2024, 6, 13, hour, tzinfo=UTC)


def rows(*said: tuple[str, str, int, int | None, int | None]) -> bytes:
    """A file of changes: operation, key, hour, change_seq and total."""
    kinds = {"OP": pa.string(), "id": pa.string(), "modified_date": pa.timestamp("us", "UTC")}
    kinds |= {"change_seq": pa.int64(), "total": pa.int64()}
    table = pa.Table.from_pylist(
        [
            {"OP": op, "id": key, "modified_date": at(hour), "change_seq": seq, "total": total}
            for op, key, hour, seq, total in said
        ],
        pa.schema(list(kinds.items())),
    )
    return parquet(table)


def parquet(table: pa.Table) -> bytes:
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


@dataclass
class Shop:
    """A lake with one table, whose history is kept or not."""

    lakehouse: Lakehouse
    contract: Contract

    def land(self, name: str, body: bytes) -> str:
        key = f"raw/shop/{name}"
        self.lakehouse.store.write(key, body)
        return key

    def load(self, name: str, hour: int, totals: dict[str, int]) -> str:
        """A full load that stands at an hour; the key of its file."""
        body = parquet(pa.table({"id": [*totals], "total": pa.array(totals.values(), pa.int64())}))
        key = self.land(part := f"full_load/orders/{name}/part", body)
        etag = next(entry.etag for entry in self.lakehouse.store.list(f"raw/shop/{part}"))
        manifest = {"position": {"modified_date": at(hour).isoformat()}, "files": [{"key": key, "etag": etag}]}
        self.land(f"full_load/orders/{name}/_manifest.json", json.dumps(manifest).encode())
        return key

    def ingest(self) -> None:
        ingest(self.lakehouse.store, self.lakehouse.lake, self.contract)

    def trace(self, *key: str) -> Trace:
        return trace(self.lakehouse.store, self.lakehouse.lake, self.contract, parse_key(self.contract, key))


@pytest.fixture(params=[True, False], ids=["history", "raw"])
def shop(request: pytest.FixtureRequest, open_lakehouse: Callable[..., Lakehouse]) -> Shop:
    return Shop(open_lakehouse(), Contract.model_validate({**ORDERS, "history": request.param}))


def told(found: Trace) -> list[tuple[int | None, str, str]]:
    """Number, file (its last name) and why, of each line."""
    return [(j.number, j.change.file.removeprefix("raw/shop/"), ("wins: " * j.wins) + j.why) for j in found.changes]


def test_the_newest_wins_whatever_came_last(shop: Shop) -> None:
    shop.land("cdc/orders/2024/06/13/b", rows(("I", "k", 1, 1, 10), ("U", "k", 3, 3, 30), ("I", "other", 1, 2, 7)))
    shop.ingest()
    shop.land("cdc/orders/2024/06/14/a", rows(("U", "k", 2, 2, 20), ("U", "k", 3, 3, 30)))
    shop.ingest()

    found = shop.trace("k")

    assert told(found) == [
        (1, "cdc/orders/2024/06/13/b", "older than #4, by modified_date"),
        (2, "cdc/orders/2024/06/14/a", "older than #4, by modified_date"),
        (3, "cdc/orders/2024/06/14/a", "a copy of #4"),
        (4, "cdc/orders/2024/06/13/b", "wins: the newest, by modified_date"),
    ]
    assert [(j.change.row, j.change.operation, j.change.values) for j in found.changes] == [
        (0, "I", {"total": 10}),
        (0, "U", {"total": 20}),
        (1, "U", {"total": 30}),
        (1, "U", {"total": 30}),
    ]
    assert [(row["id"], row["total"]) for row in found.live] == [("k", 30)]
    assert found.agrees
    assert found.changes[0].change.arrived is not None


def test_a_delete_wins_a_tie_and_older_changes_lose_to_it(shop: Shop) -> None:
    shop.land("cdc/orders/2024/06/13/a", rows(("D", "k", 2, 5, None), ("U", "k", 2, 5, 20), ("I", "k", 2, 4, 10)))
    shop.land("cdc/orders/2024/06/13/b", rows(("U", "k", 2, None, 30)))
    shop.ingest()

    found = shop.trace("k")

    assert told(found) == [
        (1, "cdc/orders/2024/06/13/b", "without a change_seq, below #4"),
        (2, "cdc/orders/2024/06/13/a", "older than #4, by change_seq"),
        (3, "cdc/orders/2024/06/13/a", "tied with #4: a delete wins"),
        (4, "cdc/orders/2024/06/13/a", "wins: a delete wins a tie with #3"),
    ]
    assert (found.live, found.agrees) == ([], True)
    assert found.tombstone is not None
    assert found.tombstone[SEQUENCE] == 5


def test_a_full_load_settles_what_lies_below_it(shop: Shop) -> None:
    shop.land("cdc/orders/2024/06/13/a", rows(("I", "held", 1, 1, 1), ("I", "gone", 1, 2, 2), ("U", "newer", 9, 3, 3)))
    part = shop.load("june", 5, {"held": 50}).removeprefix("raw/shop/")
    shop.ingest()
    shop.land("cdc/orders/2024/06/14/late", rows(("U", "gone", 4, 4, 4)))
    shop.ingest()

    floor = "at or below the floor: #{}, the end of a full load, settles all that stands there"
    held, gone, newer = (shop.trace(key) for key in ("held", "gone", "newer"))

    assert told(held) == [
        (1, "cdc/orders/2024/06/13/a", floor.format(2)),
        (2, "full_load/orders/", "deletes what lies at or below it and is not in the load; #3 stands above"),
        (3, part, "wins: a row of a full load stands above all else at its position"),
    ]
    assert [(j.load, j.ends_load) for j in held.changes] == [(None, False), ("june", True), ("june", False)]
    assert [row["total"] for row in held.live] == [50]
    assert told(gone) == [
        (1, "cdc/orders/2024/06/13/a", floor.format(3)),
        (2, "cdc/orders/2024/06/14/late", floor.format(3)),
        (
            3,
            "full_load/orders/",
            "wins: nothing newer is known, and the full load does not hold the key: its end deletes it",
        ),
    ]
    assert gone.live == []
    assert told(newer)[-1] == (2, "cdc/orders/2024/06/13/a", "wins: the newest, by modified_date")
    assert held.agrees
    assert gone.agrees
    assert newer.agrees


def test_changes_that_do_not_count_are_told_apart(shop: Shop) -> None:
    shop.land("cdc/orders/2024/06/13/a", rows(("I", "k", 1, 1, 10)))
    bad = pa.table({"OP": ["U"], "id": ["k"], "modified_date": [at(2)], "total": ["many"]})
    shop.land("cdc/orders/2024/06/13/bad", parquet(bad))
    shop.land("cdc/orders/2024/06/13/broken", b"no parquet")
    shop.land("full_load/orders/july/part", parquet(pa.table({"id": ["k"], "total": [70]})))
    shop.ingest()
    shop.land("cdc/orders/2024/06/14/new", rows(("U", "k", 9, 9, 90), ("U", "else", 9, 9, 90)))

    found = shop.trace("k")

    counting, *others = found.changes
    assert (counting.number, counting.wins, counting.why) == (1, True, "the only change")
    assert [(j.number, j.change.state, j.change.file.rpartition("/")[2], j.change.values) for j in others] == [
        (None, "quarantined", "bad", {"total": "many"}),
        (None, "new", "new", {"total": 90}),
        (None, "waiting", "part", {"total": 70}),
    ]
    assert "total" in others[0].why
    assert [note for note in found.unread if "broken" in note and "not readable as parquet" in note]
    assert [row["total"] for row in found.live] == [10]
    assert found.agrees


def test_a_key_of_which_nothing_was_said(shop: Shop) -> None:
    shop.land("cdc/orders/2024/06/13/a", rows(("I", "k", 1, 1, 10)))
    shop.ingest()
    shop.load("june", 5, {"k": 50})
    shop.ingest()

    found = shop.trace("stranger")

    assert (found.changes, found.live, found.tombstone, found.winner, found.agrees) == ([], [], None, None, True)


def test_a_row_that_the_changes_do_not_come_to_is_told(shop: Shop) -> None:
    shop.land("cdc/orders/2024/06/13/a", rows(("I", "k", 1, 1, 10), ("I", "lost", 1, 2, 20)))
    shop.ingest()
    live = shop.lakehouse.lake.open(table_name(shop.contract))
    live.update(updates={"total": "11"}, predicate="id = 'k'")
    live.delete("id = 'lost'")

    assert not shop.trace("k").agrees
    assert not shop.trace("lost").agrees


def test_what_lies_in_raw_no_more_is_known_where_the_history_is_kept(shop: Shop) -> None:
    key = shop.land("cdc/orders/2024/06/13/a", rows(("I", "k", 1, 1, 10)))
    shop.ingest()
    shop.lakehouse.store.client.delete_object(Bucket=shop.lakehouse.store.bucket, Key=key)

    found = shop.trace("k")

    if shop.contract.history:
        assert [(j.change.file, j.wins) for j in found.changes] == [(key, True)]
        assert (found.unread, found.agrees) == ([], True)
    else:
        assert found.changes == []
        assert found.unread == [f"{key}: was taken in, and lies in raw no more"]


def test_a_history_that_began_late_is_completed_from_raw(open_lakehouse: Callable[..., Lakehouse]) -> None:
    shop = Shop(open_lakehouse(), Contract.model_validate(ORDERS))
    shop.land("cdc/orders/2024/06/13/a", rows(("I", "k", 1, 1, 10), ("U", "k", 2, 2, 20)))
    shop.ingest()
    shop.contract = Contract.model_validate({**ORDERS, "history": True})
    shop.land("cdc/orders/2024/06/14/b", rows(("U", "k", 3, 3, 30)))
    shop.ingest()

    assert [(j.change.values["total"], j.wins) for j in shop.trace("k").changes] == [
        (10, False),
        (20, False),
        (30, True),
    ]


def test_keys_are_given_in_order_or_by_name() -> None:
    contract = Contract.model_validate(
        {**ORDERS, "key": ["id", "line"], "columns": {"id": "string", "line": "bigint", "total": "bigint"}}
    )

    assert parse_key(contract, ["a=b", "2"]) == {"id": "a=b", "line": 2}
    assert parse_key(contract, ["LINE=2", "a"]) == {"id": "a", "line": 2}
    assert parse_key(contract, ["id=id=1", "line=2"]) == {"id": "id=1", "line": 2}
    with pytest.raises(PermanentError, match=r"its key is \(id, line\); give a value for each"):
        parse_key(contract, ["a"])
    with pytest.raises(PermanentError, match="'two' is no bigint, which line is"):
        parse_key(contract, ["a", "two"])


def test_the_command_prints_lines_and_json_and_fails_where_bronze_differs(
    services: Running, open_lakehouse: Callable[..., Lakehouse], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "orders.yaml").write_text(json.dumps({**ORDERS, "history": True}), encoding="utf-8")
    shop = Shop(open_lakehouse(contracts=tmp_path), Contract.model_validate({**ORDERS, "history": True}))
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UPSELL_S3_BUCKET", shop.lakehouse.settings.bucket)
    monkeypatch.setenv("UPSELL_CONTRACTS", str(tmp_path))
    key = shop.land("cdc/orders/2024/06/13/a", rows(("I", "k", 1, 1, 10)))
    shop.ingest()

    def upsell(*arguments: str) -> Result:
        return CliRunner().invoke(app, ["trace", *arguments])

    listed = CliRunner().invoke(app, ["query", "SELECT id FROM bronze.shop.orders", "--csv"])
    assert upsell("bronze.shop.orders", listed.stdout.splitlines()[-1]).stdout.splitlines() == [
        "bronze.shop.orders id = k: 1 changes in 1 files",
        "#\tstate\top\tmodified_date\tchange_seq\tfull load\tfile\trow\tsays\tverdict",
        f"1\taccepted\tI\t2024-06-13 01:00:00+00:00\t1\t\t{key}\t0\ttotal = 10\twins: the only change",
        f"bronze.shop.orders holds id = k, total = 10 (from {key}, row 0; version 1)",
    ]
    as_json = json.loads(upsell("orders", "id=k", "--json").stdout)
    assert (as_json["table"], as_json["agrees"], as_json["live"][0]["total"]) == ("bronze.shop.orders", True, 10)
    assert [(change["file"], change["why"]) for change in as_json["changes"]] == [(key, "the only change")]
    shop.lakehouse.lake.open(table_name(shop.contract)).delete("id = 'k'")
    differs = upsell("orders", "k")
    assert differs.exit_code == 1
    assert "upsell repair orders --from-raw" in differs.stderr
    assert "bronze.shop.orders holds no row of it" in differs.stdout


@settings(max_examples=60, deadline=None)
@given(name=st.sampled_from(list(CONTRACTS)), data=st.data())
def test_the_verdict_is_what_the_oracle_says(name: str, data: st.DataObject) -> None:
    of = CONTRACTS[name]
    history = data.draw(histories(of, most=8))
    rules, expected = law(of), law(of).oracle(history.changes, history.loads)
    floor = max((load for load in history.loads if load.ended), key=rules.position, default=None)
    said = [*history.changes, *(row for load in history.loads for row in load.rows)]
    for key in {change.key for change in said}:
        changes = [change for change in said if change.key == key]
        judged = verdicts(of, key, changes, [load for load in history.loads if load.ended])
        original = {id(sighted): change for change, sighted in zip(changes, SIGHTED, strict=True)}
        lines = [(j, original.get(id(j.change))) for j in judged]
        [(winner, change)] = [line for line in lines if line[0].wins]
        if key in expected.live:
            assert change is not None
            assert {n: v for n, v in change.values if v is not None} == expected.live[key]
        else:
            assert winner.change.operation == "D"
            assert rules.place(change or rules.end_of(floor, key)) == expected.tombstones[key]  # type: ignore[arg-type]
        orders = [rules.full_order(change) for _, change in lines if change]
        assert orders == sorted(orders)
        for line, loser in lines:
            if loser and not line.wins:
                late = not rules._counts(loser, floor)
                assert ("below the floor" in line.why) == late
                if change and not late:
                    differs = rules.position(loser) != rules.position(change)
                    assert (line.why.startswith(("older than", "without a change_seq"))) == differs
                    copy = rules.full_order(loser) == rules.full_order(change) and loser.op == change.op
                    assert line.why.startswith("a copy of") == (copy and loser.modified == change.modified)


SIGHTED: list[Sighting] = []


def verdicts(of: Contract, key: tuple[Any, ...], changes: list[Change], ended: list[Load]) -> list[Judged]:
    """What `judge` says of changes as they were sighted, which `SIGHTED` then holds."""
    SIGHTED[:] = [
        Sighting(
            "accepted",
            change.file,
            change.row,
            change.op,
            change.modified,
            change.seq,
            {n: v for n, v in change.values if n not in of.key and v is not None},
        )
        for change in changes
    ]
    floors = [{MODIFIED: load.modified, SEQUENCE: load.seq} for load in ended]
    with connect() as connection:
        return judge(
            connection,
            of,
            dict(zip(of.key, key, strict=True)),
            SIGHTED,
            pa.Table.from_pylist(floors, floors_schema(of)),
            {},
        )
