"""What the source database's catalog says of a table, and the contract that follows from it.

Here: columns, types and keys, read from `pg_catalog` alone, so that no right on any table is needed. Not here: rows,
and the text of the contract (`contracts.propose`). Types have the names under which capture writes them (`values`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from upsell_assets.capture.pgoutput import Column
from upsell_assets.capture.values import source_type
from upsell_assets.contracts import undeclarable
from upsell_assets.contracts.propose import Proposal, ProposedColumn, lake_name
from upsell_assets.errors import PermanentError
from upsell_assets.source.database import Connection, database_errors

_TEXT = {18, 19, 25, 1042, 1043, 2950}
"""Types that nobody wonders about when they are text: "char", name, text, char, varchar, uuid."""

_DATES = ("date", "timestamp")
_BIRTH = re.compile(r"creat|cria|cadastr|regist|insert|placed|emiss|emit|occur|event|^dt|^dat[ae]", re.IGNORECASE)
_CHANGE = re.compile(r"updat|modif|alter|atualiz|chang|delet|exclu|expir|venc|last|ultim|end|fim", re.IGNORECASE)


@dataclass(frozen=True)
class SourceColumn:
    """A column of a source table.

    Attributes:
        column: as capture sees it.
        spelled: its type, as the database spells it.
        base: the same column with the type under its domain, where it has one.
        enum: whether its type is an enumeration.
        required: whether it cannot be null.
    """

    column: Column
    spelled: str
    base: Column
    enum: bool
    required: bool

    @property
    def name(self) -> str:
        """The column's name."""
        return self.column.name


@dataclass(frozen=True)
class SourceTable:
    """A table; `keys` are the column sets that cannot be null or double: the primary key first, if `primary`."""

    schema: str
    name: str
    columns: tuple[SourceColumn, ...]
    keys: tuple[tuple[str, ...], ...]
    primary: bool
    generated: tuple[str, ...]


def table_names(connection: Connection, schema: str) -> list[str]:
    """The tables of a schema that can be captured (partitions are captured as their whole), by name."""
    with database_errors(f"reading the catalog of {schema}"):
        rows = connection.execute(
            "SELECT c.relname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s "
            "AND c.relkind IN ('r', 'p') AND NOT c.relispartition AND c.relpersistence = 'p' ORDER BY c.relname",
            [schema],
        )
        return [row[0] for row in rows]


def find_table(connection: Connection, schema: str, name: str) -> SourceTable | None:
    """A table of the schema that can be captured, or None."""
    if name not in table_names(connection, schema):
        return None
    with database_errors(f"reading the catalog of {schema}.{name}"):
        found = connection.execute(
            "SELECT c.oid::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace "
            "WHERE (n.nspname, c.relname) = (%s, %s)",
            [schema, name],
        ).fetchone()
        columns = connection.execute(_COLUMNS, found).fetchall()
        keys = connection.execute(_KEYS, found).fetchall()
    return SourceTable(
        schema,
        name,
        tuple(
            SourceColumn(Column(*row[:3]), row[3], Column(row[0], *row[4:6]), *row[6:8]) for row in columns if row[8]
        ),
        tuple(tuple(row[0]) for row in keys),
        primary=any(row[1] for row in keys),
        generated=tuple(row[0] for row in columns if not row[8]),
    )


_COLUMNS = """
SELECT a.attname, a.atttypid::bigint, a.atttypmod, format_type(a.atttypid, a.atttypmod),
       CASE t.typtype WHEN 'd' THEN t.typbasetype ELSE a.atttypid END::bigint,
       CASE t.typtype WHEN 'd' THEN t.typtypmod ELSE a.atttypmod END,
       t.typtype = 'e', a.attnotnull OR t.typnotnull, a.attgenerated = ''
FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
WHERE a.attrelid = %s AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum
"""

# Of a partial index, or one of expressions, rows outside of it may double; so may rows with a null.
_KEYS = """
SELECT k.names, i.indisprimary
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid CROSS JOIN LATERAL (
    SELECT array_agg(a.attname::text ORDER BY p.place) AS names, bool_and(a.attnotnull) AS required
    FROM unnest(i.indkey::int2[]) WITH ORDINALITY AS p(number, place)
    JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = p.number WHERE p.place <= i.indnkeyatts
) k
WHERE i.indrelid = %s AND i.indisunique AND i.indisvalid AND i.indpred IS NULL AND i.indexprs IS NULL AND k.required
ORDER BY i.indisprimary DESC, i.indnkeyatts, c.relname
"""


