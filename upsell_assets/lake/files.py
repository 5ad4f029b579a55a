"""Data files of Delta tables: written by DuckDB, put in the place of others by one commit of delta-rs.

Here: parquet files with their statistics, and the commit that adds and removes whole files. Not here: which rows
they hold, and which files they replace (`bronze.write`, `bronze.upkeep`).
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING
from urllib.parse import unquote
from uuid import uuid4

import duckdb
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction, RemoveAction

from upsell_assets.lake.commits import commit_properties
from upsell_assets.lake.duck import parquet, quote, reader, text
from upsell_assets.lake.properties import check_writable

if TYPE_CHECKING:
    from upsell_assets.lake.tables import Lake

LONGEST = 64
"""Characters of text up to which statistics keep it; of longer text they would only cost."""

FORMAT = "FORMAT parquet, PARQUET_VERSION v2, COMPRESSION zstd, COMPRESSION_LEVEL 1"
"""As fast to write and to search as snappy, at half the size, which is what an upload takes time for.

The encodings of version 2 save another quarter of size and of time.
"""

WRITERS = 3
"""Files written at once: one of less than a row group (122,880 rows) keeps one core busy; each takes memory."""


@dataclass(frozen=True)
class NewFile:
    """A file to write: what it takes over from files of the table, and rows of its own.

    Attributes:
        rows: its own, in some of the table's columns; those that are missing are null. None: it has none.
        kept: the files, with their folder, whose rows it takes over.
        gone: keys, in the columns of the key, of rows that it does not take over. One of several files is gone in all.
        within: a column, and the moments (excluded, included; None: no bound) between which it lies in what is kept.
        partition: values of the partition columns.
    """

    rows: pa.Table | None = None
    kept: Sequence[str] = ()
    gone: pa.Table | None = None
    within: tuple[str, datetime | None, datetime | None] | None = None
    partition: Mapping[str, str] = field(default_factory=dict)

    @property
    def query(self) -> str:
        """Its rows, for DuckDB, over the relations `own` and `gone`."""
        found = ["SELECT * FROM own"] if self.rows is not None else []
        if self.kept:
            kept = f"SELECT r.* EXCLUDE (filename) FROM {parquet(self.kept)} AS r"
            if self.gone is not None:
                same = " AND ".join(f"r.{quote(name)} = g.{quote(name)}" for name in self.gone.column_names)
                kept += f" ANTI JOIN gone AS g ON {same}"
            found.append(f"{kept} WHERE {self._bounds()}")
        return " UNION ALL BY NAME ".join(found)

    def _bounds(self) -> str:
        column, first, last = self.within or ("", None, None)
        after = [f"r.{quote(column)} > TIMESTAMPTZ {text(first.isoformat())}"] if first else []
        until = [f"r.{quote(column)} <= TIMESTAMPTZ {text(last.isoformat())}"] if last else []
        return " AND ".join([*after, *until]) or "true"


@dataclass(frozen=True)
class OldFile:
    """A file to remove: its path from the table's root, bytes, and values of the partition columns."""

    path: str
    size: int
    partition: Mapping[str, str] = field(default_factory=dict)


def root_of(table: DeltaTable) -> str:
    """Where a table lies, as DuckDB names it."""
    uri = table.table_uri.rstrip("/")
    return unquote(uri.removeprefix("file://")) if uri.startswith("file://") else uri


def folder_of(table: DeltaTable) -> str:
    """Where a table lies, from the root of its lake."""
    return "/".join(table.table_uri.strip("/").split("/")[-3:])


