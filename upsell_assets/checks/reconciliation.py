"""Rows and sums of one layer against those of the layer before, and where they differ, which rows.

Silver against bronze, at the versions that silver was made from; the daily report's totals against silver, day by day;
features of the newest dtRef against silver, by a second, plain statement of them. A table that has not yet followed a
change is behind, which is no difference: it is told apart by the time of its rows and that of silver's commits.

Here: plain functions over the lake. Not here: raw against bronze (`accepted`), who is told (`audit`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from functools import partial
from operator import eq, gt

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from upsell_assets.bronze.layout import Files
from upsell_assets.bronze.tables import table_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import parquet, quote, reader, register
from upsell_assets.lake.files import folder_of, rows_of
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.settings import LOCAL_ZONE
from upsell_assets.silver import changed, events
from upsell_assets.silver.read import current_rows
from upsell_assets.silver.tables import SilverTable

SHOWN = 20

REPORT = "gold.upsell.daily_report"

AMOUNTS = {
    # silver table: what is summed in bronze, and in silver
    "silver.upsell.cliente": ("PointsCustomer", "nrPontosCliente"),
    "silver.upsell.transacoes": ("pointsTransaction", "nrPontosTransacao"),
    "silver.upsell.transacao_produto": ("QuantityProduct", "nrQuantidadeProduto"),
}

FEATURES = {
    # feature table: a column, and the same over `atividade` (customer, local day, points) below
    "feature_store.upsell.fs_geral": ("nrSaldoPontos", "sum(points)"),
    "feature_store.upsell.fs_pontos": ("nrQtdePontosVida", "sum(points)"),
    "feature_store.upsell.fs_transacoes": ("nrQtdeTransacaoVida", "count(*)"),
    "feature_store.upsell.fs_dia_horario": ("nrQtdeDias", "count(DISTINCT day) FILTER (day >= $dtref - 28)"),
}


@dataclass(frozen=True)
class Side:
    """A table, its rows, and the sum of its amounts."""

    table: str
    rows: int
    total: int


@dataclass(frozen=True)
class Row:
    """One row that differs: its key, what either side has of it (None: no such row), and the raw files behind it."""

    key: str
    before: object
    after: object
    files: tuple[str, ...] = ()


@dataclass
class Reconciled:
    """Two layers of one table; `amount` is what is summed, `behind` what has not followed a change yet."""

    before: Side
    after: Side
    amount: str
    rows: list[Row] = field(default_factory=list)
    behind: list[str] = field(default_factory=list)

    @property
    def equal(self) -> bool:
        """Whether no row differs that should not."""
        return not self.rows


def silver_and_bronze(lake: Lake, table: SilverTable) -> Reconciled:
    """A silver table that is made row by row, against the live rows of bronze, as of the versions that it was made from.

    Raises:
        UnknownTableError: one of the tables has not been made.
    """
    contract, target = table.contract, lake.open(table.name)
    assert contract is not None  # it is made from bronze
    before, after = AMOUNTS[table.name]
    with reader(lake) as connection:
        current_rows(connection, lake, table, target)
        connection.execute(
            f"CREATE TEMP VIEW b AS SELECT {quote(table.source_key)} AS key, {quote(before)}::BIGINT AS amount FROM current"
        )
        held = rows_of(connection, "silver", target)
        connection.execute(
            f"CREATE TEMP VIEW s AS SELECT {quote(table.key[0])} AS key, {quote(after)} AS amount FROM ({held})"
        )
        found = Reconciled(_side(connection, table_name(contract), "b"), _side(connection, table.name, "s"), after)
        if _fingerprint(connection, "b") != _fingerprint(connection, "s"):
            rows = _differing(connection)
            files = _raw_files(lake, contract, table.source_key, [row.key for row in rows])
            found.rows = [replace(row, files=files.get(row.key, ())) for row in rows]
    return found


def report_and_silver(lake: Lake, contract: Contract, now: datetime) -> Reconciled:
    """The total rows of the daily report against silver's transactions, by local day.

    Raises:
        UnknownTableError: one of the tables has not been made.
    """
    silver, report = lake.open(events.TRANSACTIONS), lake.open(REPORT)
    today = events.local_day(now)
    with reader(lake) as connection:
        connection.execute(
            f"CREATE TEMP TABLE days AS SELECT (dtTransacao AT TIME ZONE '{LOCAL_ZONE}')::DATE AS key, count(*) AS n, "
            f"coalesce(sum(nrPontosTransacao), 0)::BIGINT AS amount FROM ({rows_of(connection, 'silver', silver)}) "
            "WHERE dtTransacao IS NOT NULL GROUP BY ALL"
        )
        register(connection, "report", lake.rows(report))
        connection.execute(
            "CREATE TEMP TABLE s AS SELECT dtRef AS key, nrQuantidadeTrasacoes AS n, "
            "coalesce(nrQuantidadePontos, 0) AS amount, _computed_at FROM report WHERE descNomeProduto IS NULL"
        )
        # Days before the first dtRef have no partition.
        connection.execute(
            "CREATE TEMP TABLE b AS FROM days WHERE key <= ? AND key >= (SELECT min(key) FROM s)", [today]
        )
        found = Reconciled(
            _side(connection, events.TRANSACTIONS, "b", "sum(n)"),
            _side(connection, REPORT, "s", "sum(n)"),
            "nrQuantidadePontos",
        )
        differing = connection.execute(
            "SELECT key, b.n, b.amount, s.n, s.amount, s._computed_at FROM b FULL JOIN s USING (key) "
            "WHERE coalesce(b.n, 0) <> coalesce(s.n, 0) OR coalesce(b.amount, 0) <> coalesce(s.amount, 0) ORDER BY key"
        ).fetchall()
        for day, *figures, computed in differing:
            if _changed_after(lake, silver, computed, partial(eq, day)):
                found.behind.append(day.isoformat())
            elif len(found.rows) < SHOWN:
                there, here = (_figures(*figures[:2]), _figures(*figures[2:]))
                found.rows.append(Row(day.isoformat(), there, here, _files_of_day(lake, contract, day)))
    return found


def features_and_silver(lake: Lake, name: str, contract: Contract) -> Reconciled:
    """One amount of each customer's features at the newest dtRef, against silver's transactions.

    Raises:
        UnknownTableError: one of the tables has not been made.
    """
    column, rule = FEATURES[name]
    silver, features = lake.open(events.TRANSACTIONS), lake.open(name)
    dtrefs = [d for d in pa.table(features.get_add_actions(flatten=True))["partition.dtRef"].to_pylist() if d]
    if not dtrefs:
        return Reconciled(Side(events.TRANSACTIONS, 0, 0), Side(name, 0, 0), column)
    dtref = max(dtrefs)
    with reader(lake) as connection:
        connection.execute(
            "CREATE TEMP TABLE atividade AS SELECT * FROM (SELECT idCliente AS customer, "
            f"(dtTransacao AT TIME ZONE '{LOCAL_ZONE}')::DATE AS day, nrPontosTransacao AS points "
            f"FROM ({rows_of(connection, 'silver', silver)}) WHERE idCliente IS NOT NULL AND dtTransacao < ?) "
            "WHERE day < ?",
            [events.day_begins(dtref), dtref],
        )
        connection.execute(
            f"CREATE TEMP TABLE b AS SELECT customer AS key, ({rule.replace('$dtref', f'DATE {dtref.isoformat()!r}')})::BIGINT "
            f"AS amount FROM atividade GROUP BY customer HAVING max(day) >= DATE '{dtref.isoformat()}' - 28"
        )
        register(connection, "features", lake.rows(features))
        connection.execute(
            f"CREATE TEMP TABLE s AS SELECT idCliente AS key, {quote(column)} AS amount, _computed_at FROM features "
            "WHERE dtRef = ?",
            [dtref],
        )
        found = Reconciled(
            _side(connection, events.TRANSACTIONS, "b"), _side(connection, name, "s"), f"{column} of {dtref}"
        )
        rows = _differing(connection)
        if rows:
            [(computed,)] = connection.execute("SELECT min(_computed_at) FROM s").fetchall()
            if _changed_after(lake, silver, computed, partial(gt, dtref)):
                found.behind.append(dtref.isoformat())
            else:
                files = _raw_files(lake, contract, "idCustomer", [row.key for row in rows])
                found.rows = [replace(row, files=files.get(row.key, ())) for row in rows]
    return found


def _changed_after(lake: Lake, silver: DeltaTable, computed: datetime | None, concerns: Callable[[date], bool]) -> bool:
    """Whether silver changed a day that concerns some rows after these were computed (UTC); None: they never were."""
    try:
        noted = lake.rows(lake.open(changed.NAME))
    except UnknownTableError:
        return False
    rows = noted.to_table(filter=pc.field("table") == events.TRANSACTIONS, columns=["version", "day"])
    days = zip(rows["version"].to_pylist(), rows["day"].to_pylist(), strict=True)
    versions = [v for v, day in days if day is not None and v <= silver.version() and concerns(day)]
    if computed is None or not versions:
        return bool(versions)
    [entry] = lake.files().get_file_info([f"{folder_of(silver)}/_delta_log/{max(versions):020d}.json"])
    return entry.mtime is not None and entry.mtime.astimezone(UTC) > computed


def _side(connection: duckdb.DuckDBPyConnection, name: str, relation: str, rows: str = "count(*)") -> Side:
    [(count, total)] = connection.execute(
        f"SELECT coalesce({rows}, 0)::BIGINT, coalesce(sum(amount), 0)::BIGINT FROM {relation}"
    ).fetchall()
    return Side(name, count, total)


def _fingerprint(connection: duckdb.DuckDBPyConnection, relation: str) -> tuple[object, ...]:
    """The same for the same rows, in whatever order: cheaper than a join of both sides."""
    [row] = connection.execute(f"SELECT count(*), sum(hash(key, amount)::HUGEINT) FROM {relation}").fetchall()
    return tuple(row)


def _differing(connection: duckdb.DuckDBPyConnection) -> list[Row]:
    found = connection.execute(
        "SELECT key, b.amount, s.amount, b.key IS NOT NULL, s.key IS NOT NULL FROM b FULL JOIN s USING (key) "
        "WHERE b.key IS NULL OR s.key IS NULL OR b.amount IS DISTINCT FROM s.amount "
        f"ORDER BY key LIMIT {SHOWN}"
    )
    return [
        Row(str(key), before if there else "no row", after if here else "no row")
        for key, before, after, there, here in found.fetchall()
    ]


def _figures(rows: int | None, total: int | None) -> str:
    return "no row" if rows is None else f"{rows:,} rows, {total:,} points"


def _raw_files(lake: Lake, contract: Contract, column: str, values: Iterable[str]) -> dict[str, tuple[str, ...]]:
    """The raw files of the live rows with these values of a column, at most three of each."""
    files = Files.of(lake.open(table_name(contract)))
    wanted = pa.table({"value": pa.array([*values], pa.string())})
    if not files.paths or not wanted.num_rows:
        return {}
    with reader(lake) as connection:
        connection.register("wanted", wanted)
        found = connection.execute(
            f"SELECT {quote(column)}, list(DISTINCT _file ORDER BY _file)[:3] FROM {parquet(files.paths)} "
            f"WHERE {quote(column)} IN (FROM wanted) GROUP BY ALL"
        )
        return {key: tuple(file for file in names if file) for key, names in found.fetchall()}


def _files_of_day(lake: Lake, contract: Contract, day: date) -> tuple[str, ...]:
    """The raw files of a local day's transactions, at most three."""
    if contract.immutable_date is None:
        return ()  # bronze does not keep the date as one
    files = Files.of(lake.open(table_name(contract))).table
    first, until = (int(events.day_begins(d).timestamp() * 1_000_000) for d in (day, day + timedelta(1)))
    near = files.filter(
        pc.fill_null(pc.and_(pc.less_equal(files["first"], until), pc.greater_equal(files["last"], first)), False)
    )
    if not near.num_rows:
        return ()
    with reader(lake) as connection:
        found = connection.execute(
            f"SELECT DISTINCT _file FROM {parquet(near['path'].to_pylist())} WHERE _date >= ? AND _date < ? "
            "ORDER BY 1 LIMIT 3",
            [events.day_begins(day), events.day_begins(day + timedelta(1))],
        )
        return tuple(file for (file,) in found.fetchall() if file)
