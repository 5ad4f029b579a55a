"""Dumps of the points system into its tables: all of them in one transaction, or nothing.

Here: rows going in, the columns that are added to the tables for them, and what the database's faults say. Not here:
which dump it is (`dumps`), how its files are read (`dump_files`), and generated rows (`simulator`). What a value must
be is decided by the database, except dates, whose zone it would drop without a word.
"""

from __future__ import annotations

import logging
import re
from array import array
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg
from psycopg import sql

from upsell_assets.contracts import undeclarable
from upsell_assets.errors import PermanentError
from upsell_assets.source.database import TABLES, Connection, copy_statement, database_errors
from upsell_assets.source.dump_files import Rows, fault
from upsell_assets.source.dump_values import Instants, Kind
from upsell_assets.source.dumps import OPTIONAL, Dump, Origin, opened, places_of

logger = logging.getLogger(__name__)

_PROGRESS_ROWS = 10_000
_COPY_LINE = re.compile(r"^COPY [^,]+, line (\d+)(?:, column ([^:]+))?", re.MULTILINE)
_TIMESTAMP = "timestamp without time zone"
_SHOWN = 10  # products without a name, in a warning
_LONGEST_NAME = 63  # bytes; PostgreSQL would cut the rest off
_SYSTEM_COLUMNS = frozenset({"tableoid", "xmin", "cmin", "xmax", "cmax", "ctid"})

Progress = Callable[[str, int], None]
"""Called with a table's name and its rows so far."""


def load_dump(
    connection: Connection, path: Path, schema: str = "public", progress: Progress | None = None
) -> dict[str, int]:
    """Add the rows of a dump to the source tables; the dump is a folder of CSV files, or an SQLite file.

    Tables and columns are those of 2024 or those of today (see `dumps`), found without case, in any order. An empty
    value is null. Dates are ISO, in UTC or with an offset, and are stored in UTC to the millisecond; MySQL's zero
    dates become null. A product's name is looked up by its id; of an id without a name it is null, since a name of our
    own would be a product. A column that the table does not have is added to it, nullable, with the type that all its
    values have (see `Kind`). What was left out or became null is said by warnings in the log.

    Returns:
        Rows loaded, by table.

    Raises:
        PermanentError: a file, a column or a value is not what it must be; file, line (or rowid) and reason are named,
            and nothing was loaded.
        RetryableError: the database was lost on the way; nothing was loaded.
    """
    with opened(path) as dump, database_errors(f"loading {path}"), connection.transaction():
        names = dump.product_names()
        return {table: _load_table(connection, dump, schema, table, names, progress) for table in TABLES}


class _Names:
    """Names of products by id; ids without one become null, and are kept to be shown."""

    def __init__(self, names: Mapping[str, str]) -> None:
        self._names = names
        self.unknown: set[str] = set()

    def __call__(self, product: str) -> str | None:
        name = self._names.get(product)
        if name is None:
            self.unknown.add(product)
        return name


@dataclass(frozen=True)
class _Field:
    """A column of a source table, the dump's column that it is made of, and where that stands."""

    column: str
    source: str
    place: int
    convert: Instants | _Names | None = None


def _load_table(
    connection: Connection, dump: Dump, schema: str, table: str, names: Mapping[str, str], progress: Progress | None
) -> int:
    origin = dump.shape.origins[table]
    rows = dump.rows[origin.table]
    fields = _declared(table, origin, rows, names) + _undeclared(connection, schema, table, origin, rows)
    positions = array("q")  # where every row stands in the dump, since the database counts rows
    copy_rows = copy_statement(schema, table, [field.column for field in fields])
    try:
        with connection.cursor() as cursor, cursor.copy(copy_rows) as copy:
            for position, values in rows:
                positions.append(position)
                copy.write_row(_converted(rows, position, values, fields))
                if progress and len(positions) % _PROGRESS_ROWS == 0:
                    progress(table, len(positions))
    except (psycopg.DataError, psycopg.IntegrityError) as error:
        raise _fault(rows, positions, fields, error) from error
    if progress:
        progress(table, len(positions))
    for field in fields:
        _warn_of_nulls(rows, field)
    return len(positions)


