"""Changes in the order of their commits, whole, once, and under crashes at every step."""

from __future__ import annotations

import json
import pkgutil
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from capture_place import TABLES, Place

from upsell_assets.capture import setup, stream
from upsell_assets.capture.landing import read_state, write_state
from upsell_assets.capture.values import SESSION
from upsell_assets.errors import PermanentError, RetryableError, SlotLostError
from upsell_assets.source.database import Connection, connect

pytestmark = pytest.mark.services


@pytest.fixture
def loaded(place: Place) -> Place:
    """Two customers, loaded."""
    place.owner.execute("INSERT INTO customers VALUES ('a', 1, NULL), ('b', 2, 0)")
    place.capture().ensure_full_load()
    return place


def _operations(place: Place, table: str = "customers") -> list[tuple[str, str, int | None]]:
    return [(row["OP"], row["idCustomer"], row["PointsCustomer"]) for row in place.changes(table)]


def test_drain_without_changes_writes_no_file(loaded: Place) -> None:
    drained = loaded.capture().drain()

    assert (drained.changes, drained.files) == ({}, [])
    assert loaded.keys("cdc/") == []
    assert loaded.capture().lag().bytes == 0


def test_changes_carry_operation_commit_time_and_position(loaded: Place) -> None:
    before = datetime.now(UTC).replace(tzinfo=None)
    with loaded.owner.transaction():
        loaded.owner.execute("INSERT INTO customers VALUES ('c', 3, 1)")
        loaded.owner.execute('UPDATE customers SET "PointsCustomer" = 30 WHERE "idCustomer" = \'c\'')
        loaded.owner.execute("DELETE FROM customers WHERE \"idCustomer\" = 'b'")
    drained = loaded.capture().drain()

    rows = loaded.changes("customers")
    assert drained.changes == {"customers": 3}
    assert _operations(loaded) == [("I", "c", 3), ("U", "c", 30), ("D", "b", 2)]
    assert [row["change_seq"][16:] for row in rows] == ["-0000000001", "-0000000002", "-0000000003"]
    assert len({row["change_seq"][:16] for row in rows}) == 1
    assert len({row["modified_date"] for row in rows}) == 1
    assert before - timedelta(seconds=1) < rows[0]["modified_date"] < before + timedelta(seconds=60)
    [key] = loaded.keys("cdc/customers/")
    assert key.endswith(f"/{rows[0]['change_seq']}.parquet")
    assert drained.files == [key]
    assert drained.position > rows[-1]["change_seq"]


def test_interleaved_transactions_come_in_commit_order(loaded: Place) -> None:
    update = 'UPDATE customers SET "PointsCustomer" = %s WHERE "idCustomer" = %s'
    with connect(loaded.owner_dsn) as other:
        with loaded.owner.transaction():
            loaded.owner.execute(update, [10, "a"])  # the first change in the log, and the last to commit
            with other.transaction():
                other.execute(update, [20, "b"])
            loaded.capture().drain()
        loaded.capture().drain()

    assert _operations(loaded) == [("U", "b", 20), ("U", "a", 10)]
    assert loaded.fold("customers") == loaded.source("customers")


def test_change_of_key_is_a_delete_and_an_insert(loaded: Place) -> None:
    loaded.owner.execute('UPDATE customers SET "idCustomer" = \'z\', "PointsCustomer" = 9 WHERE "idCustomer" = \'a\'')
    loaded.capture().drain()

    assert _operations(loaded) == [("D", "a", 1), ("I", "z", 9)]
    assert loaded.fold("customers") == loaded.source("customers")


def test_rolled_back_changes_never_arrive(loaded: Place) -> None:
    with loaded.owner.transaction(force_rollback=True):
        loaded.owner.execute("DELETE FROM customers")
    with loaded.owner.transaction():
        loaded.owner.execute("INSERT INTO customers VALUES ('kept', 1, 1)")
        with loaded.owner.transaction(force_rollback=True):
            loaded.owner.execute("INSERT INTO customers VALUES ('lost', 1, 1)")
    loaded.capture().drain()

    assert _operations(loaded) == [("I", "kept", 1)]


