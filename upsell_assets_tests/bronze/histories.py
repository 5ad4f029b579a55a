"""Random histories for the law: few keys, many ties, in any order of arrival; and how they look as Arrow rows."""

from __future__ import annotations

import random
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import product
from typing import Any

import pyarrow as pa
from hypothesis import strategies as st
from oracle import Change, Expected, Key, Law, Load

from upsell_assets.contracts import Contract
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE, Position, change_schema
from upsell_assets.raw.landing import full_load_prefix

START = datetime(2024, 2, 1, tzinfo=UTC)


def contract(order: list[str], seq_type: str = "bigint", key: dict[str, str] | None = None) -> Contract:
    """A contract with two payload columns."""
    key = key or {"id": "string"}
    columns = {**key, "Name": "string", "points": "bigint"}
    return Contract.model_validate(
        {"schema": "s", "table": "t", "key": list(key), "columns": columns, "order": order, "change_seq_type": seq_type}
    )


CONTRACTS = {
    "modified_date, change_seq": contract(["modified_date", "change_seq"]),
    "modified_date": contract(["modified_date"]),
    "change_seq": contract(["change_seq"], "string"),
    "composite key": contract(["modified_date", "change_seq"], key={"id": "string", "Line": "bigint"}),
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

    def values(key: Key, name: str | None, points: int | None) -> tuple[tuple[str, Any], ...]:
        return (*zip(of.key, key, strict=True), ("Name", name), ("points", points))

    payload = st.tuples(st.sampled_from(_NAMES), st.none() | st.integers(-1, 1))
    changes = st.builds(
        lambda key, op, at, seq, file, row, payload: Change(
            key, op, at, seq, f"raw/s/cdc/t/{file}", row, () if op == "D" else values(key, *payload)
        ),
        keys, st.sampled_from("IUD"), moments, seqs, st.sampled_from("fg"), st.integers(0, 1), payload,
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

    def history(changes: list[Change], loads: list[Any], arrival: random.Random) -> History:
        named_loads = [named(number, *load) for number, load in enumerate(loads)]
        return History(tuple(changes), tuple(named_loads), tuple(_arrival(changes, named_loads, arrival)))

    return st.builds(history, st.lists(changes, max_size=most), loads, st.randoms(use_true_random=False))


def _arrival(changes: list[Change], loads: list[Load], arrival: random.Random) -> list[Step]:
    rows = [*changes, *(row for load in loads for row in load.rows)]
    repeated = rows + arrival.sample(rows, arrival.randint(0, len(rows)))
    arrival.shuffle(repeated)
    steps: list[Step] = []
    while repeated:
        size = arrival.randint(1, len(repeated))
        steps.append(repeated[:size])
        repeated = repeated[size:]
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
        assert change.key not in found.live
        found.live[change.key] = {n: v for n, v in row.items() if v is not None and not n.startswith("_")}
        found.places[change.key] = rules.place(change)
    for row in tombstones.to_pylist():
        change = _change(of, row, "D")
        place = rules.place(change)
        if place >= max(found.places.get(change.key, place), found.tombstones.get(change.key, place)):
            found.tombstones[change.key] = place
    return found


def _change(of: Contract, row: dict[str, Any], op: str) -> Change:
    key = tuple(row[name] for name in of.key)
    change = Change(key, op, row[MODIFIED], row[SEQUENCE], row[FILE] or "", row[ROW] or 0)
    return replace(change, load="some") if change.file.startswith(full_load_prefix(of)) else change
