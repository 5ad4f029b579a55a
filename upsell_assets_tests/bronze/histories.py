"""Random histories for the law: few keys, many ties, in any order of arrival; and how they look as Arrow rows.

Here also: the contracts that they are of, with an immutable date, with one that moves, and with none.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from io import BytesIO
from itertools import pairwise, product
from typing import Any
from zlib import crc32

import pyarrow as pa
import pyarrow.parquet as pq
from hypothesis import strategies as st
from oracle import Change, Expected, Key, Law, Load

from upsell_assets.contracts import Contract
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE, Position, change_schema
from upsell_assets.raw.landing import full_load_prefix

START = datetime(2024, 2, 1, tzinfo=UTC)


def contract(
    order: list[str],
    seq_type: str = "bigint",
    key: dict[str, str] | None = None,
    at: str | None = None,
    immutable_date: str | None = None,
) -> Contract:
    """A contract with two payload columns, and a third one of the type `at`, if it is given."""
    key = key or {"id": "string"}
    columns = {**key, "Name": "string", "points": "bigint"} | ({"at": at} if at else {})
    fields = {"schema": "s", "table": "t", "key": list(key), "columns": columns, "order": order}
    return Contract.model_validate({**fields, "change_seq_type": seq_type, "immutable_date": immutable_date})


BOTH = ["modified_date", "change_seq"]
_COMPOSITE = {"id": "string", "Line": "bigint"}
CONTRACTS = {
    "modified_date, change_seq": contract(BOTH),
    "modified_date": contract(["modified_date"]),
    "change_seq": contract(["change_seq"], "string"),
    "composite key": contract(BOTH, key=_COMPOSITE),
    "immutable date as text": contract(BOTH, at="string", immutable_date="at"),
    "immutable moment": contract(["change_seq"], "string", at="timestamp", immutable_date="at"),
    "immutable day, composite key": contract(["modified_date"], key=_COMPOSITE, at="date", immutable_date="at"),
    "moving date": contract(BOTH, at="timestamp"),
}

_MOMENTS = [
    datetime(2024, 1, 31, 23, 59, 59, 999_999, tzinfo=UTC),
    datetime(2024, 2, 1, tzinfo=UTC),
    datetime(2024, 2, 1, 0, 0, 0, 1, tzinfo=UTC),
    datetime(2024, 2, 29, 12, 30, tzinfo=UTC),
    datetime(1969, 12, 31, 23, tzinfo=UTC),
    datetime(1, 1, 1, tzinfo=UTC),
    datetime(9999, 12, 31, 23, 59, 59, 999_999, tzinfo=UTC),
]
_DATES: dict[str, list[Any]] = {
    "timestamp": _MOMENTS,
    "date": [moment.date() for moment in _MOMENTS],
    "string": [
        "2024-01-31 23:59:59.999",
        "2024-01-31T23:59:59.999999Z",
        "2024-02-01 00:00:00.000",
        "2024-02-01",
        "2024-02-01 00:00:00 +0000 UTC",
        "2024-02-01 00:30:00+02:00",
        "1899-12-31 00:00:00",
        "0000-00-00 00:00:00",
        "2024-02-30 00:00:00",
        "12345-01-01 00:00:00",
        "infinity",
        "yesterday, it's said",
        "",
    ],
}

_KEYS = {1: [("a",), ("b",), ("c",)], 2: list(product(["a", "b"], [1, 2]))}
_NAMES = [None, "x", "y", "it's", "x\x1fpoints:1", "'"]


def law(of: Contract) -> Law:
    """The oracle for a contract."""
    return Law(of.order, full_load_prefix(of))


@dataclass(frozen=True)
class End:
    """The moment at which a load's end is noticed."""

    load: Load


Step = list[Change] | End


@dataclass(frozen=True)
class History:
    """What happened, and one way in which it arrives: batches of rows, and ends of loads after their rows."""

    changes: tuple[Change, ...]
    loads: tuple[Load, ...]
    steps: tuple[Step, ...]


def histories(of: Contract, *, most: int = 14) -> st.SearchStrategy[History]:
    """Changes and full loads of a contract's table, and an arrival of them."""
    keys = st.sampled_from(_KEYS[len(of.key)])
    moments = st.integers(0, 3).map(lambda hours: START + timedelta(hours=hours))
    seqs: st.SearchStrategy[Any] = st.integers(0, 2)
    if of.change_seq_type == "string":
        seqs = seqs.map("{:03d}".format)
    if of.order[0] != "change_seq":
        seqs = st.none() | seqs

    dates: st.SearchStrategy[Any] = st.none() | st.sampled_from(_DATES[of.columns.get("at", "string")])
    fixed = st.tuples(*[dates] * len(_KEYS[len(of.key)]))

    def values(key: Key, name: str | None, points: int | None, at: Any) -> tuple[tuple[str, Any], ...]:
        dated = (("at", at),) if "at" in of.columns else ()
        return (*zip(of.key, key, strict=True), ("Name", name), ("points", points), *dated)

    payload = st.tuples(st.sampled_from(_NAMES), st.none() | st.integers(-1, 1), dates)
    changes = st.builds(
        lambda key, op, at, seq, file, row, payload, bare: Change(
            key, op, at, seq, f"raw/s/cdc/t/{file}", row, () if op == "D" and bare else values(key, *payload)
        ),
        keys, st.sampled_from("IUD"), moments, seqs, st.sampled_from("fg"), st.integers(0, 1), payload, st.booleans(),
    )  # fmt: skip
    loads = st.lists(
        st.tuples(moments, seqs, st.booleans(), st.dictionaries(keys, payload)),
        max_size=3,
        unique_by=lambda load: law(of).position(Load("", load[0], load[1], ended=True)),
    )

    def named(number: int, at: datetime, seq: Any, ended: bool, rows: dict[Key, Any]) -> Load:
        name = f"L{number}"
        file = f"{full_load_prefix(of)}{name}/part"
        return Load(
            name, at, seq, ended,
            tuple(Change(k, "I", at, seq, file, n, values(k, *p), name) for n, (k, p) in enumerate(rows.items())),
        )  # fmt: skip

    def history(changes: list[Change], loads: list[Any], dates: Sequence[Any], arrival: random.Random) -> History:
        named_loads = [named(number, *load) for number, load in enumerate(loads)]
        if of.immutable_date:
            date_of = dict(zip(_KEYS[len(of.key)], dates, strict=True))
            changes = [_dated(change, date_of[change.key]) for change in changes]
            named_loads = [
                replace(load, rows=tuple(_dated(row, date_of[row.key]) for row in load.rows)) for load in named_loads
            ]
        return History(tuple(changes), tuple(named_loads), tuple(_arrival(changes, named_loads, arrival)))

    return st.builds(history, st.lists(changes, max_size=most), loads, fixed, st.randoms(use_true_random=False))


