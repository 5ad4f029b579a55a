"""Rows in the place of whole partitions of a table: written portion by portion, seen all at once.

However many partitions are replaced, memory holds one portion of their rows, and readers see one commit. Not here:
what a table is, and tables that are replaced whole (`tables`); which rows they are (`lake.engines`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence, Set
from datetime import date
from itertools import accumulate, pairwise, product
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, Schema
from deltalake.transaction import AddAction

from upsell_assets.errors import PermanentError
from upsell_assets.lake.commits import commit_properties
from upsell_assets.lake.files import OldFile, exchange, folder_of, replace_files, root_of, rows_in, write_rows
from upsell_assets.lake.keys import DoubledKeysError, Keys, doubled, doubled_in_files

if TYPE_CHECKING:
    from upsell_assets.lake.engines import Cluster, Query
    from upsell_assets.lake.tables import Lake

PORTION_ROWS = 100_000
"""Rows that are gathered before files are written of them; a partition has one file per portion that it is in."""

Values = tuple[str, ...]


def replace_partitions(
    lake: Lake,
    name: str,
    table: DeltaTable,
    rows: pa.RecordBatchReader,
    partitions: Mapping[str, Iterable[date | str]],
    tokens: Mapping[str, int] | None = None,
    key: Sequence[str] = (),
) -> None:
    """Replace the named partitions (each combination of the columns' values) by `rows`, in one commit.

    Columns that the table does not have yet are added, and are null in the partitions that stay.

    Raises:
        PermanentError: rows lie outside of the partitions, or do not fit the table's columns; nothing was replaced.
        DoubledKeysError: several rows have one `key` (which names the partition columns, too); nothing was replaced.
        CommitFailedError: somebody else committed since the table was opened; nothing was replaced.
    """
    columns, wanted = list(partitions), _wanted(partitions)
    _fit(name, table, rows.schema)
    added = []
    for portion in _portions(rows):
        parts = list(_by_partition(portion, columns))
        _none_outside(name, {values for values, _ in parts}, wanted)
        own = [column for column in key if column not in columns]
        _one_row_a_key(name, columns, key, {values: part.select(own) for values, part in parts} if key else {})
        added += write_rows(lake, table, ((dict(zip(columns, values, strict=True)), part) for values, part in parts))
    if key:
        _one_row_a_key(name, columns, key, _of_several_files(lake, table, columns, own, added))
    exchange(table, added, _held(table, columns, wanted), tokens)


def replace_by_cluster(
    lake: Lake,
    name: str,
    cluster: Cluster,
    query: Query,
    partitions: Mapping[str, Iterable[date | str]],
    key: Sequence[str] = (),
) -> tuple[DeltaTable, int]:
    """As `replace_partitions`, or without partitions the whole table; the rows never come to this process.

    Returns:
        The table, and how many rows were written.

    Raises:
        PermanentError, DoubledKeysError, CommitFailedError: as `replace_partitions`.
    """
    schema, columns = cluster.schema(query), list(partitions)
    table = lake.open_or_create(name, schema, partition_by=tuple(columns))
    if columns:
        _fit(name, table, schema)
    written = cluster.write(table, query, by=columns)
    parts: dict[Values, list[AddAction]] = {}
    for found, file in written:
        file.partition_values = {column: found[column] for column in columns}
        parts.setdefault(tuple(str(found[column]) for column in columns), []).append(file)
    added = [file for _, file in written]
    if not columns:
        replace_files(table, added, schema)
        return table, rows_in(added)
    _none_outside(name, parts.keys(), wanted := _wanted(partitions))
    own = [column for column in key if column not in columns]
    for values, files in parts.items() if key else ():
        paths = [f"{root_of(table)}/{file.path}" for file in files]
        several: Keys = doubled_in_files(lake, schema, paths, own) if own else [()] * (rows_in(files) > 1)
        if several:
            _refuse(name, columns, key, values, several)
    exchange(table, added, _held(table, columns, wanted))
    return table, rows_in(added)


def _wanted(partitions: Mapping[str, Iterable[date | str]]) -> set[Values]:
    return set(product(*([_text(value) for value in values] for values in partitions.values())))


def _none_outside(name: str, found: Set[Values], wanted: set[Values]) -> None:
    if outside := found - wanted:
        raise PermanentError(
            f"{name}: expected rows of the partitions that are replaced only, found some of "
            f"{' and '.join(', '.join(values) for values in sorted(outside)[:3])}. Nothing was replaced."
        )


def _one_row_a_key(name: str, columns: list[str], key: Sequence[str], parts: Mapping[Values, pa.Table]) -> None:
    """Refuse rows of partitions, of which the key's own columns are given, where one key has several."""
    own = [column for column in key if column not in columns]
    for values, rows in parts.items():
        if found := doubled(rows, own):
            _refuse(name, columns, key, values, found)


def _refuse(name: str, columns: list[str], key: Sequence[str], values: Values, found: Keys) -> None:
    own, part = [column for column in key if column not in columns], dict(zip(columns, values, strict=True))
    keys = [tuple({**part, **dict(zip(own, row, strict=True))}[column] for column in key) for row in found]
    raise DoubledKeysError(name, key, keys)


def _of_several_files(
    lake: Lake, table: DeltaTable, columns: list[str], own: list[str], added: Iterable[AddAction]
) -> dict[Values, pa.Table]:
    """Of partitions whose rows came in several portions, the key's own columns, read back."""
    files: dict[Values, list[str]] = {}
    for file in added:
        files.setdefault(tuple(str(file.partition_values[column]) for column in columns), []).append(file.path)
    folder = folder_of(table)
    return {
        values: pa.concat_tables(
            pq.read_table(f"{folder}/{path}", columns=own, filesystem=lake.files()) for path in paths
        )
        for values, paths in files.items()
        if len(paths) > 1
    }


def _text(value: date | str) -> str:
    return value.isoformat() if isinstance(value, date) else value


def _fit(name: str, table: DeltaTable, found: pa.Schema) -> None:
    """Add the columns that are new."""
    held = {field.name: field for field in table.schema().fields}
    given = Schema.from_arrow(found).fields
    for field in given:
        if field.name in held and field.type != held[field.name].type:
            raise PermanentError(
                f"{name}.{field.name}: expected {held[field.name].type}, as the table has it, found {field.type}. "
                "Nothing was replaced. Give the column another name, or cast it."
            )
    if new := [field for field in given if field.name not in held]:
        table.alter.add_columns(new, commit_properties=commit_properties())


def _portions(rows: pa.RecordBatchReader) -> Iterator[pa.Table]:
    held: list[pa.RecordBatch] = []
    for batch in rows:
        held.append(batch)
        if sum(part.num_rows for part in held) >= PORTION_ROWS:
            yield pa.Table.from_batches(held)
            held = []
    if held:
        yield pa.Table.from_batches(held)


def _by_partition(rows: pa.Table, columns: list[str]) -> Iterator[tuple[Values, pa.Table]]:
    ordered = rows.sort_by([(column, "ascending") for column in columns])
    counted = ordered.group_by(columns, use_threads=False).aggregate([([], "count_all")])
    values = zip(*(counted[column].cast(pa.string()).to_pylist() for column in columns), strict=True)
    ends = accumulate(counted["count_all"].to_pylist(), initial=0)
    for part, (start, end) in zip(values, pairwise(ends), strict=True):
        yield part, ordered.slice(start, end - start)


def _held(table: DeltaTable, columns: list[str], wanted: set[Values]) -> Iterator[OldFile]:
    """The files of these partitions."""
    for file in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        values = {column: _text(file[f"partition.{column}"]) for column in columns}
        if tuple(values.values()) in wanted:
            yield OldFile(file["path"], file["size_bytes"], values)
