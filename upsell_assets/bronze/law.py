"""The law of bronze, as DuckDB SQL: which change of a key is the newest, and what it does to the table.

The order of two changes of one key is the contract's order columns, a missing change_seq below any present one.
Equal order with a change_seq means the same change: a delete wins, else the greatest row by its canonical text.
Only where change_seq is missing and modified_date ties do object key and row number decide. Everything here is
an expression over rows; nothing reads or writes a table, so the law can be tested without one.
"""

from __future__ import annotations

from collections.abc import Iterable

import pyarrow as pa

from upsell_assets.contracts import Contract, arrow_type
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE


def quote(name: str) -> str:
    """An identifier, quoted."""
    return '"' + name.replace('"', '""') + '"'


def same_key(contract: Contract, left: str, right: str) -> str:
    """Condition: both rows have the same key."""
    return " AND ".join(f"{left}.{quote(name)} = {right}.{quote(name)}" for name in contract.key)


def position_terms(contract: Contract, row: str) -> list[str]:
    """The contract's order columns of a row, as terms that compare from left to right and are never null."""
    terms: list[str] = []
    for column in contract.order:
        if column == "modified_date":
            terms.append(f"coalesce({row}.{MODIFIED}, TIMESTAMPTZ '-infinity')")
        else:
            lowest = "''" if pa.types.is_string(arrow_type(contract.change_seq_type)) else "0"
            terms += [f"({row}.{SEQUENCE} IS NOT NULL)", f"coalesce({row}.{SEQUENCE}, {lowest})"]
    return terms


def order_terms(contract: Contract, row: str, columns: Iterable[str]) -> list[str]:
    """The full order of a change: its position, then what decides between changes at one position.

    `columns` are those of the row that its canonical text is made of; a tombstone has none.
    """
    sequenced = f"({row}.{SEQUENCE} IS NOT NULL)" if "change_seq" in contract.order else "false"
    deleted = f"({row}.{OP} = 'D')"
    text = canonical_text(row, columns)
    return [
        *position_terms(contract, row),
        f"({sequenced} AND {deleted})",
        f"CASE WHEN {sequenced} AND NOT {deleted} THEN {text} ELSE '' END",
        f"CASE WHEN {sequenced} THEN '' ELSE coalesce({row}.{FILE}, '') END",
        f"CASE WHEN {sequenced} THEN 0 ELSE coalesce({row}.{ROW}, 0) END",
    ]


def canonical_text(row: str, columns: Iterable[str]) -> str:
    """A row's text: its values by column name, nulls left out, so that a column added later changes nothing."""
    parts = [
        f"CASE WHEN {row}.{quote(name)} IS NULL THEN '' ELSE {_text(name)} || ':' || {row}.{quote(name)}::VARCHAR END"
        for name in sorted(columns)
    ]
    return f"concat_ws(chr(31), {', '.join(parts)})" if parts else "''"


def _text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"


def newer(left: list[str], right: list[str], *, or_equal: bool = False) -> str:
    """Condition: the left terms come after the right ones."""
    return f"(({', '.join(left)}) {'>=' if or_equal else '>'} ({', '.join(right)}))"


def newest_per_key(contract: Contract, relation: str, columns: Iterable[str]) -> str:
    """Query: one row a key, the newest by the law."""
    keys = ", ".join(f"c.{quote(name)}" for name in contract.key)
    order = ", ".join(f"{term} DESC" for term in order_terms(contract, "c", columns))
    return f"SELECT c.* FROM {relation} AS c QUALIFY row_number() OVER (PARTITION BY {keys} ORDER BY {order}) = 1"


def judged(contract: Contract, columns: Iterable[str], live_columns: Iterable[str]) -> str:
    """Query over `changes`, `live`, `tombstones` and `floor`: the newest change of each key and what it does.

    Adds to the change's columns: `_upsert` (write the row), `_delete` (a live row goes), `_bury` (remember the
    delete) and `_late` (at or below the floor of a full load: it counts as a delete at the floor, which a row of
    the load itself, or anything newer, survives).

    A delete is never held back by tombstones: after a crash between the commit of the tombstone and that of the
    delete, the live row would stay for ever. `live` holds one row a key, `floor` at most one row; the rows of a
    load pass an empty floor unless theirs is older.
    """
    change = order_terms(contract, "s", columns)
    alive = order_terms(contract, "l", live_columns)
    buried = order_terms(contract, "t", ())
    at_floor = position_terms(contract, "f")
    key = quote(contract.key[0])
    no_live, no_tombstone = f"l.{key} IS NULL", f"t.{key} IS NULL"
    late = f"(f._present IS NOT NULL AND NOT {newer(position_terms(contract, 's'), at_floor)})"
    floor_beats_live = f"({no_live} OR {newer(at_floor, position_terms(contract, 'l'))})"
    floor_beats_tombstone = f"({no_tombstone} OR {newer(at_floor, position_terms(contract, 't'))})"
    beats_tombstone = f"({no_tombstone} OR {newer(change, buried)})"
    reaches_live = f"({no_live} OR {newer(change, alive, or_equal=True)})"
    return f"""
        WITH newest AS ({newest_per_key(contract, "changes", columns)}),
             buried AS ({newest_per_key(contract, "tombstones", ())})
        SELECT s.*, {late} AS _late,
            NOT {late} AND s.{OP} <> 'D' AND {beats_tombstone} AND ({no_live} OR {newer(change, alive)}) AS _upsert,
            NOT {late} AND s.{OP} = 'D' AND NOT ({no_live}) AND {newer(change, alive, or_equal=True)} AS _delete,
            CASE WHEN {late} THEN {floor_beats_live} AND {floor_beats_tombstone}
                 ELSE s.{OP} = 'D' AND {beats_tombstone} AND {reaches_live} END AS _bury
        FROM newest AS s
        LEFT JOIN live AS l ON {same_key(contract, "s", "l")}
        LEFT JOIN buried AS t ON {same_key(contract, "s", "t")}
        LEFT JOIN floor AS f ON true
    """
