"""Small histories of the points system in which everything arrives at some moment, and what was known at any of them.

Here: how such a history is drawn, how it comes into real Delta tables, and what the features must be, said by the
plain-Python oracle of bronze's law and the reference of the features, over what had arrived. Not here: any SQL.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from typing import Any

from histories import arrow
from hypothesis import strategies as st
from oracle import Change, Law, Load
from reference import Event, History, State

from upsell_assets.bronze.floors import write_floor
from upsell_assets.bronze.history import remember
from upsell_assets.contracts import load_contracts
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import Position
from upsell_assets.raw.landing import full_load_prefix

CONTRACTS = load_contracts()
# Around the day of 2018 on which Sao Paulo had no midnight: the clocks went from 23:59 to 01:00 on November 4th.
FIRST = datetime(2018, 11, 1, 12, tzinfo=UTC)
DTREF = date(2018, 11, 4)
CUT = datetime(2018, 11, 4, 3, tzinfo=UTC)
HOUR = timedelta(hours=1)


@dataclass(frozen=True)
class Arrival:
    """What arrives at a moment: changes of one table, or the end of one of its loads."""

    at: datetime
    table: str
    said: tuple[Change, ...] | Load


def rows_of(table: str, key: str, *values: Any) -> tuple[tuple[str, Any], ...]:
    """Values of a row by the contract's columns."""
    return tuple(zip(CONTRACTS[table].columns, (key, *values), strict=True))


def arrive(lake: Lake, arrivals: Iterable[Arrival]) -> None:
    """Take arrivals in, as an ingestion does before it merges; tables without any are made, too."""
    for table in CONTRACTS:
        remember(lake, CONTRACTS[table], arrow(CONTRACTS[table], ()), lambda: FIRST - 99 * HOUR)
    for arrival in arrivals:
        contract = CONTRACTS[arrival.table]
        if isinstance(arrival.said, Load):
            write_floor(lake, contract, Position(arrival.said.modified, arrival.said.seq), arrival.at)
        else:
            remember(lake, contract, arrow(contract, arrival.said), lambda at=arrival.at: at)  # type: ignore[misc]


def known(arrivals: Iterable[Arrival], moment: datetime) -> History:
    """What silver must have held at a moment, by the law over what had arrived before it."""
    changes: dict[str, set[Change]] = defaultdict(set)
    loads: dict[str, set[Load]] = defaultdict(set)
    for arrival in arrivals:
        if arrival.at < moment:
            if isinstance(arrival.said, Load):
                loads[arrival.table].add(replace(arrival.said, rows=()))
            else:
                changes[arrival.table] |= set(arrival.said)

    def live(table: str) -> list[dict[str, Any]]:
        law = Law(CONTRACTS[table].order, full_load_prefix(CONTRACTS[table]))
        return list(law.oracle(changes[table], loads[table]).live.values())

    products: dict[str, list[str | None]] = defaultdict(list)
    for line in live("transactions_product"):
        products[line.get("idTransaction", "")].append(line.get("NameProduct"))
    events = [
        Event(row.get("idCustomer"), read(row.get("dtTransaction")), row.get("pointsTransaction"),
              tuple(products[row["idTransaction"]]))
        for row in live("transactions")
    ]  # fmt: skip
    return History(events, list(states(changes["customers"], loads["customers"])))


def read(text: str | None) -> datetime | None:
    return None if text is None else datetime.fromisoformat(text).replace(tzinfo=UTC)


def states(changes: set[Change], loads: set[Load]) -> Iterable[State]:
    """Customers' states by a fold in the order of the sequence; every sequence is one change, or one load."""
    for key in {change.key for change in changes}:
        said: list[tuple[Any, int, datetime, Any]] = [
            (c.seq, 2 if c.load else 0, c.modified, None if c.op == "D" else dict(c.values))
            for c in changes
            if c.key == key and c.modified
        ]
        said += [(load.seq, 1, load.modified, None) for load in loads if load.modified]
        life: dict[datetime, Any] = {}
        for _, _, at, values in sorted(said, key=lambda of: of[:2]):
            life[max([at, *life])] = values
        for (start, values), (end, _) in pairwise([*life.items(), (None, None)]):
            if values is not None:
                yield State(key[0], start, values.get("flEmail"), values.get("PointsCustomer"), end)


