"""Dates that silver did not read: transactions with a text in bronze and null in silver, counted per raw file.

Here: the texts behind silver's nulls. Not here: which texts are dates (`transacoes.sql`), and who is shown them
(`assets`). What is counted is a state, not what a run has seen: a corrected or deleted transaction is gone from it.
"""

from __future__ import annotations

from dataclasses import dataclass

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from upsell_assets.bronze.layout import NO_MONTH, Files
from upsell_assets.bronze.tables import table_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import parquet, reader, text
from upsell_assets.lake.files import root_of
from upsell_assets.lake.tables import Lake

ZERO_DATE = "0000-00-00"
"""How MySQL spells a date that it does not have; a time may follow."""


@dataclass(frozen=True)
class UnreadFile:
    """A raw file, how many of its transactions have a zero date or one that cannot be read, and one such text."""

    file: str
    zero_dates: int
    unreadable: int
    sample: str


@dataclass(frozen=True)
class UnreadDates:
    """All of them: `files` with the most first; `missing` transactions have no date in bronze, and nothing to read."""

    files: tuple[UnreadFile, ...] = ()
    missing: int = 0

    @property
    def zero_dates(self) -> int:
        """Transactions with MySQL's zero date."""
        return sum(file.zero_dates for file in self.files)

    @property
    def unreadable(self) -> int:
        """Transactions with any other text that is no date."""
        return sum(file.unreadable for file in self.files)


def unread_dates(lake: Lake, transactions: str, contract: Contract) -> UnreadDates:
    """The dates of silver's transactions that are null, as bronze has them.

    Nothing is read where silver's statistics know of no null. Bronze is read as of the version that silver was made
    from: first where it keeps the dates that its own layout cannot place, and only for what is not there anywhere.

    Args:
        lake: where both tables lie.
        transactions: silver's table.
        contract: that of the bronze table which it is made from.

    Raises:
        UnknownTableError: one of the tables has not been made.
    """
    silver = lake.open(transactions)
    nulls = _paths_with_nulls(silver, "dtTransacao")
    if not nulls:
        return UnreadDates()
    files = Files.of(lake.open(table_name(contract), silver.transaction_version(table_name(contract)))).table
    unplaced = pc.equal(files["part"], NO_MONTH)
    likely, others = (files.filter(chosen)["path"].to_pylist() for chosen in (unplaced, pc.invert(unplaced)))
    with reader(lake) as connection:
        connection.execute(
            f"CREATE TEMP TABLE wanted AS SELECT idTransacao AS id FROM {parquet(nulls)} WHERE dtTransacao IS NULL"
        )
        connection.execute("CREATE TEMP TABLE found (id VARCHAR, text VARCHAR, file VARCHAR)")
        for paths in (likely, others):
            if paths and _any_left(connection):
                connection.execute(
                    f"INSERT INTO found SELECT idTransaction, dtTransaction, _file FROM {parquet(paths)} "
                    "WHERE idTransaction IN (FROM wanted)"
                )
        return _counted(connection)


def _paths_with_nulls(table: DeltaTable, column: str) -> list[str]:
    """The files in which a column may be null."""
    actions = pa.table(table.get_add_actions(flatten=True))
    counts = actions[f"null_count.{column}"] if f"null_count.{column}" in actions.column_names else None
    if counts is not None:
        actions = actions.filter(pc.not_equal(pc.fill_null(counts, 1), 0))
    return [f"{root_of(table)}/{path}" for path in actions["path"].to_pylist()]


def _any_left(connection: duckdb.DuckDBPyConnection) -> bool:
    return connection.execute("SELECT 1 FROM wanted ANTI JOIN found USING (id) LIMIT 1").fetchone() is not None


def _counted(connection: duckdb.DuckDBPyConnection) -> UnreadDates:
    zero = f"starts_with(trim(text), {text(ZERO_DATE)})"
    rows = connection.execute(
        f"SELECT file, count(*) FILTER ({zero}), count(*) FILTER (NOT {zero}), "
        f"coalesce(min(text) FILTER (NOT {zero}), min(text)) "
        "FROM found WHERE text IS NOT NULL GROUP BY file ORDER BY count(*) DESC, file"
    ).fetchall()
    [(missing,)] = connection.execute("SELECT count(*) FROM found WHERE text IS NULL").fetchall()
    return UnreadDates(tuple(UnreadFile(*row) for row in rows), missing)
