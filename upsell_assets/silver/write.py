"""What a refresh of silver changes, found and committed: files that hold a changed row are replaced, in one commit.

A changed row stays in its file; new ones fill up the smallest file, or files of their own. Not here: which rows there
are now (`read`, the `.sql` files).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from upsell_assets.lake.duck import connect, quote, reader
from upsell_assets.lake.files import NewFile, OldFile, column_types, exchange, root_of
from upsell_assets.lake.tables import Lake
from upsell_assets.silver.difference import Difference

FILE_ROWS = 100_000
"""Rows of a file: what one changed row writes anew."""

_FILE = "filename"


def difference_to_held(
    lake: Lake, target: DeltaTable | None, key: tuple[str, ...], new: pa.Table, keys: pa.Table | None
) -> tuple[Difference, pa.Table]:
    """How rows differ from those that the table holds, and in which files (`filename`) the keys lie that do.

    Args:
        lake: where the table lies.
        target: the table; None: there is none yet.
        key: its key columns.
        new: the rows that are to be there.
        keys: values of the first key column of which `new` says all; None: it says all of the table.
    """
    if target is None:
        nowhere = pa.schema([*(new.schema.field(name) for name in key), pa.field(_FILE, pa.string())])
        return Difference(new.schema.empty_table(), new), nowhere.empty_table()
    with reader(lake) as connection:
        connection.register("new", new)
        if keys is not None:
            connection.register("silver_keys", keys)
        # A column that the table does not have yet, or has in another type, is null in what it holds.
        held, wanted = column_types(target), column_types(new)
        known = [name for name, kind in wanted.items() if held.get(name) == kind]
        columns = ", ".join(quote(name) if name in known else f"NULL AS {quote(name)}" for name in wanted)
        shape = pa.schema(target.schema().to_arrow())
        of_keys = None if keys is None else "silver_keys"
        rows = lake.data.rows(lake, connection, _Files(target).paths, shape, known, keys=of_keys, on=key[:1])
        connection.execute(f"CREATE TEMP TABLE old AS SELECT *, ''::VARCHAR AS {_FILE} FROM new WHERE false")
        connection.execute(f"INSERT INTO old SELECT {columns}, {_FILE} FROM {rows}")
        connection.execute(f"CREATE TEMP TABLE differs AS SELECT * EXCLUDE ({_FILE}) FROM old EXCEPT FROM new")
        lying = connection.sql(
            f"SELECT DISTINCT {_names(key)}, {_FILE} FROM old SEMI JOIN differs USING ({_names(key)})"
        ).to_arrow_table()
        fresh = connection.sql(f"FROM new EXCEPT SELECT * EXCLUDE ({_FILE}) FROM old").to_arrow_table()
        return Difference(connection.sql("FROM differs").to_arrow_table(), fresh), lying


def gone(key: tuple[str, ...], difference: Difference) -> int:
    """How many keys of old rows have no row any more."""
    old, new = (rows.select(key).group_by(list(key)).aggregate([]) for rows in (difference.old, difference.new))
    return int(old.join(new, list(key), join_type="left anti").num_rows)


def write(
    lake: Lake,
    target: DeltaTable,
    key: tuple[str, ...],
    difference: Difference,
    lying: pa.Table,
    tokens: Mapping[str, int],
) -> None:
    """Commit a difference (see `difference_to_held`), and the tokens with it; also where nothing changed.

    Raises:
        CommitFailedError: somebody else committed since the table was opened; no row was written.
    """
    files = _Files(target)
    homes = pc.unique(lying[_FILE]).to_pylist()
    fresh = difference.new.num_rows - difference.old.num_rows
    if fresh > 0 and (smallest := files.smallest(fresh)) and smallest not in homes:
        homes.append(smallest)
    new = [file for path, rows in _homes(key, difference, lying, homes) for file in _in_place(files, path, rows)]
    exchange(target, lake.data.write(lake, target, new), [files.old(path) for path in homes], tokens)


def _homes(
    key: tuple[str, ...], difference: Difference, lying: pa.Table, paths: list[str]
) -> Iterator[tuple[_Replaced | None, pa.Table]]:
    """Each of these files, and the rows that go into it: those of its keys, into the last one all the others too."""
    rest = difference.new
    old = difference.old.select(key)
    with connect() as connection:
        for path in paths[:-1]:
            connection.register("rest", rest)
            connection.register("known", lying.filter(pc.equal(lying[_FILE], path)))
            mine = connection.sql(f"FROM rest SEMI JOIN known USING ({_names(key)})").to_arrow_table()
            rest = connection.sql(f"FROM rest ANTI JOIN known USING ({_names(key)})").to_arrow_table()
            yield _Replaced(path, old), mine
    yield _Replaced(paths[-1], old) if paths else None, rest


@dataclass(frozen=True)
class _Replaced:
    """A file that is written anew, and the keys of the rows that do not stay as they are."""

    path: str
    keys: pa.Table


def _in_place(files: _Files, replaced: _Replaced | None, rows: pa.Table) -> Iterator[NewFile]:
    """The files that take the place of one, or are new."""
    kept, keys, held = ([replaced.path], replaced.keys, files.rows(replaced.path)) if replaced else ([], None, 0)
    # A file may grow by half before it is cut, so that none is much smaller than the others.
    if held + rows.num_rows <= FILE_ROWS * 3 // 2:
        yield NewFile(rows, kept, keys)
        return
    if kept:
        yield NewFile(None, kept, keys)
    for first in range(0, rows.num_rows, FILE_ROWS):
        yield NewFile(rows.slice(first, FILE_ROWS))


class _Files:
    """The files of a table."""

    def __init__(self, table: DeltaTable) -> None:
        root = root_of(table)
        found = pa.table(table.get_add_actions(flatten=True)).to_pylist()
        self._files = {f"{root}/{file['path']}": file for file in found}

    @property
    def paths(self) -> list[str]:
        return list(self._files)

    def smallest(self, more: int) -> str | None:
        """The smallest one, if it has room for so many rows."""
        path = min(self._files, key=lambda path: self._files[path]["num_records"], default=None)
        return path if path and self._files[path]["num_records"] + more <= FILE_ROWS else None

    def rows(self, path: str) -> int:
        return int(self._files[path]["num_records"])

    def old(self, path: str) -> OldFile:
        return OldFile(self._files[path]["path"], self._files[path]["size_bytes"])


def _names(columns: tuple[str, ...]) -> str:
    return ", ".join(quote(column) for column in columns)
