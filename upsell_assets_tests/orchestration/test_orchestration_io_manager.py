"""The IO manager: what a run replaces, what it tells of the table, and how the next asset gets it."""

from collections.abc import Mapping
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import dagster as dg
import pyarrow as pa
import pytest
from dagster import AssetKey
from deltalake import DeltaTable
from reference import History
from run_sql import silver, sql_file

from upsell_assets.dtref_assets import daily_query
from upsell_assets.dtref_files import COMPUTED
from upsell_assets.errors import PermanentError
from upsell_assets.lake.engines import Query
from upsell_assets.lake.io_manager import DeltaIOManager
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.sql import load_sql
from upsell_assets.lake.tables import UnknownTableError

DAYS = dg.DailyPartitionsDefinition("2024-02-01", end_date="2024-02-11")
KEY = ["gold", "upsell", "visits"]
NAME = "gold.upsell.visits"
PARTITIONED = {"partition_expr": "day"}


def rows(*pairs: tuple[int, str]) -> pa.Table:
    """Rows of (day of February 2024, visitor)."""
    days = pa.array([date(2024, 2, day) for day, _ in pairs], pa.date32())
    return pa.table({"day": days, "visitor": pa.array([visitor for _, visitor in pairs], pa.string())})


def write(
    lakehouse: Lakehouse,
    table: pa.Table | pa.RecordBatchReader,
    *days: int,
    lineage: dg.TableColumnLineage | None = None,
) -> Mapping[str, Any]:
    """Write as a run of these days of February does (of none: as a run without partitions); what it told."""
    partitions = {
        "asset_partitions_def": DAYS,
        "asset_partitions_subset": DAYS.subset_with_partition_keys([f"2024-02-{day:02}" for day in days]),
    }
    definition = {**(PARTITIONED if days else {}), **({"dagster/column_lineage": lineage} if lineage else {})}
    context = dg.OutputContext(asset_key=AssetKey(KEY), definition_metadata=definition, **(partitions if days else {}))
    DeltaIOManager(lakehouse).handle_output(context, table)
    return {name: value.value for name, value in context.consume_logged_metadata().items()}


def held(lakehouse: Lakehouse) -> set[tuple[int, str]]:
    return {(row["day"].day, row["visitor"]) for row in lakehouse.lake.open(NAME).to_pyarrow_table().to_pylist()}


def files(lakehouse: Lakehouse) -> dict[int, set[str]]:
    """The Delta files of each day."""
    found: dict[int, set[str]] = {}
    for file in pa.table(lakehouse.lake.open(NAME).get_add_actions(flatten=True)).to_pylist():
        found.setdefault(file["partition.day"].day, set()).add(file["path"])
    return found


def test_a_run_replaces_its_own_day_and_leaves_the_files_of_others_alone(lakehouse: Lakehouse) -> None:
    write(lakehouse, rows((1, "ana"), (2, "bia"), (3, "caio")), 1, 2, 3)
    before = files(lakehouse)

    write(lakehouse, rows((2, "davi")), 2)

    assert held(lakehouse) == {(1, "ana"), (2, "davi"), (3, "caio")}
    after = files(lakehouse)
    assert {day: after[day] for day in (1, 3)} == {day: before[day] for day in (1, 3)}
    assert after[2].isdisjoint(before[2])


def test_a_day_of_the_run_without_rows_is_emptied(lakehouse: Lakehouse) -> None:
    write(lakehouse, rows((1, "ana"), (2, "bia"), (3, "caio")), 1, 2, 3)

    write(lakehouse, rows((2, "davi")), 2, 3)

    assert held(lakehouse) == {(1, "ana"), (2, "davi")}


def test_days_that_do_not_touch_are_replaced_without_those_between(lakehouse: Lakehouse) -> None:
    write(lakehouse, rows((1, "ana"), (2, "bia"), (3, "caio")), 1, 2, 3)
    before = lakehouse.lake.open(NAME).version()

    write(lakehouse, rows((1, "eva"), (3, "fabio")), 1, 3)

    assert held(lakehouse) == {(1, "eva"), (2, "bia"), (3, "fabio")}
    assert lakehouse.lake.open(NAME).version() == before + 1


