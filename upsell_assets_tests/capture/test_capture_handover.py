"""From the snapshot to the stream: nothing lost, nothing doubled, and an interruption leaves nothing behind."""

from __future__ import annotations

import io
import json
import logging
import random
import re
import threading

import pyarrow.parquet as pq
import pytest
from capture_place import APP_ROLE, CAPTURE_ROLE, PASSWORD, TABLES, Place
from psycopg import sql
from psycopg.conninfo import make_conninfo
from psycopg.errors import InsufficientPrivilege

from upsell_assets.capture import full_load, setup
from upsell_assets.capture.landing import read_state
from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.source.database import Connection, connect

pytestmark = pytest.mark.services


def _fill(connection: Connection, rows: int) -> None:
    connection.execute(
        "INSERT INTO transactions SELECT 'old-' || i, 'c' || mod(i, 7), timestamp '2024-01-01' + i * interval "
        f"'1.5 seconds', i FROM generate_series(1, {rows}) i"
    )
    connection.execute("INSERT INTO customers SELECT 'c' || i, i, NULL FROM generate_series(0, 6) i")


def _write_until(stop: threading.Event, dsn: str, writer: int, written: list[int]) -> None:
    """Transactions of an app: some long, some rolled back, always interleaved with those of other writers."""
    dice = random.Random(writer)
    with connect(dsn) as connection:
        while not stop.is_set():
            number = written[writer]
            with connection.transaction(force_rollback=dice.random() < 0.1):
                connection.execute(
                    "INSERT INTO transactions VALUES (%s, %s, now(), 1), (%s, %s, now(), 2)",
                    [f"w{writer}-{number}", f"c{number % 7}", f"w{writer}-{number}-b", f"c{number % 7}"],
                )
                stop.wait(dice.random() / 200)
                connection.execute(
                    'UPDATE customers SET "PointsCustomer" = "PointsCustomer" + 3 WHERE "idCustomer" = %s',
                    [f"c{dice.randrange(7)}"],
                )
                victim = dice.choice([f"old-{dice.randrange(2000)}", f"w{writer}-{dice.randrange(number + 1)}"])
                connection.execute('DELETE FROM transactions WHERE "idTransaction" = %s', [victim])
            written[writer] += 1


def test_handover_under_concurrent_writers_loses_and_doubles_nothing(place: Place) -> None:
    _fill(place.owner, 2000)
    stop, written = threading.Event(), [0, 0, 0]
    writers = [threading.Thread(target=_write_until, args=(stop, place.owner_dsn, i, written)) for i in range(3)]
    for writer in writers:
        writer.start()
    try:
        capture = place.capture()
        capture.ensure_full_load()
        drains = [capture.drain() for _ in range(5)]
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    drains.append(capture.drain())

    assert sum(drain.changes.get("transactions", 0) for drain in drains) == len(place.changes("transactions"))
    assert min(written) > 3, "the writers did not run beside the capture"
    floor = place.loads("transactions")[0]["position"]
    assert all(row["change_seq"] > floor["change_seq"] for row in place.changes("transactions"))
    assert all(
        row["modified_date"].isoformat() + "+00:00" > floor["modified_date"] for row in place.changes("customers")
    )
    for table in TABLES:
        assert place.fold(table) == place.source(table)


def test_a_second_full_load_is_not_taken(place: Place) -> None:
    first = place.capture().ensure_full_load()

    assert [load.table for load in first] == list(TABLES)
    assert place.capture().ensure_full_load() == []


