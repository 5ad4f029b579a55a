"""Where the rows of a live table lie, so that a merge reads and writes only files that its changes can concern.

A table whose contract names an immutable date is partitioned by the month of that date: a change itself tells where
its row lies, and the statistics of `_date` which files of the month. In any other table `_bin` stands beside each row,
a number that grows as rows come in: the keys of a batch are looked up in all files, and the bins of what is found
bound the merge. Either way a row has a spot, a whole number: microseconds of its date, or its bin.

Here: the columns, what their values are, and an opened table's files. Not here: which files a batch concerns
(`probe`), nor what is merged (`merge`).
"""

from __future__ import annotations

from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.duck import quote
from upsell_assets.raw.files import FILE, MODIFIED, ROW, SEQUENCE

DATE, MONTH, BIN = "_date", "_month", "_bin"

NO_MONTH = "unreadable"
"""The month of rows whose date is null or cannot be read; it is looked into for every key."""

BIN_ROWS = 300_000
"""Rows after which a new bin begins: about a file of a narrow table."""

SLACK = 1_000
"""Microseconds: Delta keeps the statistics of timestamps in milliseconds, rounded down."""

_INSTANT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Files:
    """The files of a table at one version.

    Columns: path, bytes, rows, part (of the partition, '' without one), first and last (between which the spots of its
    rows lie; null where that is not known), and newest, the greatest `_version`.
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

        if f"min.{BIN}" in actions.column_names:
            first, last = (column(f"{end}.{BIN}", pa.int64()) for end in ("min", "max"))
        else:
            first = pc.subtract(column(f"min.{DATE}", _INSTANT).cast(pa.int64()), SLACK)
            last = pc.add(column(f"max.{DATE}", _INSTANT).cast(pa.int64()), SLACK)
        return cls(
            pa.table(
                {
                    "path": pa.array([f"{root}/{path}" for path in actions["path"].to_pylist()], pa.string()),
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

    def newest_bin(self) -> tuple[int, int]:
        """The bin that new rows go to, and how many rows it holds already, give or take those of bins before it."""
        newest = pc.max(self.table["last"]).as_py() or 0
        held = pc.sum(self.table.filter(pc.field("last") == newest)["rows"]).as_py() or 0
        return newest, min(held, BIN_ROWS)


def target_file_size(contract: Contract) -> int:
    """Bytes of a live table's files: small where a date tells which of many to read, else fewer and larger."""
    return (16 if contract.immutable_date is None else 4) << 20


def properties(contract: Contract) -> dict[str, str]:
    """Table properties of a live table."""
    return {"delta.targetFileSize": str(target_file_size(contract))}


def layout_fields(contract: Contract) -> list[pa.Field]:
    """The columns of a live table that serve its layout only."""
    if contract.immutable_date is None:
        return [pa.field(BIN, pa.int64())]
    return [pa.field(DATE, _INSTANT), pa.field(MONTH, pa.string())]


def partition_by(contract: Contract) -> tuple[str, ...]:
    """The columns by which a live table is partitioned."""
    return () if contract.immutable_date is None else (MONTH,)


def spot_of(contract: Contract, row: str) -> str:
    """Expression: the spot of a live row; null where its date cannot be read."""
    return f"{row}.{BIN}" if contract.immutable_date is None else f"epoch_us({row}.{DATE})"


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


def place_of(contract: Contract, row: str, beside: str, newest: tuple[int, int]) -> str:
    """Expressions over staged rows: the columns of their layout that are not among their own.

    Args:
        contract: the table.
        row: the staged rows' name; with their `_date`, if the table has it.
        beside: expression, the spot of the live row that a staged row replaces; null where there is none.
        newest: see `Files.newest_bin`; new rows fill this bin, in their order, then begin others.
    """
    if contract.immutable_date is not None:
        return f"{month_of(f'{row}.{DATE}')} AS {MONTH}"
    number, held = newest
    order = ", ".join(f"{row}.{name}" for name in (MODIFIED, SEQUENCE, FILE, ROW))
    nth = f"row_number() OVER (PARTITION BY {beside} IS NULL ORDER BY {order}) - 1"
    return f"coalesce({beside}, {number} + ({held} + {nth}) // {BIN_ROWS})::BIGINT AS {BIN}"