def test_untouched_long_text_is_filled_from_the_old_row(loaded: Place) -> None:
    long = "".join(str(number) for number in range(30_000))
    loaded.owner.execute('ALTER TABLE transactions_product ALTER COLUMN "NameProduct" SET STORAGE EXTERNAL')
    loaded.owner.execute("INSERT INTO transactions_product VALUES ('1', 't', %s, 1)", [long])
    loaded.owner.execute('UPDATE transactions_product SET "QuantityProduct" = 2')
    loaded.owner.execute("UPDATE transactions_product SET \"idTransactionCart\" = '2'")
    loaded.owner.execute("DELETE FROM transactions_product")
    loaded.capture().drain()

    rows = loaded.changes("transactions_product")
    assert [row["OP"] for row in rows] == ["I", "U", "D", "I", "D"]
    assert {row["NameProduct"] for row in rows} == {long}


def test_long_text_that_was_not_sent_is_an_error_and_not_a_null(loaded: Place) -> None:
    loaded.owner.execute('ALTER TABLE transactions_product ALTER COLUMN "NameProduct" SET STORAGE EXTERNAL')
    loaded.owner.execute("INSERT INTO transactions_product VALUES ('1', 't', repeat('x', 9000), 1)")
    loaded.owner.execute("ALTER TABLE transactions_product REPLICA IDENTITY DEFAULT")
    loaded.owner.execute('UPDATE transactions_product SET "QuantityProduct" = 2')
    confirmed = setup.find_slot(loaded.owner, loaded.name)

    with pytest.raises(PermanentError, match=r"came without NameProduct.*REPLICA IDENTITY FULL, then take a new full"):
        loaded.capture().drain()

    assert setup.find_slot(loaded.owner, loaded.name) == confirmed


def test_delete_that_names_only_the_key_is_taken(loaded: Place) -> None:
    loaded.owner.execute("ALTER TABLE customers REPLICA IDENTITY DEFAULT")
    loaded.owner.execute("DELETE FROM customers WHERE \"idCustomer\" = 'a'")
    loaded.capture().drain()

    assert _operations(loaded) == [("D", "a", None)]
    assert loaded.fold("customers") == loaded.source("customers")


def test_truncate_is_an_empty_load_between_the_changes(loaded: Place) -> None:
    loaded.owner.execute("INSERT INTO customers VALUES ('before', 1, 1)")
    loaded.owner.execute("TRUNCATE customers, transactions")
    loaded.owner.execute("INSERT INTO customers VALUES ('after', 1, 1)")
    loaded.capture().drain()

    [before, after] = loaded.changes("customers")
    empty = loaded.loads("customers")[-1]
    assert before["change_seq"] < empty["position"]["change_seq"] < after["change_seq"]
    assert (empty["files"], empty["rows"]) == ([], 0)
    assert [load["rows"] for load in loaded.loads("transactions")] == [0, 0]
    assert loaded.fold("customers") == loaded.source("customers")


def test_new_column_travels_from_the_change_that_has_it(loaded: Place) -> None:
    loaded.owner.execute("INSERT INTO customers VALUES ('c', 3, 1)")
    loaded.owner.execute('ALTER TABLE customers ADD COLUMN level int, ADD COLUMN "OP" text')
    loaded.owner.execute("UPDATE customers SET level = 7, \"OP\" = 'theirs' WHERE \"idCustomer\" = 'c'")
    loaded.owner.execute('ALTER TABLE customers DROP COLUMN "flEmail"')
    loaded.owner.execute("INSERT INTO customers VALUES ('d', 4, 8)")
    loaded.capture().drain()

    insert, update, later = loaded.changes("customers")
    assert len(loaded.keys("cdc/customers/")) == 3
    assert "level" not in insert
    assert (update["level"], update["OP"], update["flEmail"]) == (7, "U", 1)
    assert (later["level"], later["OP"], "flEmail" in later) == (8, "I", False)