def test_interrupted_first_load_is_started_again_and_leaves_no_stale_part(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    _fill(place.owner, 50)
    monkeypatch.setattr(full_load, "_CHUNK_BYTES", 100)

    def pull_the_plug(table: str, rows: int) -> None:
        if table == "transactions" and rows > 25:
            raise KeyboardInterrupt

    monkeypatch.setattr("upsell_assets.capture.landing.FILE_ROWS", 5)
    with pytest.raises(KeyboardInterrupt):
        place.capture().ensure_full_load(pull_the_plug)
    dead = place.keys("full_load/transactions/")
    assert len(dead) > 1
    assert not any(key.endswith("_manifest.json") for key in dead)

    place.owner.execute("DELETE FROM transactions WHERE \"idTransaction\" = 'old-1'")
    with pytest.raises(PermanentError, match="there is no full load yet"):
        place.capture().drain()
    place.capture().ensure_full_load()

    assert not set(dead) & set(place.keys())
    assert place.fold("transactions") == place.source("transactions")
    assert len(place.source("transactions")) == 49


def test_slot_of_a_killed_load_is_dropped(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(place.owner, 1)
    with monkeypatch.context() as killed:
        # A process that is killed cleans nothing up.
        killed.setattr("upsell_assets.capture.job.drop_slot", lambda *_: None)
        with pytest.raises(KeyboardInterrupt):
            place.capture().ensure_full_load(_raise_interrupt)
    assert setup.find_slot(place.owner, place.name) is not None

    place.capture().ensure_full_load()

    assert place.fold("transactions") == place.source("transactions")


def _raise_interrupt(table: str, rows: int) -> None:
    raise KeyboardInterrupt


def test_slot_of_another_lake_is_refused_and_kept(place: Place) -> None:
    place.owner.execute("SELECT pg_create_logical_replication_slot(%s, 'pgoutput')", [place.name])

    with pytest.raises(PermanentError, match=f"slot of this name exists.*pg_drop_replication_slot\\('{place.name}'\\)"):
        place.capture().ensure_full_load()

    assert setup.find_slot(place.owner, place.name) is not None
    assert place.keys() == []


def test_two_captures_do_not_work_at_once(place: Place) -> None:
    _fill(place.owner, 1)

    def second(table: str, rows: int) -> None:
        with pytest.raises(RetryableError, match="another capture of this name is at work"):
            place.capture().drain()

    assert len(place.capture().ensure_full_load(second)) == 3


def test_full_load_files_are_bounded_and_named_by_the_manifest(place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    _fill(place.owner, 100)
    monkeypatch.setattr(full_load, "_CHUNK_BYTES", 500)
    monkeypatch.setattr("upsell_assets.capture.landing.FILE_ROWS", 30)

    place.capture().ensure_full_load()

    [load] = place.loads("transactions")
    rows = [pq.read_metadata(io.BytesIO(place.store.read(file["key"]))).num_rows for file in load["files"]]
    assert len(rows) > 2
    assert max(rows) < 60
    assert [file["rows"] for file in load["files"]] == rows
    assert {file["key"]: file["etag"] for file in load["files"]} == {
        found.key: found.etag
        for found in place.store.list(f"{place.prefix}/full_load/transactions/")
        if found.key.endswith(".parquet")
    }
    assert re.fullmatch(r"\d{8}T\d{6}Z-[0-9A-F]{16}", load["load"])
    assert place.fold("transactions") == place.source("transactions")


def test_awkward_values_arrive_as_they_are(place: Place) -> None:
    place.owner.execute(
        "INSERT INTO transactions_product VALUES ('1', '', E'a \"quoted\", name\\nin two lines; ç 🎲', 1), "
        "('2', NULL, '\\N', NULL), ('3', NULL, '', -9223372036854775808)"
    )
    place.capture().ensure_full_load()
    place.owner.execute(
        'INSERT INTO transactions_product SELECT \'b\' || "idTransactionCart", "idTransaction", "NameProduct", '
        '"QuantityProduct" FROM transactions_product'
    )
    place.capture().drain()

    assert place.fold("transactions_product") == place.source("transactions_product")
    assert len(place.source("transactions_product")) == 6


def test_table_of_a_new_contract_is_loaded_beside_the_running_stream(place: Place) -> None:
    everything = place.contracts
    place.contracts = {table: c for table, c in everything.items() if table != "customers"}
    place.owner.execute(f'ALTER PUBLICATION "{place.name}" DROP TABLE customers')
    _fill(place.owner, 10)
    place.capture().ensure_full_load()
    place.owner.execute('UPDATE customers SET "PointsCustomer" = 100 WHERE "idCustomer" = \'c1\'')

    place.contracts = everything
    place.prepare()
    place.owner.execute('UPDATE customers SET "PointsCustomer" = 200 WHERE "idCustomer" = \'c2\'')
    loads = place.capture().ensure_full_load()
    place.owner.execute("DELETE FROM customers WHERE \"idCustomer\" = 'c3'")
    place.capture().drain()

    assert [load.table for load in loads] == ["customers"]
    assert place.capture().ensure_full_load() == []
    for table in TABLES:
        assert place.fold(table) == place.source(table)


def test_changes_that_passed_by_for_want_of_a_contract_are_made_good_by_a_load(
    place: Place, caplog: pytest.LogCaptureFixture
) -> None:
    """A contract that is taken away and comes back, or a process that goes on with the contracts of before."""
    everything = place.contracts
    _fill(place.owner, 3)
    place.capture().ensure_full_load()
    place.contracts = {table: c for table, c in everything.items() if table != "customers"}
    place.owner.execute("DELETE FROM customers WHERE \"idCustomer\" = 'c3'")
    with caplog.at_level(logging.WARNING):
        place.capture().drain()
    assert "no contract of customers: their changes pass by" in caplog.text

    place.contracts = everything
    loads = place.capture().ensure_full_load()
    place.owner.execute('UPDATE customers SET "PointsCustomer" = 5 WHERE "idCustomer" = \'c4\'')
    place.capture().drain()

    assert [load.table for load in loads] == ["customers"]
    assert place.capture().ensure_full_load() == []
    for table in TABLES:
        assert place.fold(table) == place.source(table)


def test_preflight_names_everything_that_is_missing(place: Place) -> None:
    place.owner.execute(f'ALTER PUBLICATION "{place.name}" SET TABLE customers, transactions')
    place.owner.execute("ALTER TABLE customers REPLICA IDENTITY DEFAULT")
    place.owner.execute(f"REVOKE SELECT ON transactions FROM {place.dsn.split('user=')[1].split()[0]}")
    place.owner.execute("DROP TABLE transactions_product")

    with pytest.raises(PermanentError) as raised:
        place.capture().ensure_full_load()

    text = str(raised.value)
    assert f"publication {place.name} lacks public.transactions_product" in text
    assert 'ALTER TABLE "public"."customers" REPLICA IDENTITY FULL' in text
    assert 'GRANT SELECT ON "public"."transactions" TO capture_tests' in text
    assert 'table "public"."transactions_product" does not exist' in text
    assert "\n" not in text
    assert place.keys() == []


def test_role_without_replication_is_told_so(place: Place) -> None:
    place.dsn = place.dsn.replace("capture_tests", APP_ROLE)

    with pytest.raises(PermanentError, match=f"ALTER ROLE {APP_ROLE} REPLICATION"):
        place.capture().ensure_full_load()


def test_prepare_twice_changes_nothing(place: Place) -> None:
    before = place.owner.execute("SELECT xmin::text, * FROM pg_publication").fetchall()

    place.prepare()

    assert place.owner.execute("SELECT xmin::text, * FROM pg_publication").fetchall() == before


def test_what_explain_prints_is_all_that_a_database_must_be_told(place: Place) -> None:
    setup.drop_publication(place.owner, place.name)
    for table in TABLES:
        place.owner.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY DEFAULT").format(sql.Identifier(table)))
    role = f"explained_{place.name}"
    statements = setup.explain(place.owner, place.contracts, name=place.name, schema="public", capture_role=role)
    try:
        for statement in statements:
            if not statement.startswith("ALTER SYSTEM"):  # the server has these settings, as all others here need them
                place.owner.execute(statement.replace("'...'", f"'{PASSWORD}'").encode())
        place.dsn = make_conninfo(place.owner_dsn, user=role, password=PASSWORD)

        place.capture().ensure_full_load()
        place.owner.execute("INSERT INTO customers VALUES ('a', 1, 1)")

        assert place.capture().drain().changes == {"customers": 1}
        with connect(place.dsn) as connection, pytest.raises(InsufficientPrivilege):
            connection.execute("DELETE FROM customers")
        assert any("wal_level = 'logical'" in statement for statement in statements)
    finally:
        place.owner.execute(sql.SQL("DROP OWNED BY {}").format(sql.Identifier(role)))
        place.owner.execute(sql.SQL("DROP ROLE {}").format(sql.Identifier(role)))


def test_role_that_stands_keeps_its_rights_and_its_password(place: Place) -> None:
    assert not setup.ensure_role(place.owner, CAPTURE_ROLE, "another password")

    connect(place.dsn).close()


def test_lake_of_another_cluster_is_refused(place: Place) -> None:
    capture = place.capture()
    capture.ensure_full_load()
    key = f"{place.prefix}/_capture/state.json"
    state = json.loads(place.store.read(key))
    assert read_state(place.store, key) is not None
    place.store.write(key, json.dumps(state | {"system": 1}).encode())

    with pytest.raises(PermanentError, match="filled from database cluster 1, and this is another"):
        capture.drain()