def test_rows_of_another_day_are_refused_and_nothing_is_written(lakehouse: Lakehouse) -> None:
    write(lakehouse, rows((1, "ana"), (2, "bia")), 1, 2)
    before = lakehouse.lake.open(NAME).version()

    with pytest.raises(PermanentError, match="2024-02-09"):
        write(lakehouse, rows((1, "gil"), (9, "gil")), 1)

    assert held(lakehouse) == {(1, "ana"), (2, "bia")}
    assert lakehouse.lake.open(NAME).version() == before


def test_without_partitions_the_whole_table_is_replaced_columns_too(lakehouse: Lakehouse) -> None:
    write(lakehouse, rows((1, "ana"), (2, "bia")))

    write(lakehouse, pa.table({"total": [2]}))

    assert lakehouse.lake.open(NAME).to_pyarrow_table().to_pylist() == [{"total": 2}]


def test_a_reader_is_written_batch_by_batch(lakehouse: Lakehouse) -> None:
    batches = rows((1, "ana"), (1, "bia"), (2, "caio")).to_batches(max_chunksize=1)
    assert len(batches) == 3

    told = write(lakehouse, pa.RecordBatchReader.from_batches(batches[0].schema, batches), 1, 2)

    assert held(lakehouse) == {(1, "ana"), (1, "bia"), (2, "caio")}
    assert told["rows_written"] == 3


def test_a_run_tells_rows_version_and_columns(lakehouse: Lakehouse) -> None:
    write(lakehouse, rows((1, "ana"), (2, "bia"), (3, "caio")), 1, 2, 3)

    told = write(lakehouse, rows((3, "davi"), (3, "eva")), 3)

    assert told["rows_written"] == 2
    assert told["dagster/row_count"] == 4
    assert told["delta_version"] == lakehouse.lake.open(NAME).version()
    columns = told["dagster/column_schema"].columns
    assert [(column.name, column.type) for column in columns] == [("day", "date32[day]"), ("visitor", "string")]


def test_a_query_of_a_file_tells_descriptions_and_where_columns_come_from(lakehouse: Lakehouse, tmp_path: Path) -> None:
    lakehouse.lake.replace("silver.upsell.doors", rows((1, "ana"), (2, "bia")).to_reader(), partitions={})
    file = tmp_path / "gold" / "visits.sql"
    file.parent.mkdir()
    file.write_text(
        "-- Who came.\n"
        "SELECT\n"
        "  day, -- local day\n"
        "  UPPER(visitor) AS visitor, -- in capitals\n"
        "  1 AS one\n"
        "FROM silver.upsell.doors\n"
    )
    sql = load_sql(file)
    doors = AssetKey(["silver", "upsell", "doors"])

    told = write(lakehouse, Query(sql.tree, sql=sql), 1, 2)

    assert held(lakehouse) == {(1, "ANA"), (2, "BIA")}
    described = {column.name: column.description for column in told["dagster/column_schema"].columns}
    assert described == {"day": "local day", "visitor": "in capitals", "one": None}
    assert told["dagster/column_lineage"].deps_by_column == {
        "day": [dg.TableColumnDep(doors, "day")],
        "visitor": [dg.TableColumnDep(doors, "visitor")],
        "one": [],
    }
    # Where the definition of the asset has it, it is not found anew.
    known = dg.TableColumnLineage({"visitor": [dg.TableColumnDep(doors, "door")]})
    repeated = write(lakehouse, Query(sql.tree, sql=sql), 1, 2, lineage=known)
    assert repeated["dagster/column_lineage"].deps_by_column == known.deps_by_column


def test_features_and_reports_tell_meaning_unit_window_and_formula_of_their_columns(lakehouse: Lakehouse) -> None:
    for name, table in silver(History([])).items():
        lakehouse.lake.replace(name, table.to_reader(), partitions={})

    def described(name: str) -> dict[str, str]:
        told = write(lakehouse, daily_query(sql_file(name), [date(2024, 2, 1)], datetime.now(UTC)))
        return {column.name: column.description for column in told["dagster/column_schema"].columns}

    features = described("feature_store/fs_geral")
    assert list(features) == ["dtRef", "idCliente", "nrRecencia", "nrSaldoPontos", "nrIdadeBase", "flEmail", COMPUTED]
    assert features["idCliente"] == "customer, uuid"
    assert features["nrRecencia"] == (
        "days since the last activity. Unit: days. Window: D28. Formula: dtRef - local day of the last transaction"
    )
    assert features[COMPUTED] == "when the row was computed, UTC"
    assert described("gold/churn_report")["nrQtdeChurn"] == (
        "customers of the base who did not come back. Unit: customers. Window: 56 days."
        " Formula: qtdeBaseOld - qtdeBaseNewNotChurn"
    )


