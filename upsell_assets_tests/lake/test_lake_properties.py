"""Tables that Spark has changed: which of them are refused, and that those which are not are read as Spark reads them."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError, DeltaError

from upsell_assets.errors import PermanentError
from upsell_assets.lake.duck import reader
from upsell_assets.lake.engines.spark_session import JAVA, Spark, java_version, spark_config
from upsell_assets.lake.files import exchange, rows_of
from upsell_assets.lake.properties import check_readable, check_writable, refused_at_open
from upsell_assets.lake.tables import Lake
from upsell_assets.settings import Settings

NAME = "gold.upsell.counted"
NO_VECTORS = {"delta.enableDeletionVectors": "false"}

Sql = Callable[[str], list[Any]]


@pytest.fixture(scope="module")
def sql(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sql]:
    """Runs a statement in one local Spark session."""
    if (java_version() or 0) < JAVA:
        pytest.skip(f"needs Java {JAVA} or newer: skipped because java was not found, or is older")
    home = tmp_path_factory.mktemp("spark")
    spark = Spark(spark_config(Settings(home=home)), {}, min_files=0)
    yield lambda text: spark.session.sql(text).collect()
    spark.close()


@pytest.fixture
def lake(tmp_path: Path) -> Lake:
    return Lake.at(tmp_path)


@pytest.fixture
def made(sql: Sql, lake: Lake) -> Callable[..., str]:
    """Lets Spark make a table of ten rows with these properties; its name in Spark."""

    def make(**properties: str) -> str:
        table = f"delta.`{lake.uri(NAME)}`"
        given = ", ".join(f"'{name}' = '{value}'" for name, value in {**NO_VECTORS, **properties}.items())
        sql(f"CREATE TABLE {table} (id BIGINT, n BIGINT) USING delta TBLPROPERTIES ({given})")
        sql(f"INSERT INTO {table} SELECT id, id * 10 AS n FROM RANGE(0, 10, 1, 1)")
        return table

    return make


def ours(lake: Lake) -> list[tuple[int, ...]]:
    """The rows as the lake's own readers would read them, whatever the table asks."""
    connection = reader(lake)
    return sorted(connection.execute(rows_of(connection, "found", opened(lake))).fetchall())


def opened(lake: Lake) -> DeltaTable:
    """The table without a look at what it asks."""
    return DeltaTable(lake.uri(NAME))


def spoken(lake: Lake, protocol: dict[str, Any]) -> None:
    """Write a protocol into the newest commit, as a program of tomorrow would."""
    log = Path(lake.uri(NAME)) / "_delta_log"
    number = len(list(log.glob("*.json")))
    (log / f"{number:020}.json").write_text(json.dumps({"protocol": protocol}) + "\n")


def test_our_own_tables_are_taken_at_once(local_lake: Lake, monkeypatch: pytest.MonkeyPatch) -> None:
    table = local_lake.open_or_create(NAME, pa.schema([("id", pa.int64())]))
    monkeypatch.setattr(DeltaTable, "metadata", lambda _: pytest.fail("the protocol says enough"))

    check_readable(NAME, table)
    check_writable(NAME, table)


def test_a_timestamp_without_a_zone_asks_for_no_more_than_is_read(local_lake: Lake) -> None:
    table = local_lake.open_or_create(NAME, pa.schema([("at", pa.timestamp("us"))]))

    assert table.protocol().reader_features == ["timestampNtz"]
    check_readable(NAME, table)
    check_writable(NAME, table)


@pytest.mark.spark
def test_a_table_that_spark_made_plainly_is_read_and_written(made: Callable[..., str], lake: Lake, sql: Sql) -> None:
    name = made()

    check_writable(NAME, lake.open(NAME))
    write_deltalake(lake.open(NAME), pa.table({"id": [10], "n": [100]}), mode="append")

    assert ours(lake) == [(number, number * 10) for number in range(11)]
    assert [tuple(row) for row in sql(f"SELECT * FROM {name} ORDER BY id")] == ours(lake)


@pytest.mark.spark
def test_deleted_rows_would_come_back_so_that_deletion_vectors_are_refused(
    made: Callable[..., str], lake: Lake, sql: Sql
) -> None:
    name = made(**{"delta.enableDeletionVectors": "true"})
    sql(f"DELETE FROM {name} WHERE id < 5")
    assert len(sql(f"SELECT * FROM {name}")) == 5
    assert len(ours(lake)) == 10, "the reason for the refusal"

    with pytest.raises(PermanentError, match=r"does not read: deletionVectors \(deleted rows would come back\)\. Let"):
        lake.open(NAME)

    # The property alone leaves the vectors that there are.
    sql(f"ALTER TABLE {name} SET TBLPROPERTIES ('delta.enableDeletionVectors' = 'false')")
    with pytest.raises(PermanentError, match="deletionVectors"):
        lake.open(NAME)

    sql(f"ALTER TABLE {name} DROP FEATURE deletionVectors")  # what the error says
    lake.open(NAME)
    assert ours(lake) == [(number, number * 10) for number in range(5, 10)]


