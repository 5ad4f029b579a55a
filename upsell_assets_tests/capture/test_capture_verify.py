"""Bronze against the database: equal where it is, and where it is not, the keys."""

from __future__ import annotations

from collections.abc import Callable

import dagster as dg
import pytest
from capture_place import TABLES, Place
from pydantic import SecretStr

from upsell_assets.bronze.assets import bronze_assets
from upsell_assets.bronze.tables import table_name
from upsell_assets.checks.compared import source_checks, verify_schedule
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.settings import Settings
from upsell_assets.verify import Verified, verify

pytestmark = pytest.mark.services


def lakehouse(place: Place) -> Lakehouse:
    """The lake of a place, with its contracts."""
    store = place.store
    settings = Settings(
        source_dsn=SecretStr(place.dsn),
        capture_name=place.name,
        s3_endpoint=store.endpoint,
        s3_bucket=store.bucket,
        s3_access_key_id=store.access_key_id,
        s3_secret_access_key=SecretStr(store.secret_access_key or ""),
    )
    found = Lakehouse(settings)
    found.__dict__["contracts"] = place.contracts
    return found


def verified(place: Place, *tables: str) -> dict[str, Verified]:
    """By table."""
    lake = lakehouse(place)
    contracts = [place.contracts[table] for table in tables or place.contracts]
    return {done.table.partition(".")[2]: done for done in verify(lake, contracts)}


@pytest.fixture
def filled(place: Place) -> Place:
    """Some rows, loaded, and some changes that are not captured yet."""
    owner = place.owner
    owner.execute("INSERT INTO customers SELECT 'c' || i, i, nullif(mod(i, 3), 2) FROM generate_series(1, 500) i")
    owner.execute(
        "INSERT INTO transactions SELECT 't' || i, 'c' || i, timestamp '2018-11-04 00:30:00.123' + i * interval '1 hour', "
        "i - 250 FROM generate_series(1, 500) i"
    )
    owner.execute(
        "INSERT INTO transactions_product SELECT 'p' || i, 't' || i, 'Lista de presença', i "
        "FROM generate_series(1, 500) i"
    )
    place.capture().ensure_full_load()
    owner.execute("DELETE FROM customers WHERE \"idCustomer\" LIKE 'c1%'")
    owner.execute('UPDATE customers SET "PointsCustomer" = NULL WHERE "idCustomer" = \'c2\'')
    return place


def test_a_lake_that_kept_up_is_equal_and_what_is_not_captured_yet_is_captured_first(filled: Place) -> None:
    done = verified(filled)

    assert {table: found.equal for table, found in done.items()} == dict.fromkeys(TABLES, True)
    assert done["customers"].source_rows == done["customers"].bronze_rows == 500 - 111
    assert done["transactions"].bronze_rows == 500


def test_rows_that_are_lost_changed_or_too_many_in_bronze_are_named(filled: Place) -> None:
    verified(filled)
    lake = lakehouse(filled).lake
    bronze = lake.open(table_name(filled.contracts["customers"]))
    bronze.delete("\"idCustomer\" = 'c3'")
    bronze.update({'"PointsCustomer"': "7"}, predicate="\"idCustomer\" = 'c4'")
    bronze.update({'"flEmail"': "NULL"}, predicate="\"idCustomer\" = 'c6'")
    bronze.update({'"idCustomer"': "'x5'"}, predicate="\"idCustomer\" = 'c5'")

    done = verified(filled, "customers")["customers"]

    assert not done.equal
    assert sorted(done.differing) == [
        ("differs", ("c4",)),
        ("differs", ("c6",)),
        ("missing in bronze", ("c3",)),
        ("missing in bronze", ("c5",)),
        ("not in the database", ("x5",)),
    ]
    assert (done.source_rows, done.bronze_rows) == (389, 388)


def test_what_commits_while_tables_are_compared_does_not_count(filled: Place) -> None:
    lake = lakehouse(filled)
    compared = verify(lake, filled.contracts.values())
    first = next(compared)
    filled.owner.execute("DELETE FROM transactions_product")
    filled.capture().drain()

    rest = list(compared)

    assert first.equal
    assert all(done.equal for done in rest)
    assert rest[-1].source_rows == 500