def _read_without_confirming(place: Place) -> list[str]:
    """What a drain does until it dies between its files and the watermark."""
    state = read_state(place.store, f"{place.prefix}/_capture/state.json")
    assert state is not None
    with connect(place.dsn) as connection:
        connection.execute(SESSION)
        row = connection.execute("SELECT (pg_current_wal_flush_lsn() - '0/0')::bigint").fetchone()
        assert row is not None
        _, files = stream.read_round(
            connection,
            place.store,
            place.contracts,
            name=place.name,
            schema="public",
            confirmed=state.confirmed_lsn,
            upto=row[0],
        )
    return files


def test_crash_before_the_watermark_repeats_the_file_under_its_name(loaded: Place) -> None:
    loaded.owner.execute("INSERT INTO customers VALUES ('c', 3, 1)")
    files = _read_without_confirming(loaded)
    [first] = list(loaded.store.list(f"{loaded.prefix}/cdc/"))
    loaded.owner.execute("INSERT INTO customers VALUES ('d', 4, 1)")

    drained = loaded.capture().drain()

    [second] = list(loaded.store.list(f"{loaded.prefix}/cdc/"))
    assert files == drained.files == [first.key] == [second.key]
    assert first.etag != second.etag
    assert _operations(loaded) == [("I", "c", 3), ("I", "d", 4)]
    assert loaded.fold("customers") == loaded.source("customers")


