from __future__ import annotations

import socket
import traceback
from collections.abc import Callable
from datetime import date

import psycopg
import pytest

from upsell_assets.contracts import load_contracts
from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.source.database import (
    TABLES,
    Connection,
    connect,
    create_roles,
    create_schema,
    event_days,
    is_filled,
)

pytestmark = pytest.mark.services

ROLES = {
    "capture_role": "capture",
    "capture_password": "it's secret",
    "app_role": "app",
    "app_password": "another",
}


def test_tables_have_the_columns_and_keys_of_the_contracts(connection: Connection) -> None:
    columns = connection.execute(
        "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public' ORDER BY 1, ordinal_position"
    ).fetchall()
    keys = connection.execute(
        "SELECT table_name, column_name FROM information_schema.key_column_usage WHERE table_schema = 'public'"
    ).fetchall()

    for name, contract in load_contracts().items():
        assert [column for table, column in columns if table == name] == list(contract.columns) == list(TABLES[name])
        assert [column for table, column in keys if table == name] == list(contract.key)


def test_creating_the_schema_again_keeps_the_rows(connection: Connection) -> None:
    connection.execute("INSERT INTO customers VALUES ('a', 5, NULL)")

    create_schema(connection)

    assert connection.execute("SELECT * FROM customers").fetchall() == [("a", 5, None)]


def test_changes_carry_whole_old_rows(connection: Connection) -> None:
    identities = connection.execute(
        "SELECT relreplident::text FROM pg_class WHERE relname = ANY(%s)", [list(TABLES)]
    ).fetchall()
    assert identities == [("f",)] * 3


def test_tables_go_to_the_named_schema(dsn: Callable[..., str]) -> None:
    with connect(dsn()) as connection:
        create_schema(connection, "Other schema")

        found = connection.execute(
            "SELECT schemaname, tablename FROM pg_tables WHERE tablename = ANY(%s)", [list(TABLES)]
        )
        assert sorted(found.fetchall()) == [("Other schema", table) for table in sorted(TABLES)]
        assert connection.execute("SHOW search_path").fetchone() == ('"$user", public',)


def test_wrong_password_is_permanent_and_not_shown(dsn: Callable[..., str]) -> None:
    with pytest.raises(
        PermanentError, match=r"127.0.0.1:\d+: password authentication failed.*UPSELL_SOURCE_DSN"
    ) as error:
        connect(dsn(password="hunter2"))
    assert "hunter2" not in str(error.value)


def test_missing_database_is_permanent(dsn: Callable[..., str]) -> None:
    with pytest.raises(PermanentError, match=r'database "nowhere" does not exist. Check UPSELL_SOURCE_DSN\.'):
        connect(dsn(dbname="nowhere"))


def test_closed_port_is_retryable() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        port = taken.getsockname()[1]
        with pytest.raises(
            RetryableError, match=rf"^source database 127.0.0.1:{port}: .*[Cc]onnection refused.*runs\.$"
        ):
            connect(f"postgresql://user:hunter2@127.0.0.1:{port}/points")


@pytest.mark.parametrize(
    "malformed",
    [
        "points hunter2",
        "postgresql://user:hun@ter2@127.0.0.1:1/points",
        "postgresql://user:hun/ter2@127.0.0.1:1/points",
        "postgresql://user:hun%ter2@127.0.0.1:1/points",
        "postgresql://user@127.0.0.1:1/points?password=a&ter2=1",
    ],
)
def test_malformed_dsn_is_permanent_and_shows_no_part_of_the_password(malformed: str) -> None:
    with pytest.raises(PermanentError, match="UPSELL_SOURCE_DSN is not a PostgreSQL address") as error:
        connect(malformed)
    assert "ter2" not in "".join(traceback.format_exception(error.value))


def test_app_role_reads_and_writes_rows_and_nothing_more(connection: Connection, dsn: Callable[..., str]) -> None:
    create_roles(connection, **ROLES)
    create_roles(connection, **ROLES)

    with connect(dsn(user="app", password="another")) as app:
        app.execute("INSERT INTO customers VALUES ('a', 0, 1)")
        app.execute('UPDATE customers SET "PointsCustomer" = 3')
        app.execute("DELETE FROM customers")
        for forbidden in (
            "TRUNCATE customers",
            "CREATE TABLE public.mine ()",
            "SELECT pg_create_logical_replication_slot('s', 'pgoutput')",
        ):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                app.execute(forbidden)


def test_capture_role_replicates_and_reads_and_nothing_more(connection: Connection, dsn: Callable[..., str]) -> None:
    create_roles(connection, **ROLES)
    connection.execute("CREATE TABLE public.other ()")

    with connect(dsn(user="capture", password="it's secret")) as capture:
        capture.execute("SELECT pg_create_logical_replication_slot('of_capture', 'pgoutput')")
        capture.execute("SELECT pg_drop_replication_slot('of_capture')")
        assert not is_filled(capture)
        for forbidden in ("DELETE FROM customers", "SELECT FROM public.other", "CREATE TABLE public.mine ()"):
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                capture.execute(forbidden)


def test_rights_beyond_the_role_are_taken_back(connection: Connection, dsn: Callable[..., str]) -> None:
    create_roles(connection, **ROLES)
    connection.execute("GRANT ALL ON customers TO capture; ALTER ROLE capture SUPERUSER")

    create_roles(connection, **ROLES | {"capture_password": "new"})

    with connect(dsn(user="capture", password="new")) as capture, pytest.raises(psycopg.errors.InsufficientPrivilege):
        capture.execute("DELETE FROM customers")


def test_rights_on_tables_that_somebody_added_stay(connection: Connection, dsn: Callable[..., str]) -> None:
    """Each command that joins the embedded database makes its roles again, also while another captures."""
    create_roles(connection, **ROLES)
    connection.execute("CREATE TABLE public.coupons (); GRANT SELECT ON public.coupons TO capture")

    create_roles(connection, **ROLES)

    with connect(dsn(user="capture", password="it's secret")) as capture:
        assert capture.execute("SELECT FROM public.coupons").fetchall() == []


def test_a_role_is_never_the_user_who_creates_it(connection: Connection) -> None:
    with pytest.raises(PermanentError, match="must differ from each other and from the user that creates them, upsell"):
        create_roles(connection, **ROLES | {"app_role": "upsell"})


def test_roles_need_the_tables(dsn: Callable[..., str]) -> None:
    with (
        connect(dsn()) as connection,
        pytest.raises(PermanentError, match=r"customers.* does not exist. Create the tables"),
    ):
        create_roles(connection, **ROLES)


def test_filled_means_any_row(connection: Connection) -> None:
    assert not is_filled(connection)
    assert not is_filled(connection, "no such schema")
    connection.execute("INSERT INTO transactions VALUES ('t', NULL, NULL, NULL)")
    assert is_filled(connection)


def test_event_days_are_local(connection: Connection) -> None:
    assert event_days(connection) is None
    connection.execute(
        "INSERT INTO transactions VALUES ('a', '', '2024-02-01 02:59:59.999', 1), ('b', '', '2024-02-10 03:00', 1), ('c', '', NULL, 1)"
    )
    assert event_days(connection) == (date(2024, 1, 31), date(2024, 2, 10))


def test_event_days_of_missing_tables_name_the_schema(connection: Connection) -> None:
    with pytest.raises(PermanentError, match=r"nowhere.transactions.* does not exist.*UPSELL_SOURCE_SCHEMA"):
        event_days(connection, "nowhere")
