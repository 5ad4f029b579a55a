"""Where the rows of a live table lie, so that a merge reads and writes only files that its changes can concern.

A table whose contract names an immutable date is partitioned by the month of that date: a change itself tells where
its row lies, and the statistics of `_date` which files of the month. In any other table rows lie as they came in, and
the keys of a batch are looked up in all files. Files are small against their table, because a merge replaces those
that hold a row of its batch.

Here: the columns, what their values are, and an opened table's files. Not here: which files a batch concerns
(`probe`), nor what is written (`write`).
"""

from __future__ import annotations

from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.duck import quote
from upsell_assets.lake.files import root_of

DATE, MONTH = "_date", "_month"

NO_MONTH = "unreadable"
"""The month of rows whose date is null or cannot be read; it is looked into for every key."""

FILES, DATED_FILES = 40, 128
"""Files that a table is meant to have: fewer and larger ones cost each merge, more of them each search.

Where a date tells the file, a search reads few of them.
"""

LEAST_ROWS, MOST_ROWS = 50_000, 250_000
"""Rows between which the size of a file stays, however small or large the table."""

SLACK = 1_000
"""Microseconds: Delta keeps the statistics of timestamps in milliseconds, rounded down."""

_INSTANT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Files:
    """The files of a table at one version.

    Columns: path, name (the path from the table's root), bytes, rows, part (of the partition, '' without one), first
    and last (microseconds between which the dates of its rows lie; null where that is not known), and newest, the
    greatest `_version`.
    """

    table: pa.Table

    @classmethod
    def of(cls, table: DeltaTable) -> Files:
        """Of an opened table."""
        actions = pa.table(table.get_add_actions(flatten=True))
        parts = [f"partition.{name}" for name in table.metadata().partition_columns]

        def column(name: str, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
            return actions[name].cast(kind) if name in actions.column_names else pa.nulls(actions.num_rows, kind)

        first = pc.subtract(column(f"min.{DATE}", _INSTANT).cast(pa.int64()), SLACK)
        last = pc.add(column(f"max.{DATE}", _INSTANT).cast(pa.int64()), SLACK)
        names, root = actions["path"].to_pylist(), root_of(table)
        return cls(
            pa.table(
                {
                    "path": pa.array([f"{root}/{name}" for name in names], pa.string()),
                    "name": pa.array(names, pa.string()),
                    "bytes": column("size_bytes", pa.int64()),
                    "rows": column("num_records", pa.int64()),
                    "part": column(parts[0], pa.string()) if parts else pa.array([""] * actions.num_rows),
                    "first": first,
                    "last": last,
                    "newest": column("max._version", pa.int64()),
                }
            )
        )

    @property
    def paths(self) -> list[str]:
        """All of them."""
        return [str(path) for path in self.table["path"].to_pylist()]

    def rows_per_file(self) -> int:
        """How many rows a new file holds."""
        files = FILES if self.table["first"].null_count == self.table.num_rows else DATED_FILES
        return min(max((pc.sum(self.table["rows"]).as_py() or 0) // files, LEAST_ROWS), MOST_ROWS)


def layout_fields(contract: Contract) -> list[pa.Field]:
    """The columns of a live table that serve its layout only."""
    if contract.immutable_date is None:
        return []
    return [pa.field(DATE, _INSTANT), pa.field(MONTH, pa.string())]


def partition_by(contract: Contract) -> tuple[str, ...]:
    """The columns by which a live table is partitioned."""
    return () if contract.immutable_date is None else (MONTH,)


def partition_of(table: DeltaTable, part: str) -> dict[str, str]:
    """The values of a table's partition columns in one of its parts (see `Files`)."""
    return dict.fromkeys(table.metadata().partition_columns, part)


def check_layout(contract: Contract, table: DeltaTable) -> None:
    """Refuse a table that was laid out under another contract.

    Raises:
        PermanentError: the partition is not the contract's.
    """
    found, wanted = table.metadata().partition_columns, [*partition_by(contract)]
    if found != wanted:
        raise PermanentError(
            f"bronze.{contract.name} is partitioned by {', '.join(found) or 'nothing'}, by its contract it would be by "
            f"{', '.join(wanted) or 'nothing'}: immutable_date was changed. Run: upsell repair {contract.table}"
        )


_FIRST, _LAST = "TIMESTAMPTZ '1800-01-01 00:00:00+00'", "TIMESTAMPTZ '2200-01-01 00:00:00+00'"


def date_of(contract: Contract, row: str) -> str:
    """Expression: the instant of a row's immutable date; null where it is null, cannot be read, or is no likely date."""
    name = contract.immutable_date
    if name is None:
        return "NULL::TIMESTAMPTZ"
    value = f"{row}.{quote(name)}"
    instant = f"TRY_CAST({value} AS TIMESTAMPTZ)"
    if contract.columns[name] == "string":
        # As `2024-02-01 00:00:00 +0000 UTC` too.
        plain = rf"regexp_replace({value}, ' ?([+-]\d\d):?(\d\d)( UTC)?$', '\1:\2')"
        instant = f"coalesce({instant}, TRY_CAST({plain} AS TIMESTAMPTZ))"
    # Beyond these years dates mean something else, and not every library can compare them.
    return f"CASE WHEN {instant} BETWEEN {_FIRST} AND {_LAST} THEN {instant} END"


def month_of(instant: str) -> str:
    """Expression: the partition of a date."""
    return f"coalesce(strftime(make_timestamp(epoch_us({instant})), '%Y-%m'), '{NO_MONTH}')"