def test_crash_between_watermark_and_slot_repeats_nothing(loaded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    loaded.owner.execute("INSERT INTO customers VALUES ('c', 3, 1)")
    with monkeypatch.context() as dying:
        dying.setattr(stream, "advance", lambda *_: None)
        loaded.capture().drain()
    behind = setup.find_slot(loaded.owner, loaded.name)
    loaded.owner.execute("INSERT INTO customers VALUES ('d', 4, 1)")

    again = loaded.capture().drain()

    slot = setup.find_slot(loaded.owner, loaded.name)
    assert behind is not None
    assert slot is not None
    assert behind.confirmed_lsn < slot.confirmed_lsn
    assert again.changes == {"customers": 1}
    assert loaded.fold("customers") == loaded.source("customers")


def test_slot_that_fell_back_is_read_from_the_watermark(loaded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "advance", lambda *_: None)  # the slot never moves, as after any number of crashes
    for number in range(4):
        loaded.owner.execute("INSERT INTO customers VALUES (%s, 1, 1)", [f"n{number}"])
        assert loaded.capture().drain().changes == {"customers": 1}

    assert loaded.fold("customers") == loaded.source("customers")


def test_many_small_rounds_equal_one(loaded: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stream, "ROUND_BYTES", 1_000)
    monkeypatch.setattr("upsell_assets.capture.landing.FILE_ROWS", 7)
    monkeypatch.setattr("upsell_assets.capture.changes._BATCH_ROWS", 3)
    with loaded.owner.transaction():
        loaded.owner.execute("INSERT INTO customers SELECT 'n' || i, i, 1 FROM generate_series(1, 100) i")
    for number in range(20):
        loaded.owner.execute('UPDATE customers SET "flEmail" = 0 WHERE "idCustomer" = %s', [f"n{number + 1}"])

    drained = loaded.capture().drain()

    assert drained.changes == {"customers": 120}
    assert len(drained.files) > 12
    assert loaded.fold("customers") == loaded.source("customers")


def test_lag_is_what_the_lake_has_not_seen(loaded: Place) -> None:
    capture = loaded.capture()

    def drained() -> tuple[int, float]:
        capture.drain()
        lag = capture.lag()
        return lag.bytes, lag.seconds

    # The server writes a record of its own every 15 s, which can come between a drain and the look.
    assert (0, 0.0) in (drained(), drained(), drained())

    loaded.owner.execute("INSERT INTO customers SELECT 'n' || i, i, 1 FROM generate_series(1, 1000) i")
    behind = capture.lag()

    assert behind.bytes > 50_000
    assert 0 < behind.seconds < 60
    capture.drain()
    assert capture.lag().bytes < behind.bytes


def test_lost_slot_says_what_to_do_and_a_resync_heals_it(loaded: Place) -> None:
    loaded.owner.execute("INSERT INTO customers VALUES ('c', 3, 1)")
    setup.drop_slot(loaded.owner, loaded.name)
    loaded.owner.execute("DELETE FROM customers WHERE \"idCustomer\" = 'a'")

    for step in (loaded.capture().drain, loaded.capture().lag):
        with pytest.raises(PermanentError, match=r"slot is gone.*cannot be read\. Take a new full load"):
            step()
    loaded.capture().resync()
    loaded.owner.execute("INSERT INTO customers VALUES ('d', 4, 1)")
    loaded.capture().drain()

    assert len(loaded.loads("customers")) == 2
    for table in TABLES:
        assert loaded.fold(table) == loaded.source(table)


def test_lost_slot_is_healed_by_itself_only_where_that_was_asked_for(loaded: Place) -> None:
    loaded.owner.execute("INSERT INTO customers VALUES ('c', 3, 1)")
    setup.drop_slot(loaded.owner, loaded.name)
    loaded.owner.execute("DELETE FROM customers WHERE \"idCustomer\" = 'a'")
    with pytest.raises(SlotLostError, match="upsell capture --resync all"):
        loaded.capture().drain()

    loaded.capture(resync=True).drain()
    loaded.owner.execute("INSERT INTO customers VALUES ('d', 4, 1)")

    assert loaded.capture().drain().changes == {"customers": 1}
    for table in TABLES:
        assert loaded.fold(table) == loaded.source(table)


def test_resync_of_one_table_goes_beside_the_stream(loaded: Place) -> None:
    loaded.owner.execute("INSERT INTO customers VALUES ('c', 3, 1)")
    inside: list[dict[str, int]] = []

    def drain(table: str, rows: int) -> None:
        loaded.owner.execute("INSERT INTO customers VALUES (%s, 5, 1)", [f"n{len(inside)}"])
        inside.append(loaded.capture().drain().changes)

    loads = loaded.capture().resync(["customers"], drain)
    loaded.owner.execute("DELETE FROM customers WHERE \"idCustomer\" = 'c'")
    loaded.capture().drain()

    assert [(load.table, load.rows) for load in loads] == [("customers", 3)]
    assert inside == [{"customers": 2}]
    assert len(loaded.loads("customers")) == 2
    assert len(loaded.loads("transactions")) == 1
    assert loaded.fold("customers") == loaded.source("customers")


def test_resync_of_one_table_without_a_stream_says_that_all_must_be_loaded(loaded: Place) -> None:
    setup.drop_slot(loaded.owner, loaded.name)

    with pytest.raises(SlotLostError, match="upsell capture --resync all"):
        loaded.capture().resync(["customers"])

    assert len(loaded.loads("customers")) == 1


def test_two_loads_beside_the_stream_do_not_run_at_once(loaded: Place) -> None:
    def second(table: str, rows: int) -> None:
        with pytest.raises(RetryableError, match="another load beside the stream is under way"):
            loaded.capture().resync(["customers"])

    assert len(loaded.capture().resync(["customers"], second)) == 1


def test_drop_leaves_no_slot_behind_and_the_lake_says_so(loaded: Place) -> None:
    loaded.capture().drop()

    assert setup.find_slot(loaded.owner, loaded.name) is None
    with pytest.raises(SlotLostError, match="slot is gone"):
        loaded.capture().drain()


def test_a_position_is_reached_exactly_while_others_write(loaded: Place) -> None:
    loaded.owner.execute("INSERT INTO customers VALUES ('c', 3, 1)")

    with loaded.capture().reached(["customers"]) as (taken, let_go):
        loaded.owner.execute("INSERT INTO customers VALUES ('later', 3, 1)")
        rows = taken.connection.execute("SELECT count(*) FROM customers").fetchone()
        with pytest.raises(RetryableError, match="another capture"):
            loaded.capture().drain()
        folded = loaded.fold("customers")
        let_go()
        assert loaded.capture().drain().changes == {"customers": 1}

    assert rows == (len(folded),) == (3,)


def test_slot_that_somebody_else_moved_is_refused(loaded: Place) -> None:
    loaded.owner.execute("INSERT INTO customers VALUES ('c', 3, 1)")
    loaded.owner.execute("SELECT pg_replication_slot_advance(%s, pg_current_wal_flush_lsn())", [loaded.name])

    with pytest.raises(PermanentError, match="somebody else moved or made it"):
        loaded.capture().drain()

    assert loaded.keys("cdc/") == []


def test_database_restored_to_an_earlier_state_is_refused(loaded: Place) -> None:
    key = f"{loaded.prefix}/_capture/state.json"
    state = read_state(loaded.store, key)
    assert state is not None
    write_state(loaded.store, key, state.__class__(**{**state.__dict__, "confirmed_lsn": 1 << 60}))

    with pytest.raises(PermanentError, match="was restored to an earlier state"):
        loaded.capture().drain()


def test_unreadable_state_is_named(loaded: Place) -> None:
    loaded.store.write(f"{loaded.prefix}/_capture/state.json", json.dumps({"slot": "x"}).encode())

    with pytest.raises(PermanentError, match=r"_capture/state\.json is not a capture state"):
        loaded.capture().drain()


@pytest.mark.parametrize("query", ["upsell_assets.capture.job.preflight", "upsell_assets.capture.stream.find_slot"])
def test_connection_that_is_lost_before_any_query_may_be_tried_again(
    loaded: Place, monkeypatch: pytest.MonkeyPatch, query: str
) -> None:
    asked: Callable[..., Any] = pkgutil.resolve_name(query)

    def too_late(connection: Connection, *arguments: Any, **named: Any) -> object:
        loaded.owner.execute("SELECT pg_terminate_backend(%s, 10000)", [connection.info.backend_pid])
        return asked(connection, *arguments, **named)

    capture = loaded.capture()
    steps: list[Callable[[], object]] = (
        [capture.resync] if query.endswith("preflight") else [capture.drain, capture.lag]
    )
    monkeypatch.setattr(query, too_late)
    for step in steps:
        with pytest.raises(RetryableError, match="terminating connection"):
            step()


def test_following_carries_changes_until_it_is_told_to_stop(loaded: Place) -> None:
    stop = threading.Event()
    seen: list[int] = []
    for number, drained in enumerate(loaded.capture().follow(stop, seconds=0)):
        seen.append(drained.changes.get("customers", 0))
        if sum(seen) == 3:
            stop.set()
        elif number < 3:
            loaded.owner.execute("INSERT INTO customers VALUES (%s, 1, 1)", [f"n{number}"])

    assert sum(seen) == 3
    assert loaded.fold("customers") == loaded.source("customers")


def test_app_is_not_blocked_while_changes_are_read(loaded: Place, app: Connection) -> None:
    app.execute("SET lock_timeout TO '1s'")
    loaded.owner.execute("INSERT INTO customers VALUES ('c', 3, 1)")

    def write(table: str, rows: int) -> None:
        app.execute('UPDATE customers SET "flEmail" = 1')

    assert loaded.capture().drain(write).changes == {"customers": 1}
    assert loaded.capture().drain().changes == {"customers": 3}