@pytest.mark.spark
def test_renamed_columns_would_be_null_so_that_mapped_columns_are_refused(
    made: Callable[..., str], lake: Lake, sql: Sql
) -> None:
    name = made(**{"delta.columnMapping.mode": "name"})
    sql(f"ALTER TABLE {name} RENAME COLUMN n TO m")
    assert {row[1] for row in ours(lake)} == {None}, "the reason for the refusal"

    with pytest.raises(PermanentError, match=r"does not read: columnMapping \(renamed columns would be null\)"):
        lake.open(NAME)

    sql(f"ALTER TABLE {name} DROP FEATURE columnMapping")
    lake.open(NAME)
    assert ours(lake) == [(number, number * 10) for number in range(10)]


@pytest.mark.spark
@pytest.mark.parametrize(
    ("properties", "fault"),
    [
        ({"delta.checkpointPolicy": "v2"}, "v2Checkpoint (the log has checkpoints of another form)"),
        ({"delta.enableTypeWidening": "true"}, "typeWidening (files hold columns of more than one type)"),
        ({"delta.feature.vacuumProtocolCheck": "supported"}, "vacuumProtocolCheck"),
    ],
    ids=lambda value: value.partition(" ")[0] if isinstance(value, str) else "",
)
def test_what_the_library_does_not_read_is_named(
    made: Callable[..., str], lake: Lake, properties: dict[str, str], fault: str
) -> None:
    made(**properties)

    with pytest.raises(PermanentError) as refused:
        lake.open(NAME)

    assert f"{NAME}: another program has given the table what the embedded engine does not read: {fault}." in str(
        refused.value
    )
    assert f"ALTER TABLE delta.`{opened(lake).table_uri}` DROP FEATURE" in str(refused.value)


@pytest.mark.spark
@pytest.mark.parametrize(
    ("properties", "fault"),
    [
        ({"delta.enableRowTracking": "true"}, r"domainMetadata, rowTracking \(commits must number rows\)"),
        ({"delta.enableInCommitTimestamps": "true"}, "inCommitTimestamp"),
        ({"delta.constraints.positive": "id >= 0"}, "writer version 3"),
    ],
    ids=["row tracking", "times in commits", "constraint"],
)
def test_what_can_be_read_and_not_written_is_refused_to_writers_only(
    made: Callable[..., str], lake: Lake, properties: dict[str, str], fault: str
) -> None:
    made(**properties)

    assert len(ours(lake)) == 10
    with pytest.raises(PermanentError, match=f"does not write: {fault}"):
        exchange(lake.open(NAME), [], [])


@pytest.mark.spark
def test_without_the_check_a_table_with_row_tracking_looks_like_a_lost_race(
    made: Callable[..., str], lake: Lake
) -> None:
    made(**{"delta.enableRowTracking": "true"})

    with pytest.raises(CommitFailedError, match="Unsupported table features"):
        write_deltalake(lake.open(NAME), pa.table({"id": [1], "n": [1]}), mode="append")


@pytest.mark.parametrize(
    "protocol",
    [
        {"minReaderVersion": 3, "minWriterVersion": 7, "readerFeatures": ["of2030"], "writerFeatures": ["of2030"]},
        {
            "minReaderVersion": 3,
            "minWriterVersion": 7,
            "readerFeatures": ["catalogManaged"],
            "writerFeatures": ["catalogManaged", "inCommitTimestamp"],
        },
        {"minReaderVersion": 4, "minWriterVersion": 8},
    ],
    ids=["an unknown feature", "a catalog's commits", "an unknown version"],
)
def test_what_the_library_does_not_open_is_told_to_a_person(local_lake: Lake, protocol: dict[str, Any]) -> None:
    local_lake.open_or_create(NAME, pa.schema([("id", pa.int64())]))
    spoken(local_lake, protocol)

    with pytest.raises(PermanentError, match=r"the embedded engine cannot open it any more: .* DROP FEATURE") as error:
        local_lake.open(NAME)

    assert str(error.value).startswith(f"{NAME}: another program has changed the table")


def test_other_errors_of_opening_are_left_as_they_are(local_lake: Lake) -> None:
    local_lake.open_or_create(NAME, pa.schema([("id", pa.int64())]))
    (Path(local_lake.uri(NAME)) / "_delta_log" / f"{0:020}.json").write_text("no JSON")

    with pytest.raises(DeltaError) as error:
        local_lake.open(NAME)

    assert refused_at_open(NAME, error.value) is None
