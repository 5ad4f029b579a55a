"""Where the rows of a live table lie, so that a merge reads and writes only files that its changes can concern.

A table whose contract names an immutable date is partitioned by the month of that date: a change itself tells where
its row lies, and the statistics of `_date` which files of the month. Any other table is partitioned by `_bin`, a
number that grows as rows come in: the keys of a batch are looked up in all files, and what is found tells the bins.

Here: the columns and what their values are. Not here: which files a batch concerns (`probe`), nor what is merged
(`merge`).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
from deltalake import DeltaTable

from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.duck import quote
from upsell_assets.raw.files import FILE, MODIFIED, ROW, SEQUENCE

DATE, MONTH, BIN = "_date", "_month", "_bin"

NO_MONTH = "unreadable"
"""The month of rows whose date is null or cannot be read; it is looked into for every key."""

BIN_ROWS = 150_000
"""Rows after which a new bin begins: some 8 MiB of a narrow table, so that a bin is about one file."""


TARGET_FILE_SIZE = 8 << 20
PROPERTIES = {"delta.targetFileSize": str(TARGET_FILE_SIZE)}

_INSTANT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Files:
    """The files of a table at one version.

    Columns: path, bytes, rows, part (of the partition), first and last `_date`, and newest, the greatest `_version`.
    """

    table: pa.Table

    @classmethod
    def of(cls, table: DeltaTable) -> Files:
        """Of an opened table."""
        actions = pa.table(table.get_add_actions(flatten=True))
        uri = table.table_uri.rstrip("/")
        root = unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri
        parts = [f"partition.{name}" for name in table.metadata().partition_columns]

        def column(name: str, kind: pa.DataType) -> pa.ChunkedArray | pa.Array:
            return actions[name].cast(kind) if name in actions.column_names else pa.nulls(actions.num_rows, kind)

        return cls(
            pa.table(
                {
                    "path": pa.array([f"{root}/{path}" for path in actions["path"].to_pylist()], pa.string()),
                    "bytes": column("size_bytes", pa.int64()),
                    "rows": column("num_records", pa.int64()),
                    "part": column(parts[0] if parts else "", pa.string()),
                    "first": column(f"min.{DATE}", _INSTANT),
                    "last": column(f"max.{DATE}", _INSTANT),
                    "newest": column("max._version", pa.int64()),
                }
            )
        )

    @property
    def paths(self) -> list[str]:
        """All of them."""
        return [str(path) for path in self.table["path"].to_pylist()]

    def rows_of_parts(self) -> dict[str, int]:
        """How many rows each partition holds."""
        sums = self.table.group_by("part").aggregate([("rows", "sum")])
        return dict(zip(sums["part"].to_pylist(), sums["rows_sum"].to_pylist(), strict=True))


def layout_fields(contract: Contract) -> list[pa.Field]:
    """The columns of a live table that serve its layout only."""
    if contract.immutable_date is None:
        return [pa.field(BIN, pa.int64())]
    return [pa.field(DATE, _INSTANT), pa.field(MONTH, pa.string())]


def partition(contract: Contract) -> str:
    """The column by which a live table is partitioned."""
    return BIN if contract.immutable_date is None else MONTH


def check_layout(contract: Contract, table: DeltaTable) -> None:
    """Refuse a table that was laid out under another contract.

    Raises:
        PermanentError: the partition is not the contract's.
    """
    if (found := table.metadata().partition_columns) != [partition(contract)]:
        raise PermanentError(
            f"bronze.{contract.name} is partitioned by {', '.join(found) or 'nothing'}, by its contract it would be by "
            f"{partition(contract)}: immutable_date was changed. Run: upsell repair {contract.table}"
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


def place_of(contract: Contract, row: str, beside: str, rows_of_parts: dict[str, int]) -> str:
    """Expression over staged rows: their partition.

    Args:
        contract: the table.
        row: the staged rows' name; with their `_date`.
        beside: expression, the partition of the live row that a staged row replaces; null where there is none.
        rows_of_parts: how many rows each partition holds; new rows fill the newest one, in their order, then begin others.
    """
    if contract.immutable_date is not None:
        return month_of(f"{row}.{DATE}")
    newest = max(map(int, rows_of_parts), default=0)
    held = min(rows_of_parts.get(str(newest), 0), BIN_ROWS)
    order = ", ".join(f"{row}.{name}" for name in (MODIFIED, SEQUENCE, FILE, ROW))
    number = f"row_number() OVER (PARTITION BY {beside} IS NULL ORDER BY {order}) - 1"
    return f"coalesce({beside}::BIGINT, {newest} + ({held} + {number}) // {BIN_ROWS})"