AWKWARD = {
    "id": ("bigint", "bigint"),
    "second": ("text", "string"),
    "a": ("double precision", "double"),
    "b": ("real", "float"),
    "c": ("numeric(12,3)", "decimal(12,3)"),
    "d": ("timestamp(3)", "timestamp"),
    "e": ("timestamptz", "timestamp"),
    "f": ("date", "date"),
    "g": ("bytea", "binary"),
    "h": ("boolean", "boolean"),
    "i": ("smallint", "bigint"),
    "j": ("timestamp(3)", "string"),
    "k": ("timestamptz", "string"),
    "l": ("jsonb", "string"),
    "m": ("uuid", "string"),
    "n": ("boolean", "string"),
    "o": ("text[]", "string"),
    "p": ("numeric", "string"),
    "q": ("interval", "string"),
}
ROWS = """
    (1, 'a', 0.1, 0.1, 1.5, '2024-02-29 12:00:00.5', '2024-02-29 12:00+03', '2024-02-29', '\\x00ff', true, 7,
     '2018-02-18 00:00', '2018-02-18 00:00-03', '{"b": [1, 2]}', '4d1f0c3e-8a43-4e6c-9d5e-2f4b8e6a7c90', true,
     '{a,"b c"}', 1e20, '1 day 02:00'),
    (1, '', 'NaN', 'Infinity', -0.001, '0001-01-01', '9999-12-31 23:59:59.999999Z', '9999-12-31', '', false, -1,
     'infinity', '-infinity', '""', NULL, false, '{}', 0.10, '-1 mons'),
    (2, 'é ''quoted'' \x1f', -0.0, 1e-30, 0, 'infinity', '0044-03-15 BC', '-infinity', NULL, NULL, NULL,
     '0044-03-15 00:00:00 BC', '2024-01-01', 'null', NULL, NULL, NULL, 'NaN', NULL),
    (2, 'nulls', NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL, NULL)
"""


def test_values_of_every_type_compare_as_what_they_are(place: Place) -> None:
    columns = ", ".join(f"{name} {kind}" for name, (kind, _) in AWKWARD.items())
    place.owner.execute(f"CREATE TABLE awkward ({columns}, PRIMARY KEY (id, second))".encode())
    place.owner.execute(f"INSERT INTO awkward VALUES {ROWS}".encode())
    place.contracts = {
        "awkward": Contract(
            schema=place.name,
            table="awkward",
            key=("id", "second"),
            columns={name: kind for name, (_, kind) in AWKWARD.items()},
            order=("change_seq",),
            change_seq_type="string",
        )
    }
    place.prepare()
    place.capture().ensure_full_load()

    done = verified(place)["awkward"]
    assert (done.equal, done.source_rows) == (True, 4)
    for name in [name for name in AWKWARD if name not in ("id", "second")]:
        lake = lakehouse(place).lake
        bronze = lake.open(table_name(place.contracts["awkward"]))
        before = bronze.version()
        bronze.update({name: "NULL"}, predicate="id = 1 AND second = 'a'")
        assert verified(place)["awkward"].differing == (("differs", ("1", "a")),), name
        bronze.restore(before)


def test_without_a_database_there_is_nothing_to_compare_with(open_lakehouse: Callable[..., Lakehouse]) -> None:
    lake = open_lakehouse(source_dsn=None)

    with pytest.raises(PermanentError, match="UPSELL_SOURCE_DSN"):
        list(verify(lake, lake.contracts.values()))


def test_the_check_of_a_table_says_which_keys_differ(filled: Place) -> None:
    lake = lakehouse(filled)
    verified(filled)
    lake.lake.open(table_name(filled.contracts["customers"])).delete("\"idCustomer\" = 'c3'")
    [checks] = source_checks(lake)
    job = dg.Definitions(assets=bronze_assets(lake), asset_checks=[checks], schedules=[verify_schedule(lake, [checks])])

    with dg.DagsterInstance.ephemeral() as instance:
        done = job.resolve_job_def("verify").execute_in_process(instance=instance)

    found = {check.asset_key.path[-1]: check for check in done.get_asset_check_evaluations()}
    assert {table: check.passed for table, check in found.items()} == dict.fromkeys(TABLES, True) | {"customers": False}
    assert "| missing in bronze | c3 |" in str(found["customers"].metadata["differing"].value)
