"""`upsell capture` and `upsell verify`, as a person uses them: from an unprepared database to one that is left again."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from capture_place import CAPTURE_ROLE, TABLES, Place
from psycopg import sql
from typer.testing import CliRunner, Result

from upsell_assets.capture import setup
from upsell_assets.cli import app
from upsell_assets.contracts import SHIPPED
from upsell_assets.errors import PermanentError, SlotLostError

pytestmark = pytest.mark.services


def upsell(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def named(place: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """A place that the settings name, whose database has not been told anything yet."""
    setup.drop_publication(place.owner, place.name)
    for table in TABLES:
        place.owner.execute(sql.SQL("REVOKE SELECT ON {} FROM {}").format(*map(sql.Identifier, (table, CAPTURE_ROLE))))
        place.owner.execute(sql.SQL("ALTER TABLE {} REPLICA IDENTITY DEFAULT").format(sql.Identifier(table)))
        contract = (SHIPPED / f"{table}.yaml").read_text(encoding="utf-8")
        named = contract.replace("schema: upsell", f"schema: {place.name}")
        (tmp_path / f"{table}.yaml").write_text(named, encoding="utf-8")
    values = {
        "SOURCE_DSN": place.dsn,
        "SOURCE_OWNER_DSN": place.owner_dsn,
        "CAPTURE_NAME": place.name,
        "CONTRACTS": str(tmp_path),
        "S3_ENDPOINT": place.store.endpoint,
        "S3_BUCKET": place.store.bucket,
        "S3_ACCESS_KEY_ID": place.store.access_key_id,
        "S3_SECRET_ACCESS_KEY": place.store.secret_access_key,
    }
    for name, value in values.items():
        monkeypatch.setenv(f"UPSELL_{name}", value or "")
    place.owner.execute("INSERT INTO customers VALUES ('a', 1, NULL), ('b', 2, 0)")
    return place


def test_a_database_is_prepared_captured_compared_and_left(named: Place) -> None:
    explained = upsell("capture", "--explain")
    assert explained.exit_code == 0
    assert f'GRANT SELECT ON "public"."customers" TO "{CAPTURE_ROLE}";' in explained.stdout
    assert f"missing: publication {named.name} is missing" in explained.stderr
    refused = upsell("capture")
    assert isinstance(refused.exception, PermanentError)
    assert "upsell capture --setup" in str(refused.exception)

    assert upsell("capture", "--setup").exit_code == 0
    again = upsell("capture", "--setup")
    assert (again.exit_code, "nothing is missing" in again.stderr) == (0, True)

    assert "full load of customers: 2 rows" in upsell("capture").stderr
    named.owner.execute("DELETE FROM customers WHERE \"idCustomer\" = 'a'")
    verified = upsell("verify", "customers", "--json")
    assert verified.exit_code == 0
    [customers] = json.loads(verified.stdout)
    assert (customers["equal"], customers["source_rows"], customers["bronze_rows"]) == (True, 1, 1)

    assert "full load of customers: 1 rows" in upsell("capture", "--resync", "customers").stderr
    assert len(named.loads("customers")) == 2
    dropped = upsell("capture", "--drop")
    assert dropped.stdout == f"dropped slot {named.name}\ndropped publication {named.name}\n"
    assert setup.find_slot(named.owner, named.name) is None
    assert isinstance(upsell("capture").exception, SlotLostError)

    assert upsell("capture", "--setup").exit_code == 0
    assert upsell("capture", "--resync", "all").exit_code == 0
    assert upsell("verify").exit_code == 0


def test_options_that_exclude_each_other_and_tables_that_are_not_there_are_named(named: Place) -> None:
    assert upsell("capture", "--drop", "--setup").exit_code == 2
    upsell("capture", "--setup")
    unknown = upsell("capture", "--resync", "costumers")
    assert "no table costumers; captured are customers, transactions, transactions_product" in str(unknown.exception)
    assert "no contract for costumers" in str(upsell("verify", "costumers").exception)