# --- any such history ---

_MOMENTS = st.one_of(
    st.integers(0, 24 * 5).map(lambda hours: FIRST + hours * HOUR),
    # Around the local midnights, where days are easily confused.
    st.builds(lambda day, part: CUT + timedelta(days=day, minutes=20 * part), st.integers(-2, 2), st.integers(-3, 3)),
)
ARRIVALS = st.one_of(
    st.integers(0, 5).map(lambda day: FIRST + timedelta(days=day)),
    st.sampled_from([CUT - timedelta(microseconds=1), CUT, CUT + timedelta(microseconds=1)]),
)


def _values(table: str) -> st.SearchStrategy[tuple[tuple[str, Any], ...]]:
    keys = st.sampled_from(["a", "b"])
    customers = st.sampled_from(["a", "a", "b", None])
    of_table: dict[str, st.SearchStrategy[tuple[tuple[str, Any], ...]]] = {
        "customers": st.builds(rows_of, st.just(table), keys, st.just(1), st.sampled_from([0, 1])),
        "transactions": st.builds(
            rows_of, st.just(table), keys, customers,
            st.one_of(_MOMENTS.map(lambda at: at.replace(tzinfo=None).isoformat(sep=" ")), st.none()),
            st.sampled_from([None, -3, 5]),
        ),
        "transactions_product": st.builds(
            rows_of, st.just(table), keys, st.sampled_from(["a", "b"]),
            st.sampled_from([None, "ChatMessage", "R Lover"]), st.just(1),
        ),
    }  # fmt: skip
    return of_table[table]


@dataclass(frozen=True)
class _Drawn:
    """A change, or a full load with its rows; where it stands among all, and when it arrives."""

    table: str
    op: str
    place: int
    values: tuple[tuple[tuple[str, Any], ...], ...]
    arrives: tuple[datetime, ...]
    ends: datetime | None


def _drawn(table: str) -> st.SearchStrategy[_Drawn]:
    moments = st.lists(ARRIVALS, min_size=1, max_size=2).map(tuple)
    places = st.integers(0, 99)
    change = st.builds(
        _Drawn, st.just(table), st.sampled_from("IUUD"), places, st.tuples(_values(table)), moments, st.none()
    )
    rows = st.lists(_values(table), max_size=2, unique_by=lambda row: row[0]).map(tuple)
    load = st.builds(_Drawn, st.just(table), st.just("load"), places, rows, moments, ARRIVALS)
    return st.one_of(change, change, change, change, load)


@st.composite
def arrivals(draw: st.DrawFn, *, most: int = 12) -> list[Arrival]:
    """Changes and loads in any order of arrival, some of them twice; a load ends when it is in, or later."""
    tables = st.sampled_from(["customers", "customers", "transactions", "transactions", "transactions_product"])
    drawn = draw(st.lists(tables.flatmap(_drawn), min_size=1, max_size=most))
    found = []
    for number, of in enumerate(drawn):
        seq = f"{of.place:03}-{number:02}"
        modified = FIRST + of.place * HOUR
        name = f"L{number}"
        file = f"{full_load_prefix(CONTRACTS[of.table])}{name}/f" if of.ends else f"cdc/{number}"
        said = tuple(
            Change((row[0][1],), "I" if of.ends else of.op, modified, seq, file, 0, row, name if of.ends else None)
            for row in of.values
        )
        found += [Arrival(at, of.table, said) for at in of.arrives if said]
        if of.ends:
            found.append(
                Arrival(max(of.ends, of.arrives[0]), of.table, Load(name, modified, seq, ended=True, rows=said))
            )
    return sorted(found, key=lambda arrival: arrival.at)
