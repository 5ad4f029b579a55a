"""The law of bronze, as DuckDB SQL: which change of a key is the newest, and what it does to the table.

The order of two changes of one key is the contract's order columns, a missing change_seq below any present one.
Equal order with a change_seq means the same change: a delete wins, else the greatest row by its canonical text.
Only where change_seq is missing and modified_date ties do object key and row number decide. The rows of a full
load, which show what all changes up to its position came to, stand above the changes at that position.

Everything here is an expression over rows; nothing reads or writes a table, so the law can be tested without one.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from datetime import date, datetime

import pyarrow as pa

from upsell_assets.contracts import Contract, arrow_type
from upsell_assets.lake.duck import quote, text
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE
from upsell_assets.raw.landing import full_load_prefix


def same_key(contract: Contract, left: str, right: str) -> str:
    """Condition: both rows have the same key."""
    return " AND ".join(f"{left}.{quote(name)} = {right}.{quote(name)}" for name in contract.key)


def position_terms(contract: Contract, row: str) -> list[str]:
    """The contract's order columns of a row, as terms that compare from left to right and are never null."""
    return [*_position(contract, row).values()]


def _position(contract: Contract, row: str) -> dict[str, str]:
    terms: dict[str, str] = {}
    for column in contract.order:
        if column == "modified_date":
            terms["modified_date"] = f"coalesce({row}.{MODIFIED}, TIMESTAMPTZ '-infinity')"
        else:
            # Which value stands for a missing one does not matter: the term before has decided.
            kind = arrow_type(contract.change_seq_type)
            some = "'1970-01-01'" if pa.types.is_timestamp(kind) or pa.types.is_date(kind) else "'0'"
            terms["sequenced"] = f"({row}.{SEQUENCE} IS NOT NULL)"
            terms["change_seq"] = f"coalesce({row}.{SEQUENCE}, {some})"
    return terms


def place_terms(contract: Contract, row: str) -> list[str]:
    """A row's position, and its rank there: a change, the delete that a full load's end means, a row of a load.

    The rank follows from the row's file; the delete of a load's end carries the folder of the loads as its file.
    """
    return [*_place(contract, row).values()]


def _place(contract: Contract, row: str) -> dict[str, str]:
    folder = text(full_load_prefix(contract))
    file = f"{row}.{FILE}"
    rank = f"CASE WHEN {file} = {folder} THEN 1 WHEN starts_with({file}, {folder}) THEN 2 ELSE 0 END"
    return {**_position(contract, row), "load": rank}


def order_terms(contract: Contract, row: str, columns: Iterable[str]) -> list[str]:
    """The full order of a change: its place, then what decides between changes at one place.

    `columns` are those of the row that its canonical text is made of; a tombstone has none. The last terms leave
    only copies of one change equal, so that which of them is kept cannot be seen.
    """
    return [*_order(contract, row, columns).values()]


def _order(contract: Contract, row: str, columns: Iterable[str]) -> dict[str, str]:
    sequenced = f"({row}.{SEQUENCE} IS NOT NULL)" if "change_seq" in contract.order else "false"
    deleted = f"({row}.{OP} = 'D')"
    return {
        **_place(contract, row),
        "file": f"CASE WHEN {sequenced} THEN '' ELSE coalesce({row}.{FILE}, '') END",
        "row": f"CASE WHEN {sequenced} THEN 0 ELSE coalesce({row}.{ROW}, 0) END",
        "delete": deleted,
        "text": f"CASE WHEN {deleted} THEN '' ELSE {canonical_text(row, columns)} END",
        "operation": f"{row}.{OP}",
        "committed": f"coalesce({row}.{MODIFIED}, TIMESTAMPTZ '-infinity')",
    }


def decided_by(
    contract: Contract, left: str, right: str, left_columns: Iterable[str], right_columns: Iterable[str]
) -> str:
    """Expression: the name of the first term of the full order that tells two changes apart; null: they are copies.

    The names are modified_date, sequenced (one has a change_seq), change_seq, load (the rank at one position), file, row,
    delete, text, operation and committed (modified_date once more, where the contract does not order by it).
    """
    here, there = _order(contract, left, left_columns), _order(contract, right, right_columns)
    cases = [f"WHEN {here[name]} <> {there[name]} THEN {text(name)}" for name in here]
    return f"CASE {' '.join(cases)} END"


