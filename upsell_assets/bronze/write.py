"""What was decided, written to the live table: files that hold a row of the batch are replaced, in one commit.

A file that is touched is written anew without the keys of the batch, with the batch's rows that belong there; small
ones are joined on the way. Rows of new keys fill up the last of these, or files of their own. The commit fails when
anybody else committed since the table was opened (`commit_properties`). Not here: which rows are written (`law`,
`merge`), and files that no batch touches (`upkeep`).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime

import duckdb
import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, Schema, write_deltalake

from upsell_assets.bronze.law import same_key
from upsell_assets.bronze.layout import DATE, MONTH, Files, month_of, partition_of
from upsell_assets.bronze.tables import WRITTEN
from upsell_assets.contracts import Contract
from upsell_assets.lake.commits import commit_properties
from upsell_assets.lake.duck import quote
from upsell_assets.lake.files import NewFile, OldFile, exchange
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import FILE, MODIFIED, ROW, SEQUENCE

_PATH, _DELETE = "_path", "_delete"


@dataclass
class Group:
    """Files of one part (partition) that one new file replaces, and how many rows they hold."""

    part: str
    paths: list[str] = field(default_factory=list)
    rows: int = 0


def staged_rows(connection: duckdb.DuckDBPyConnection, contract: Contract) -> pa.Table:
    """Of the relation `judged`, the rows to write and (`_delete`) those to delete, with all columns of the live table.

    What a newer row does not have is null, not the older value. `_path` is the file of the live row, null for a new
    key. Rows are in the order in which files take them.
    """
    keys = ", ".join(quote(name) for name in contract.key)
    month = f", {month_of(f's.{DATE}')} AS {MONTH}" if contract.immutable_date else ""
    order = [MONTH, DATE] if contract.immutable_date else [MODIFIED, SEQUENCE, FILE, ROW]
    return connection.sql(
        f"SELECT *, NULL::VARCHAR AS {_PATH}, NULL::BOOLEAN AS {_DELETE} FROM shape UNION ALL BY NAME "
        f"SELECT s.* EXCLUDE (_upsert, _bury), b.path AS {_PATH}{month} FROM judged AS s LEFT JOIN "
        f"(SELECT {keys}, min(path) AS path FROM candidates GROUP BY ALL) AS b "
        f"ON {same_key(contract, 's', 'b')} WHERE s._upsert OR s._delete ORDER BY {', '.join(order)}"
    ).to_arrow_table()


def touched_paths(connection: duckdb.DuckDBPyConnection, contract: Contract) -> list[str]:
    """The files that hold a live row, or a copy of one, whose key is written or deleted."""
    found = connection.execute(
        f"SELECT DISTINCT l.path FROM candidates AS l SEMI JOIN judged AS s ON {same_key(contract, 's', 'l')} "
        "AND (s._upsert OR s._delete)"
    )
    return [path for (path,) in found.fetchall()]


def write(
    lake: Lake,
    live: DeltaTable,
    contract: Contract,
    files: Files,
    staged: pa.Table,
    touched: list[str],
    tokens: Mapping[str, int] | None,
) -> None:
    """Write staged rows in place of what the table has of their keys, and the tokens with them.

    Raises:
        CommitFailedError: somebody else committed since the table was opened; no row was written.
    """
    _add_columns(live, staged)
    old = files.table.filter(pc.is_in(files.table["path"], pa.array(touched, pa.string())))
    limit = files.rows_per_file()
    new = list(_new_files(contract, grouped(old, limit), _stamped(staged, live), limit))
    exchange(live, lake.data.write(lake, live, new), old_files(live, old), tokens)


def grouped(files: pa.Table, limit: int) -> list[Group]:
    """Files of a table (see `Files`) that lie beside each other, put together up to so many rows."""
    groups: list[Group] = []
    for file in files.sort_by([(name, "ascending") for name in ("part", "first", "newest")]).to_pylist():
        if not groups or groups[-1].part != file["part"] or groups[-1].rows + file["rows"] > limit:
            groups.append(Group(file["part"]))
        groups[-1].paths.append(file["path"])
        groups[-1].rows += file["rows"]
    return groups


def old_files(table: DeltaTable, files: pa.Table) -> list[OldFile]:
    """Files of a table (see `Files`), to be removed."""
    return [OldFile(file["name"], file["bytes"], partition_of(table, file["part"])) for file in files.to_pylist()]


def _new_files(contract: Contract, groups: list[Group], staged: pa.Table, limit: int) -> Iterator[NewFile]:
    keys, deleted = staged.select(contract.key), staged[_DELETE]
    rows = staged.drop_columns([_PATH, _DELETE])
    home = _homes(contract, groups, staged, limit)
    for number, group in enumerate(groups):
        mine = rows.filter(pc.and_(pc.equal(home, number), pc.invert(deleted)))
        yield NewFile(mine, group.paths, keys, partition=_partition(contract, group.part))
    others = rows.filter(pc.and_(pc.is_null(home), pc.invert(deleted)))
    for part in pc.unique(_parts(contract, others)).to_pylist():
        of_part = others.filter(pc.equal(_parts(contract, others), part))
        for first in range(0, of_part.num_rows, limit):
            yield NewFile(of_part.slice(first, limit), partition=_partition(contract, part))


def _partition(contract: Contract, part: str) -> dict[str, str]:
    return {MONTH: part} if contract.immutable_date else {}


def _homes(contract: Contract, groups: list[Group], staged: pa.Table, limit: int) -> pa.ChunkedArray | pa.Array:
    """For each staged row the number of the group that takes it; null: none does."""
    number_of = {path: number for number, group in enumerate(groups) for path in group.paths}
    paths, numbers = pa.array(list(number_of), pa.string()), pa.array(list(number_of.values()), pa.int64())
    home = pc.take(numbers, pc.index_in(staged[_PATH].combine_chunks(), paths))
    parts = _parts(contract, staged)
    # A row whose date is another one than before goes where its new date belongs.
    stays = pc.equal(pc.take(pa.array([group.part for group in groups], pa.string()), home), parts)
    home = pc.if_else(stays, home, None)
    last = {group.part: number for number, group in enumerate(groups)}
    for part, number in last.items():
        new = pc.and_(pc.is_null(home), pc.equal(parts, part))
        if groups[number].rows + (pc.sum(new).as_py() or 0) <= limit:
            home = pc.if_else(new, number, home)
    return home


def _parts(contract: Contract, rows: pa.Table) -> pa.ChunkedArray | pa.Array:
    return rows[MONTH].combine_chunks() if contract.immutable_date else pa.repeat("", rows.num_rows)


def _add_columns(live: DeltaTable, staged: pa.Table) -> None:
    known = set(pa.schema(live.schema().to_arrow()).names) | {_PATH, _DELETE}
    new = pa.schema([column for column in staged.schema if column.name not in known])
    if new.names:
        live.alter.add_columns(Schema.from_arrow(new).fields, commit_properties=commit_properties())


def _stamped(staged: pa.Table, live: DeltaTable) -> pa.Table:
    ingested, version = WRITTEN
    for stamp, value in ((ingested, datetime.now(UTC)), (version, live.version() + 1)):
        staged = staged.set_column(staged.column_names.index(stamp.name), stamp, constant(value, staged, stamp.type))
    return staged


def append(table: DeltaTable, rows: pa.Table, tokens: Mapping[str, int] | None = None) -> None:
    """Add rows in a commit of their own, with new columns if they have some."""
    write_deltalake(
        table,
        rows,
        mode="append",
        schema_mode="merge",
        commit_properties=commit_properties(tokens),
    )


def constant(value: object, like: pa.Table, kind: pa.DataType | None = None) -> pa.Array:
    """One value for every row of a table."""
    return pa.repeat(pa.scalar(value, kind or pa.int64()), like.num_rows)