def propose_tables(
    connection: Connection, *, into: str | None, default_schema: str, names: Sequence[str] = ()
) -> list[Proposal]:
    """Contracts of the named tables, of all tables of the default schema where none is named.

    Args:
        connection: of any role of the database.
        into: the lake's schema; None: named after the database.
        default_schema: where tables are by default.
        names: tables of it, or `schema.table` of another.

    Raises:
        PermanentError: there is no such table, or none at all; or a contract cannot say where it is.
    """
    schema = into or lake_name(connection.info.dbname)
    if schema != lake_name(schema):
        raise PermanentError(f"--schema {schema}: is no name of the lake (letters, digits and _, a letter first).")
    known = table_names(connection, default_schema)
    if not names and not known:
        raise PermanentError(
            f"contract init: schema {default_schema} of database {connection.info.dbname} has no tables. Check "
            "UPSELL_SOURCE_SCHEMA and UPSELL_SOURCE_DSN, or name tables as schema.table."
        )
    return [propose(_table(connection, default_schema, name, known), schema, default_schema) for name in names or known]


def _table(connection: Connection, schema: str, name: str, known: Sequence[str]) -> SourceTable:
    elsewhere, dot, rest = name.partition(".")
    found = find_table(connection, schema, name) or (find_table(connection, elsewhere, rest) if dot else None)
    if found is None:
        raise PermanentError(
            f"contract init: database {connection.info.dbname} has no table {name}; schema {schema} has "
            f"{', '.join(known) or 'none'}. Tables of another schema are named schema.table."
        )
    return found


def propose(table: SourceTable, schema: str, default_schema: str) -> Proposal:
    """The contract of a table for our own capture.

    Args:
        table: as the catalog has it.
        schema: the lake's.
        default_schema: where source tables are by default.

    Raises:
        PermanentError: the schema's name has a dot, which a contract cannot say.
    """
    columns, left_out = _columns(table)
    declared = {column.name for column in columns}
    keys = [key for key in table.keys if declared.issuperset(key)]
    return Proposal(
        origin=f"the source database's table {table.schema}.{table.name}",
        schema=schema,
        table=lake_name(table.name),
        source_table=_source_table(table, default_schema),
        key=keys[0] if keys else (),
        key_notes=tuple(_key_notes(table, keys)),
        columns=tuple(columns),
        left_out=tuple(left_out),
        dates=tuple(_dates(table, declared)),
    )


def _source_table(table: SourceTable, default_schema: str) -> str | None:
    if table.schema == default_schema and "." not in table.name:
        return None if table.name == lake_name(table.name) else table.name
    if "." in table.schema:
        raise PermanentError(
            f"contract init: a contract cannot name table {table.name} of schema {table.schema}, because of the dots. "
            "Set UPSELL_SOURCE_SCHEMA to that schema, or rename one of the two."
        )
    return f"{table.schema}.{table.name}"


def _columns(table: SourceTable) -> tuple[list[ProposedColumn], list[tuple[str, str]]]:
    """The columns to declare, and those that cannot be; of names that differ only in case capture keeps the first."""
    kept: dict[str, ProposedColumn] = {}
    left_out = [(name, "it is generated, and the database does not stream it") for name in table.generated]
    for column in table.columns:
        lowered = column.name.lower()
        if why := undeclarable(column.name):
            left_out.append((column.name, why))
        elif lowered in kept:
            left_out.append((column.name, f"it differs from {kept[lowered].name} only in case; declare one of the two"))
        else:
            kept[lowered] = ProposedColumn(column.name, source_type(column.column), _type_note(column))
    return [*kept.values()], left_out


def _type_note(column: SourceColumn) -> str:
    if source_type(column.column) != "string" or column.column.type_oid in _TEXT:
        return ""
    if column.enum:
        return f"enum {column.spelled}"
    if column.base != column.column:
        base = source_type(column.base)
        return f"? domain {column.spelled}, kept as text" + (f"; {base} fits too" if base != "string" else "")
    return f"? {column.spelled}, kept as text"


def _key_notes(table: SourceTable, keys: Sequence[Sequence[str]]) -> Iterator[str]:
    if table.primary and keys and keys[0] == table.keys[0]:
        return
    lost = [", ".join(key) for key in table.keys if key not in keys]
    if lost:
        yield f"? what cannot be null or double in the source has a column that is left out: {'; '.join(lost)}"
    if not keys:
        yield "? which columns tell rows apart? The table has no primary key, and no unique index without nulls."
        return
    yield "? no primary key: this is a unique index whose columns cannot be null; does it ever change for a row?"
    if others := keys[1:]:
        yield f"? others are {'; '.join(', '.join(key) for key in others)}"


def _dates(table: SourceTable, declared: set[str]) -> Iterator[tuple[str, str]]:
    for column in table.columns:
        born = _BIRTH.search(column.name) and not _CHANGE.search(column.name)
        if born and column.required and column.name in declared and source_type(column.column) in _DATES:
            yield column.name, "does it never change for a key? Then merges read its months only"