def settled_by(contract: Contract, row: str, floor: str) -> str:
    """Condition: the row lies at or below the floor of a full load, which may be a row of nulls: there is none."""
    return f"({floor}.{OP} IS NOT NULL AND NOT {newer(place_terms(contract, row), place_terms(contract, floor))})"


def canonical_text(row: str, columns: Iterable[str]) -> str:
    """A row's text: name and value of its columns, in the order of their lower-case names.

    Nulls are left out, so that a column added later changes nothing; values are quoted, so that no two rows have
    the same text.
    """
    parts = [
        f"{text(text(name.lower()) + ':')} || '''' || replace({row}.{quote(name)}::VARCHAR, '''', '''''') || ''''"
        for name in sorted(columns, key=str.lower)
    ]
    return f"concat({', '.join(parts)})" if parts else "''"


def newer(left: list[str], right: list[str], *, or_equal: bool = False) -> str:
    """Condition: the left terms come after the right ones."""
    return f"(({', '.join(left)}) {'>=' if or_equal else '>'} ({', '.join(right)}))"


_COMPARED = ("text", OP, MODIFIED)
"""What the last terms of the full order are made of."""


def beats(
    contract: Contract,
    left: str,
    right: str,
    left_columns: Sequence[str] = (),
    right_columns: Sequence[str] = (),
    *,
    at_equal: str = "false",
) -> str:
    """Condition: the left change comes after the right one in the full order (see `order_terms`).

    `at_equal` is the condition that decides where neither does.
    """
    here, there = position_terms(contract, left), position_terms(contract, right)
    change, other = order_terms(contract, left, left_columns), order_terms(contract, right, right_columns)
    # Positions first, then copies: texts are made of few rows.
    copies = ""
    if left_columns and sorted(left_columns) == sorted(right_columns):
        pairs = [*zip(change[: -len(_COMPARED)], other[: -len(_COMPARED)], strict=True)]
        pairs += [(f"{left}.{name}", f"{right}.{name}") for name in (*_COMPARED[1:], *map(quote, left_columns))]
        same = " AND ".join(f"{a} IS NOT DISTINCT FROM {b}" for a, b in pairs)
        copies = f"WHEN {same} THEN {at_equal} "
    return (
        f"CASE WHEN ({', '.join(here)}) <> ({', '.join(there)}) THEN {newer(here, there)} {copies}"
        f"ELSE {newer([*change, at_equal], [*other, 'false'])} END"
    )


def newest_per_key(contract: Contract, relation: str, columns: Iterable[str]) -> str:
    """Query: one row a key, the newest by the law."""
    keys = ", ".join(quote(name) for name in contract.key)
    order = ", ".join(f"{term} DESC" for term in order_terms(contract, "c", columns))
    several = f"(SELECT {keys} FROM {relation} GROUP BY {keys} HAVING count(*) > 1)"
    # Most keys of a batch have one change, which needs no order.
    return (
        f"SELECT c.* FROM {relation} AS c ANTI JOIN {several} AS k ON {same_key(contract, 'c', 'k')} UNION ALL "
        f"SELECT c.* FROM (SELECT c.* FROM {relation} AS c SEMI JOIN {several} AS k ON {same_key(contract, 'c', 'k')}) AS c "
        f"QUALIFY row_number() OVER (PARTITION BY {', '.join(f'c.{quote(name)}' for name in contract.key)} ORDER BY {order}) = 1"
    )


def newest_floor(contract: Contract) -> str:
    """Query over `floors`, the positions of ended full loads: the newest, as the delete that its end means."""
    order = ", ".join(f"{term} DESC" for term in position_terms(contract, "f"))
    return (
        f"SELECT f.{MODIFIED}, f.{SEQUENCE}, 'D' AS {OP}, {text(full_load_prefix(contract))} AS {FILE}, "
        f"NULL::BIGINT AS {ROW} FROM floors AS f ORDER BY {order} LIMIT 1"
    )


def below_floor(contract: Contract) -> str:
    """Query over `live_rows`, `tombstone_rows` and `floor`: that delete, for each key last heard of below it."""
    keys = ", ".join(f"r.{quote(name)}" for name in contract.key)
    older = newer(place_terms(contract, "f"), place_terms(contract, "r"))
    return " UNION ".join(
        f"SELECT {keys}, f.* FROM {rows} AS r CROSS JOIN floor AS f WHERE {older}"
        for rows in ("live_rows", "tombstone_rows")
    )