def rows_of(
    connection: duckdb.DuckDBPyConnection,
    name: str,
    table: DeltaTable,
    paths: Sequence[str] | None = None,
    *,
    files: bool = False,
) -> str:
    """Query: the rows of a table, read from its files by DuckDB; what a file does not have of a column is null.

    So are the columns that it is partitioned by, which no file has.

    Args:
        connection: of `duck.reader`; it is given the table's shape, as a relation.
        name: begins the name of that relation.
        table: opened at the version that is read.
        paths: some of its files, with their folder; None: all of them.
        files: whether each row comes with its file, as the column `filename`.
    """
    shape = pa.schema(table.schema().to_arrow())
    connection.register(f"{name}_shape", shape.empty_table())
    if paths is None:
        paths = [f"{root_of(table)}/{path}" for path in pa.table(table.get_add_actions())["path"].to_pylist()]
    columns = ", ".join(quote(column) for column in [*shape.names, *(["filename"] if files else [])])
    file = ", NULL::VARCHAR AS filename" if files else ""
    held = f" UNION ALL BY NAME SELECT *{'' if files else ' EXCLUDE (filename)'} FROM {parquet(paths)}" if paths else ""
    return f"SELECT {columns} FROM (SELECT *{file} FROM {quote(f'{name}_shape')}{held})"


def column_types(rows: DeltaTable | pa.Table) -> dict[str, str]:
    """Column -> type, in Delta's words."""
    schema = rows.schema() if isinstance(rows, DeltaTable) else Schema.from_arrow(rows.schema)
    return {field.name: str(field.type) for field in schema.fields}


def write_files(lake: Lake, table: DeltaTable, new: Sequence[NewFile]) -> list[AddAction]:
    """Write files beside those of a table, by DuckDB; no reader sees them before `exchange` names them.

    None for no rows.
    """
    with ThreadPoolExecutor(WRITERS) as pool:
        written = pool.map(lambda file: _write(lake, table, file), new)
        return [action for action in written if action]