def _dated(change: Change, immutable: Any) -> Change:
    """A change with its key's date, unless it has none: of a delete only the key, or the column is missing."""
    values = ((name, immutable if name == "at" and value is not None else value) for name, value in change.values)
    return replace(change, values=tuple(values))


def dated_values(of: Contract, key: Key, name: str | None, points: int | None) -> tuple[tuple[str, Any], ...]:
    """Values of a row, with a date that is always the same for a key."""
    dates = [*_DATES[of.columns["at"]], None] if "at" in of.columns else []
    dated = (("at", dates[crc32(repr(key).encode()) % len(dates)]),) if dates else ()
    return (*zip(of.key, key, strict=True), ("Name", name), ("points", points), *dated)


def _arrival(changes: list[Change], loads: list[Load], arrival: random.Random) -> list[Step]:
    rows = [*changes, *(row for load in loads for row in load.rows)]
    repeated = rows + arrival.sample(rows, arrival.randint(0, len(rows)))
    arrival.shuffle(repeated)
    cuts = sorted(arrival.randint(0, len(repeated)) for _ in range(arrival.randint(0, 2)))
    batches = (repeated[first:last] for first, last in pairwise([0, *cuts, len(repeated)]))
    steps: list[Step] = [batch for batch in batches if batch]
    for load in loads:
        if load.ended:
            came = [n for n, step in enumerate(steps) if not isinstance(step, End) and set(step) & set(load.rows)]
            missing = set(load.rows)
            earliest = 0
            for number in came:
                if not missing:
                    break
                missing -= set(steps[number])
                earliest = number + 1
            steps.insert(arrival.randint(earliest, len(steps)), End(load))
    return steps


def arrow(of: Contract, changes: Iterable[Change]) -> pa.Table:
    """Change rows as `raw.files.read_changes` gives them."""
    schema = change_schema(of)
    rows = [
        {
            **dict(zip(of.key, change.key, strict=True)),
            **dict(change.values),
            OP: change.op,
            MODIFIED: change.modified,
            SEQUENCE: change.seq,
            FILE: change.file,
            ROW: change.row,
        }
        for change in changes
    ]
    return pa.Table.from_pylist(rows, schema)


def landed(of: Contract, changes: Sequence[Change]) -> bytes:
    """A parquet file of change rows, as a producer writes it."""
    rows = arrow(of, changes).drop_columns([FILE, ROW])
    sink = BytesIO()
    pq.write_table(rows.rename_columns({OP: "OP", MODIFIED: MODIFIED[1:], SEQUENCE: SEQUENCE[1:]}), sink)
    return sink.getvalue()


def position(load: Load) -> Position:
    """The load's position as the code has it."""
    return Position(load.modified, load.seq)


def held(of: Contract, live: pa.Table, tombstones: pa.Table) -> Expected:
    """What two tables hold: the live rows, and of the tombstones those that are effective.

    Raises:
        AssertionError: a key has two live rows.
    """
    rules = law(of)
    found = Expected()
    for row in live.to_pylist():
        change = _change(of, row, row[OP])
        assert change.key not in found.live, f"two live rows of {change.key}"
        found.live[change.key] = {n: v for n, v in row.items() if v is not None and not n.startswith("_")}
        found.places[change.key] = rules.place(change)
    for row in tombstones.to_pylist():
        change = _change(of, row, "D")
        place = rules.place(change)
        live_place = found.places.get(change.key)
        # The delete that a load's end means comes before the rows of the load, at one position.
        survived = live_place is not None and (live_place > place or (live_place == place and change.load is not None))
        if not survived and place >= found.tombstones.get(change.key, place):
            found.tombstones[change.key] = place
    return found


def _change(of: Contract, row: dict[str, Any], op: str) -> Change:
    key = tuple(row[name] for name in of.key)
    change = Change(key, op, row[MODIFIED], row[SEQUENCE], row[FILE] or "", row[ROW] or 0)
    return replace(change, load="some") if change.file.startswith(full_load_prefix(of)) else change