def may_be_below(contract: Contract, row: str, floor: tuple[datetime | None, object]) -> str:
    """Condition that all rows meet which lie below a floor (its modified_date and change_seq), and few of its own load.

    Simple enough for any engine to read few rows by it; `below_floor` decides.
    """
    moment, sequence = (_literal(value) for value in floor)
    first, value = (MODIFIED, moment) if contract.order[0] == "modified_date" else (SEQUENCE, sequence)
    of_load = (
        f"coalesce(starts_with({row}.{FILE}, {text(full_load_prefix(contract))}), false) AND "
        f"{row}.{MODIFIED} IS NOT DISTINCT FROM {moment} AND {row}.{SEQUENCE} IS NOT DISTINCT FROM {sequence}"
    )
    return f"({row}.{first} IS NULL OR {row}.{first} <= {value}) AND NOT ({of_load})"


def _literal(value: object) -> str:
    if isinstance(value, datetime):
        return f"TIMESTAMPTZ {text(value.isoformat())}"
    if isinstance(value, date):
        return f"DATE {text(value.isoformat())}"
    return "NULL" if value is None else text(value) if isinstance(value, str) else str(value)


def settled(contract: Contract, columns: Iterable[str], *, keys_differ: bool = False, floored: bool = True) -> str:
    """Query over `received` and `floor`: one row a key, its newest change, or the delete that the floor means for it.

    What comes late, at or below the floor of a full load, says no more than that the load's end deletes its key,
    which a row of the load itself, or anything newer, survives. `floor` holds at most one row. `keys_differ` says
    that no key comes twice, and spares the query the choice; without `floored` there is no floor.
    """
    if not floored:
        return "FROM received" if keys_differ else newest_per_key(contract, "received", columns)
    late = settled_by(contract, "c", "f")
    said = ", ".join(
        f"CASE WHEN {late} THEN f.{column} ELSE c.{column} END AS {column}"
        for column in (OP, MODIFIED, SEQUENCE, FILE, ROW)
    )
    return f"""
        WITH settled AS (SELECT c.* REPLACE ({said}) FROM received AS c LEFT JOIN floor AS f ON true)
        {"FROM settled" if keys_differ else newest_per_key(contract, "settled", columns)}
    """


def unheard() -> str:
    """Query over `changes`: what `judged` says of keys that neither `live` nor `tombstones` knows."""
    return f"SELECT *, {OP} <> 'D' AS _upsert, false AS _delete, {OP} = 'D' AS _bury FROM changes"


def judged(
    contract: Contract, columns: Sequence[str], live_columns: Sequence[str], *, tombstones_differ: bool = False
) -> str:
    """Query over `changes` (see `settled`), `live` and `tombstones`: what the newest change of each key does.

    Adds to the change's columns: `_upsert` (write the row), `_delete` (a live row goes) and `_bury` (remember the
    delete). `live` holds one row a key, and `tombstones` too where their keys are said to differ.

    A delete is never held back by tombstones: after a crash between the commit of the tombstone and that of the
    delete, the live row would stay for ever.
    """
    key = quote(contract.key[0])
    no_live, no_grave = f"l.{key} IS NULL", f"t.{key} IS NULL"
    # A delete at the place of the live row is the one that was remembered before it was done.
    alive = beats(contract, "s", "l", columns, live_columns, at_equal=f"s.{OP} = 'D'")
    buried = beats(contract, "s", "t", columns)
    return f"""
        WITH buried AS ({"FROM tombstones" if tombstones_differ else newest_per_key(contract, "tombstones", ())}),
             compared AS (
                SELECT s.*,
                    CASE WHEN {no_live} THEN true ELSE {alive} END AS _beats_live,
                    CASE WHEN {no_grave} THEN true ELSE {buried} END AS _beats_tombstone,
                    NOT ({no_live}) AS _lives
                FROM changes AS s
                LEFT JOIN live AS l ON {same_key(contract, "s", "l")}
                LEFT JOIN buried AS t ON {same_key(contract, "s", "t")}
             )
        SELECT * EXCLUDE (_beats_live, _beats_tombstone, _lives),
            {OP} <> 'D' AND _beats_tombstone AND _beats_live AS _upsert,
            {OP} = 'D' AND _lives AND _beats_live AS _delete,
            {OP} = 'D' AND _beats_tombstone AND _beats_live AS _bury
        FROM compared
    """