def write_rows(lake: Lake, table: DeltaTable, parts: Iterable[tuple[Mapping[str, str], pa.Table]]) -> list[AddAction]:
    """Write one file of each of these rows, of a partition or `{}`; no reader sees them before `exchange`.

    By Arrow, which they already are in: many small and wide files take it half the time that DuckDB takes.
    """
    folder = folder_of(table)

    def write(part: tuple[Mapping[str, str], pa.Table]) -> AddAction:
        values, rows = part
        name = f"part-{uuid4()}.parquet"
        found: list[pq.FileMetaData] = []
        own = rows.drop_columns(list(values))
        texts = [field.name for field in own.schema if pa.types.is_string(field.type)]
        with lake.files().open_output_stream(f"{folder}/{name}") as out:
            pq.write_table(
                own, out, compression="zstd", compression_level=1, use_dictionary=texts, metadata_collector=found
            )
            size = out.tell()
        stats = json.dumps(_statistics(rows.num_rows, _arrow_statistics(found[0]), own.schema), ensure_ascii=False)
        return AddAction(name, size, dict(values), time.time_ns() // 1_000_000, True, stats)

    with ThreadPoolExecutor(WRITERS) as pool:
        return list(pool.map(write, parts))


def rows_in(files: Iterable[AddAction]) -> int:
    """How many rows files have that were written."""
    return sum(json.loads(file.stats)["numRecords"] for file in files if file.stats)


def exchange(
    table: DeltaTable,
    added: Iterable[AddAction],
    removed: Iterable[OldFile],
    tokens: Mapping[str, int] | None = None,
    *,
    changes: bool = True,
    shape: pa.Schema | None = None,
) -> None:
    """Add and remove files in one commit; without `changes` the rows are the same as before.

    With a `shape` the table has its columns from now on, and of the files only those that are added.

    Raises:
        CommitFailedError: somebody else committed since the table was opened; the table is as the other one left it.
        PermanentError: another program has changed the table to one that the lake must not write.
    """
    check_writable(folder_of(table).replace("/", "."), table)
    now = time.time_ns() // 1_000_000
    new = [replace(action, data_change=changes) for action in added]
    # As the log spells it; the library encodes a folder's name once more.
    gone = [RemoveAction(unquote(file.path), changes, now, file.size, dict(file.partition) or None) for file in removed]
    table.create_write_transaction(
        [*new, *gone],
        "append" if shape is None else "overwrite",
        table.schema() if shape is None else Schema.from_arrow(shape),
        table.metadata().partition_columns,
        commit_properties=commit_properties(tokens),
    )
    # To the version of this commit, not to the newest: what another one committed after it was not looked at, and the
    # next exchange of this table must fail on it.
    table.load_as_version(table.version() + 1)


def replace_files(
    table: DeltaTable, added: Iterable[AddAction], shape: pa.Schema, tokens: Mapping[str, int] | None = None
) -> None:
    """Give a table without partitions these files in the place of all that it has, in one commit.

    Raises:
        CommitFailedError, PermanentError: as `exchange`.
    """
    if column_types(table) == column_types(shape.empty_table()):
        files = pa.table(table.get_add_actions())
        held = zip(files["path"].to_pylist(), files["size_bytes"].to_pylist(), strict=True)
        exchange(table, added, [OldFile(path, size) for path, size in held], tokens)
    else:  # only another query has other columns
        exchange(table, added, [], tokens, shape=shape)


def _write(lake: Lake, table: DeltaTable, file: NewFile) -> AddAction | None:
    name = f"part-{uuid4()}.parquet"
    shape = pa.schema(table.schema().to_arrow())
    columns = ", ".join(quote(column) for column in shape.names if column not in file.partition)
    with reader(lake) as connection:
        connection.register("shape", shape.empty_table())
        for relation, rows in (("own", file.rows), ("gone", file.gone)):
            if rows is not None:
                connection.register(relation, rows)
        query = f"SELECT {columns} FROM (SELECT * FROM shape UNION ALL BY NAME {file.query})"
        path = text(f"{root_of(table)}/{name}")
        found = connection.execute(f"COPY ({query}) TO {path} ({FORMAT}, RETURN_STATS)")
        [(_, count, size, _, statistics, _)] = found.fetchall()
    if not count:
        return None
    stats = json.dumps(_statistics(count, statistics, shape), ensure_ascii=False)
    return AddAction(name, size, dict(file.partition), time.time_ns() // 1_000_000, True, stats)


def _statistics(count: int, columns: Mapping[str, Mapping[str, str]], schema: pa.Schema) -> dict[str, object]:
    """Statistics of a file, as the Delta protocol has them, from those that DuckDB gives (all of them texts)."""
    least: dict[str, object] = {}
    greatest: dict[str, object] = {}
    nulls: dict[str, int] = {}
    for column in schema:
        known = columns.get(quote(column.name), {})
        if "null_count" in known:
            nulls[column.name] = int(known["null_count"])
        if "min" in known and "max" in known:
            ends = _bound(known["min"], column.type), _bound(known["max"], column.type, up=True)
            if None not in ends:
                least[column.name], greatest[column.name] = ends
    return {"numRecords": count, "minValues": least, "maxValues": greatest, "nullCount": nulls}


def _arrow_statistics(found: pq.FileMetaData) -> dict[str, dict[str, str]]:
    """Statistics of a file that Arrow wrote, as DuckDB gives them."""
    columns: dict[str, dict[str, str]] = {}
    for number in range(found.num_columns):
        groups = [found.row_group(group).column(number) for group in range(found.num_row_groups)]
        known = [group.statistics for group in groups if group.statistics is not None]
        if len(known) < len(groups) or not all(one.has_null_count for one in known):
            continue
        own = {"null_count": str(sum(one.null_count for one in known))}
        bounded = [one for one in known if one.has_min_max]
        if bounded and sum(one.num_values for one in bounded) == sum(one.num_values for one in known):
            own |= {"min": str(min(one.min for one in bounded)), "max": str(max(one.max for one in bounded))}
        columns[quote(groups[0].path_in_schema)] = own
    return columns


def _bound(value: str, kind: pa.DataType, *, up: bool = False) -> object:
    """The least or greatest value of a column; None where statistics do not keep it."""
    if pa.types.is_integer(kind):
        return int(value)
    if pa.types.is_string(kind) and len(value) <= LONGEST:
        return value
    if pa.types.is_timestamp(kind):
        return _instant(value, up=up)
    if pa.types.is_date(kind) and len(value) == len("2024-02-29"):
        return value
    return None


def _instant(value: str, *, up: bool) -> str | None:
    """An instant of whole milliseconds, at or before (`up`: at or after) that one."""
    try:
        instant = datetime.fromisoformat(value) + timedelta(microseconds=999 if up else 0)
    except (ValueError, OverflowError):
        return None  # before the year 1 or beyond 9999
    return f"{instant.replace(tzinfo=None).isoformat(timespec='milliseconds')}Z"
