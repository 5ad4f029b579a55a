"""One row a key: looked at before a commit shows the rows, and in whole tables.

A key that comes twice is counted twice by all that reads the table, so that such rows are not committed: readers go on
with the table of before. Not here: bronze, whose merge settles which row of a key counts (`bronze.law`).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from sqlglot import exp

from upsell_assets.errors import PermanentError
from upsell_assets.lake.files import root_of
from upsell_assets.lake.sql import parse_query

if TYPE_CHECKING:
    from upsell_assets.lake.tables import Lake

SHOWN = 20
"""Keys that a message or a check names at most."""

Keys = list[tuple[object, ...]]


class DoubledKeysError(PermanentError):
    """Rows were not committed, since several of them have one key.

    Attributes:
        table: the table that stays as it was.
        key: its key columns.
        keys: some of the keys.
        files: raw files that the rows came from, as far as they are known.
    """

    def __init__(self, table: str, key: Sequence[str], keys: Keys, files: Sequence[str] = ()) -> None:
        self.table, self.key, self.keys, self.files = table, tuple(key), keys, tuple(files)
        made_from = f", from {', '.join(self.files)}" if self.files else ""
        super().__init__(
            f"{table}: several rows have one key: {shown(self.key, keys)}{made_from}. Nothing was written, readers have "
            f"the table of before. Correct {table.split('.')[2]}.sql, or what it reads."
        )


def shown(key: Sequence[str], keys: Keys, limit: int = 5) -> str:
    """Keys as text: `dtRef, idCliente = 2024-02-01, a; ...`."""
    more = "; ..." if len(keys) > limit else ""
    return f"{', '.join(key)} = {'; '.join(', '.join(map(str, found)) for found in keys[:limit])}{more}"


def doubled(rows: pa.Table, key: Sequence[str]) -> Keys:
    """Keys (at most `SHOWN`) of several of these rows; a null is a value. Without a key there is one row at most."""
    if not key:
        return [()] if rows.num_rows > 1 else []
    if len(key) == 1 and pc.count_distinct(rows[key[0]], mode="all").as_py() == rows.num_rows:
        return []
    counted = rows.select(list(key)).group_by(list(key), use_threads=False).aggregate([([], "count_all")])
    several = counted.filter(pc.greater(counted["count_all"], 1)).select(list(key))
    return sorted((tuple(row.values()) for row in several.slice(0, SHOWN).to_pylist()), key=repr)


def doubled_in_table(lake: Lake, table: DeltaTable, key: Sequence[str]) -> Keys:
    """Keys (at most `SHOWN`) of several rows of a whole table; reads the key of every row, partition by partition."""
    columns = table.metadata().partition_columns
    own = [name for name in key if name not in columns]
    found: Keys = []
    for values, files in _parts(table, [name for name in columns if name in key]):
        if not own:
            found += [values] if sum(rows for _, rows in files) > 1 else []
        else:
            paths = [f"{root_of(table)}/{path}" for path, _ in files]
            with_part = dict(zip((name for name in columns if name in key), values, strict=True))
            found += [
                tuple(with_part.get(name, dict(zip(own, row, strict=True)).get(name)) for name in key)
                for row in doubled_in_files(lake, pa.schema(table.schema().to_arrow()), paths, own)
            ]
        if len(found) >= SHOWN:
            break
    return found[:SHOWN]


def _parts(table: DeltaTable, columns: list[str]) -> Iterable[tuple[tuple[object, ...], list[tuple[str, int]]]]:
    """The files (path, rows) of each partition, by its values of some columns."""
    parts: dict[tuple[object, ...], list[tuple[str, int]]] = {}
    for file in pa.table(table.get_add_actions(flatten=True)).to_pylist():
        values = tuple(file[f"partition.{name}"] for name in columns)
        parts.setdefault(values, []).append((file["path"], int(file["num_records"])))
    return sorted(parts.items(), key=repr)


def doubled_in_files(lake: Lake, shape: pa.Schema, paths: Sequence[str], key: Sequence[str]) -> Keys:
    """Keys (at most `SHOWN`) of several rows of files, of a table of that shape."""
    if not paths:
        return []
    columns = ", ".join(exp.column(name, "r", quoted=True).sql("spark") for name in key)
    # By hashes first: they are small, and hardly any comes twice.
    found = lake.data.ask(
        lake,
        paths,
        pa.schema([shape.field(name) for name in key]),
        parse_query(
            f"SELECT {columns} FROM rows AS r WHERE HASH({columns}) IN "
            f"(SELECT HASH({columns}) FROM rows AS r GROUP BY 1 HAVING COUNT(*) > 1) "
            f"GROUP BY {columns} HAVING COUNT(*) > 1 ORDER BY {columns} LIMIT {SHOWN}"
        ),
    )
    return [tuple(row.values()) for row in found.to_pylist()]