def _declared(table: str, origin: Origin, rows: Rows, names: Mapping[str, str]) -> list[_Field]:
    """The columns of `ddl.sql`."""
    optional = {source for column, source in origin.columns.items() if column in OPTIONAL}
    places = places_of(rows, origin.columns.values(), optional)
    fields = []
    for column, source in origin.columns.items():
        if source in places:
            is_date = TABLES[table][column] == "timestamp"
            convert = Instants() if is_date else _Names(names) if column in origin.named else None
            fields.append(_Field(column, source, places[source], convert))
    return fields


def _undeclared(connection: Connection, schema: str, table: str, origin: Origin, rows: Rows) -> list[_Field]:
    """All other columns of the dump; the table gets those that it does not have."""
    used = {source.lower() for column, source in origin.columns.items() if column not in origin.named}
    others = [(place, name) for place, name in enumerate(rows.columns) if name.lower() not in used]
    ours = {column.lower() for column in TABLES[table]}
    kept = [(place, name) for place, name in others if name.lower() not in ours and _can_be_added(name)]
    if left_out := [name for place, name in others if (place, name) not in kept]:
        names = ", ".join(name or "(no name)" for name in left_out)
        logger.warning("%s: columns were left out, since the lake cannot have these names: %s.", rows.name, names)
    standing = _columns(connection, schema, table)
    if new := {place: name for place, name in kept if name.lower() not in standing}:
        _add_columns(connection, schema, table, rows, new)
        standing = _columns(connection, schema, table)
    fields = []
    for place, name in kept:
        column, kind = standing[name.lower()]
        fields.append(_Field(column, name, place, Instants() if kind == _TIMESTAMP else None))
    return fields


def _can_be_added(name: str) -> bool:
    return not undeclarable(name) and len(name.encode()) <= _LONGEST_NAME and name not in _SYSTEM_COLUMNS


def _columns(connection: Connection, schema: str, table: str) -> dict[str, tuple[str, str]]:
    """Names and types of the table's columns, by their names in lower case."""
    found = connection.execute(
        "SELECT attname, format_type(atttypid, NULL) FROM pg_attribute "
        "WHERE attrelid = %s::regclass AND attnum > 0 AND NOT attisdropped",
        [sql.Identifier(schema, table).as_string(connection)],
    )
    return {name.lower(): (name, kind) for name, kind in found}


def _add_columns(connection: Connection, schema: str, table: str, rows: Rows, names: Mapping[int, str]) -> None:
    """Add columns with the types that their values have; `names` are theirs, by their places in the dump."""
    kinds = {place: Kind() for place in names}
    for _, values in rows:
        for place, kind in kinds.items():
            if values[place]:
                kind.take(values[place])
    added = [
        sql.SQL("ADD COLUMN {} {}").format(sql.Identifier(names[place]), sql.SQL(kind.type))
        for place, kind in kinds.items()
    ]
    connection.execute(sql.SQL("ALTER TABLE {} {}").format(sql.Identifier(schema, table), sql.SQL(", ").join(added)))


def _converted(rows: Rows, position: int, values: list[str], fields: list[_Field]) -> list[str | datetime | None]:
    try:
        return [
            (field.convert(values[field.place]) if field.convert else values[field.place])
            if values[field.place]
            else None
            for field in fields
        ]
    except ValueError as error:
        raise fault(rows, position, str(error)) from None


def _fault(rows: Rows, positions: array[int], fields: list[_Field], error: psycopg.Error) -> PermanentError:
    where = _COPY_LINE.search(error.diag.context or "")
    position = positions[int(where[1]) - 1] if where else positions[-1]
    source = next((field.source for field in fields if where and field.column == where[2]), None)
    reason = error.diag.message_primary or str(error)
    if isinstance(error, psycopg.errors.UniqueViolation):
        reason = (error.diag.message_detail or reason).rstrip(".")
    return fault(rows, position, f"{reason}, column {source}" if source else reason)


def _warn_of_nulls(rows: Rows, field: _Field) -> None:
    """Say which values of a column had a text and became null."""
    if isinstance(field.convert, Instants) and field.convert.zeros:
        logger.warning("%s: zero dates of %s became null: %d.", rows.name, field.source, field.convert.zeros)
    elif isinstance(field.convert, _Names) and field.convert.unknown:
        unknown = sorted(field.convert.unknown)
        if len(unknown) > _SHOWN:
            unknown[_SHOWN:] = [f"and {len(unknown) - _SHOWN} more"]
        logger.warning("%s: products without a name, which is null in their lines: %s.", rows.name, ", ".join(unknown))