def test_a_run_over_a_range_of_days_is_one_commit(lakehouse: Lakehouse) -> None:
    @dg.asset(key=KEY, partitions_def=DAYS, metadata=PARTITIONED, io_manager_key="delta")
    def visits(context: dg.AssetExecutionContext) -> pa.Table:
        return rows(*((date.fromisoformat(key).day, "ana") for key in context.partition_keys))

    tags = {"dagster/asset_partition_range_start": "2024-02-02", "dagster/asset_partition_range_end": "2024-02-04"}
    done = dg.materialize([visits], resources={"delta": DeltaIOManager(lakehouse)}, tags=tags)

    assert done.success
    assert held(lakehouse) == {(2, "ana"), (3, "ana"), (4, "ana")}
    commits = [commit["operation"] for commit in lakehouse.lake.open(NAME).history()]
    assert commits == ["WRITE", "CREATE TABLE"]
    told = done.asset_materializations_for_node("gold__upsell__visits")
    assert {event.partition for event in told} == {"2024-02-02", "2024-02-03", "2024-02-04"}


def load(lakehouse: Lakehouse, kind: Any, *, day: int | None = None) -> Any:
    """What an asset with an input of this kind is given, in a run of one day of February or without partitions."""
    given: list[Any] = []

    def take(visits: Any) -> None:
        given.append(visits)

    take.__annotations__ = {"visits": kind, "return": None}
    calendar = DAYS if day else None
    upstream = dg.AssetSpec(KEY, partitions_def=calendar, metadata={"dagster/io_manager_key": "delta", **PARTITIONED})
    taker = dg.asset(name="taker", ins={"visits": dg.AssetIn(key=AssetKey(KEY))}, partitions_def=calendar)(take)
    dg.materialize(
        [upstream, taker],
        resources={"delta": DeltaIOManager(lakehouse)},
        selection=["taker"],
        partition_key=f"2024-02-{day:02}" if day else None,
    )
    return given[0]


def test_an_asset_gets_a_table_as_it_asks_for_it(lakehouse: Lakehouse) -> None:
    expected = rows((1, "ana"), (2, "bia"))
    write(lakehouse, expected, 1, 2)

    arrow, reader, delta = (load(lakehouse, kind) for kind in (pa.Table, pa.RecordBatchReader, DeltaTable))

    assert arrow.sort_by("day").to_pylist() == expected.to_pylist()
    assert isinstance(reader, pa.RecordBatchReader)
    assert reader.read_all().sort_by("day").to_pylist() == expected.to_pylist()
    assert isinstance(delta, DeltaTable)
    assert delta.version() == lakehouse.lake.open(NAME).version()


@pytest.mark.parametrize("kind", [Query, Any])
def test_a_query_does_not_see_what_is_committed_after_it_was_handed_over(lakehouse: Lakehouse, kind: Any) -> None:
    write(lakehouse, rows((1, "ana")), 1)

    query = load(lakehouse, kind)
    write(lakehouse, rows((1, "late"), (2, "later")), 1, 2)

    assert isinstance(query, Query)
    assert lakehouse.engine.run(query).read_all()["visitor"].to_pylist() == ["ana"]


def test_a_run_of_one_day_is_given_that_day_only(lakehouse: Lakehouse) -> None:
    write(lakehouse, rows((1, "ana"), (2, "bia"), (3, "caio")), 1, 2, 3)

    assert load(lakehouse, pa.Table, day=2)["visitor"].to_pylist() == ["bia"]
    assert load(lakehouse, pa.Table, day=9).num_rows == 0


def test_a_table_that_was_not_made_is_an_error_that_names_it(lakehouse: Lakehouse) -> None:
    with pytest.raises(UnknownTableError, match=r"gold\.upsell\.visits: no such table"):
        load(lakehouse, pa.Table)
