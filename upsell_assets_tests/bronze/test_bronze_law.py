"""The rule of bronze as SQL over rows, without Delta: equal to the oracle under any arrival."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from functools import cache
from typing import Any

import pyarrow as pa
import pytest
from histories import CONTRACTS, START, End, History, arrow, contract, held, histories, law
from hypothesis import given, settings
from hypothesis import strategies as st
from oracle import Change, Expected, Load
from proof import RULE

from upsell_assets.bronze.law import (
    below_floor,
    canonical_text,
    judged,
    newest_floor,
    newest_per_key,
    quote,
    same_key,
    settled,
)
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import connect
from upsell_assets.raw.files import MODIFIED, OP, SEQUENCE, change_schema, order_fields
from upsell_assets.raw.landing import full_load_prefix

PROOF = settings(max_examples=RULE.count, deadline=None)


class Memory:
    """A live table, its tombstones and its floors in memory, changed by the law's queries alone."""

    def __init__(self, of: Contract) -> None:
        self.of = of
        self.duck = connect()
        # Queries over a handful of rows take longer to plan than to run: each is planned once. What the optimizer
        # then knows of the tables, which are empty, must not go into the plan.
        self.duck.execute("SET threads = 1; SET disabled_optimizers = 'statistics_propagation'")
        order = order_fields(of)
        for name, schema in {
            "live_rows": change_schema(of),
            "tombstone_rows": pa.schema([*(change_schema(of).field(name) for name in of.key), *order]),
            "floors": pa.schema(order[:2]),
            "received": change_schema(of),
        }.items():
            empty = schema.empty_table()  # noqa: F841 (DuckDB finds it by its name)
            self.duck.execute(f"CREATE TABLE {name} AS FROM empty")
        self.duck.execute("CREATE VIEW live AS FROM live_rows")
        self.duck.execute(f"CREATE VIEW tombstones AS SELECT *, 'D' AS {OP} FROM tombstone_rows")
        self.duck.execute(f"CREATE TABLE floor AS {newest_floor(of)}")
        columns = list(of.columns)
        settle, judge = settled(of, columns), judged(of, columns, columns)
        self.duck.execute(f"CREATE TABLE changes AS {settle}")
        self.duck.execute(f"CREATE TABLE judged AS {judge}")
        graves = ", ".join([*map(quote, of.key), *(field.name for field in order)])
        gone = f"{same_key(of, 'l', 'j')} AND (_upsert OR _delete)"
        self.apply = [
            "DELETE FROM changes",
            f"INSERT INTO changes {settle}",
            "DELETE FROM judged",
            f"INSERT INTO judged {judge}",
            f"INSERT INTO tombstone_rows BY NAME SELECT {graves} FROM judged WHERE _bury",
            f"DELETE FROM live_rows AS l USING judged AS j WHERE {gone}",
            "INSERT INTO live_rows BY NAME SELECT * EXCLUDE (_upsert, _delete, _bury) FROM judged WHERE _upsert",
        ]
        for number, statement in enumerate(self.apply):
            self.duck.execute(f"PREPARE apply_{number} AS {statement}")
        self.duck.execute("BEGIN")

    def merge(self, changes: list[Change]) -> None:
        batch = arrow(self.of, changes)  # noqa: F841
        self.duck.execute("DELETE FROM received; INSERT INTO received FROM batch")
        self._apply()

    def end(self, load: Load) -> None:
        row = {MODIFIED: load.modified, SEQUENCE: load.seq}
        ended = pa.Table.from_pylist([row], pa.schema(order_fields(self.of)[:2]))  # noqa: F841
        self.duck.execute(
            f"INSERT INTO floors FROM ended; DELETE FROM floor; INSERT INTO floor {newest_floor(self.of)}"
        )
        self.duck.execute(f"DELETE FROM received; INSERT INTO received BY NAME {below_floor(self.of)}")
        self._apply()

    def _apply(self) -> None:
        for number in range(len(self.apply)):
            self.duck.execute(f"EXECUTE apply_{number}")

    def forget(self) -> None:
        """Empty the tables, for another history: each is a transaction that is never committed."""
        self.duck.execute("ROLLBACK")
        self.duck.execute("BEGIN")

    def holds(self) -> Expected:
        return held(
            self.of,
            self.duck.sql("FROM live_rows").to_arrow_table(),
            self.duck.sql("FROM tombstone_rows").to_arrow_table(),
        )


@cache
def _memory(name: str) -> Memory:
    return Memory(CONTRACTS[name])


def memory_of(name: str) -> Memory:
    """An empty memory of one of the contracts; it is kept, as it is dear to make."""
    memory = _memory(name)
    memory.forget()
    return memory


def replay(name: str, history: History) -> Expected:
    memory = memory_of(name)
    for step in history.steps:
        if isinstance(step, End):
            memory.end(step.load)
        else:
            memory.merge(step)
    return memory.holds()


@given(name=st.sampled_from(list(CONTRACTS)), data=st.data())
@PROOF
def test_any_arrival_of_a_history_gives_what_the_oracle_says(name: str, data: st.DataObject) -> None:
    of = CONTRACTS[name]
    history = data.draw(histories(of, most=8))

    assert replay(name, history) == law(of).oracle(history.changes, history.loads)


def change(op: str, hour: int, seq: Any = None, key: str = "a", **more: Any) -> Change:
    values = (("Name", more.pop("name", "x")),) if op != "D" else ()
    return Change((key,), op, START + timedelta(hours=hour), seq, values=(("id", key), *values), **more)


def after(*batches: list[Change] | Load) -> Expected:
    return replay(
        "modified_date, change_seq", History((), (), tuple(End(b) if isinstance(b, Load) else b for b in batches))
    )


def ended(hour: int, *keys: str) -> tuple[list[Change], Load]:
    """The rows of a load and the load, which has ended."""
    file = f"{full_load_prefix(CONTRACTS['change_seq'])}L/part"
    rows = [change("I", hour, key=key, file=file, row=n, name="loaded", load="L") for n, key in enumerate(keys)]
    return rows, Load("L", START + timedelta(hours=hour), None, ended=True, rows=tuple(rows))


def names(holds: Expected) -> dict[str, str]:
    return {key[0]: values["Name"] for key, values in holds.live.items()}


def test_late_insert_after_a_delete_does_not_resurrect_the_row() -> None:
    assert names(after([change("D", 2)], [change("I", 1)])) == {}


def test_late_delete_removes_the_row_it_came_after() -> None:
    assert names(after([change("I", 1)], [change("D", 2)])) == {}


def test_late_delete_leaves_a_newer_row_alone() -> None:
    assert names(after([change("U", 3, name="new")], [change("D", 2)])) == {"a": "new"}


def test_insert_of_a_live_key_is_an_update() -> None:
    assert names(after([change("I", 1, name="old")], [change("I", 2, name="new")])) == {"a": "new"}


def test_delete_of_an_unknown_key_is_remembered() -> None:
    holds = after([change("D", 2, key="unknown")])

    assert list(holds.tombstones) == [("unknown",)]


def test_missing_change_seq_is_below_any_present_one() -> None:
    assert names(after([change("U", 1, 0, name="present")], [change("U", 1, name="missing")])) == {"a": "present"}


def test_delete_wins_at_equal_order() -> None:
    assert names(after([change("D", 1, 1)], [change("U", 1, 1)])) == {}
    assert names(after([change("U", 1, 1)], [change("D", 1, 1)])) == {}


@pytest.mark.parametrize("flip", [list, lambda rows: rows[::-1]])
def test_greatest_row_wins_at_equal_order(flip: Callable[[list[Change]], list[Change]]) -> None:
    rows = flip([change("U", 1, 1, name="zebra"), change("U", 1, 1, name="ape")])

    assert names(after(*([row] for row in rows))) == {"a": "zebra"}


@pytest.mark.parametrize("flip", [list, lambda rows: rows[::-1]])
def test_file_and_row_decide_where_change_seq_is_missing(flip: Callable[[list[Change]], list[Change]]) -> None:
    rows = flip([change("U", 1, file="a", row=7), change("D", 1, file="b", row=3), change("U", 1, file="b", row=4)])

    assert list(after(*([row] for row in rows)).places.values()) == [(START + timedelta(hours=1), False, False, "b", 4)]


def test_end_of_a_load_deletes_what_is_not_in_it() -> None:
    rows, load = ended(2, "a")

    holds = after([change("I", 1, key="a"), change("I", 1, key="b")], rows, load)

    assert (names(holds), list(holds.tombstones)) == ({"a": "loaded"}, [("b",)])


def test_newer_change_survives_a_load() -> None:
    rows, load = ended(2, "a")

    assert names(after([change("U", 3, key="b", name="new")], rows, load)) == {"a": "loaded", "b": "new"}


def test_change_at_the_floor_is_ignored() -> None:
    rows, load = ended(2, "a")

    assert names(after(rows, load, [change("U", 2, name="late"), change("U", 2, key="b")])) == {"a": "loaded"}


def test_load_that_has_not_ended_deletes_nothing() -> None:
    rows, _ = ended(2, "a")

    assert names(after([change("I", 1, key="b")], rows)) == {"a": "loaded", "b": "x"}


def test_end_of_an_empty_load_truncates() -> None:
    _, load = ended(2)

    assert names(after([change("I", 1, key="a"), change("I", 3, key="b")], load)) == {"b": "x"}


def test_delete_that_crashed_halfway_is_finished_by_a_repeat() -> None:
    """The tombstone is there, the live row still is: the guard must not hold the delete back."""
    memory = memory_of("modified_date, change_seq")
    memory.merge([change("I", 1)])
    memory.duck.execute("CREATE OR REPLACE TEMP TABLE rescued AS FROM live_rows")
    memory.merge([change("D", 2)])
    memory.duck.execute("INSERT INTO live_rows FROM rescued")

    memory.merge([change("D", 2)])

    assert memory.holds().live == {}


def test_copies_of_a_change_are_judged_alike_whatever_their_operation_and_date() -> None:
    """A log position orders, a commit clock does not: which copy counts must not depend on which came first."""
    copies = [change("U", 1, "7"), change("I", 2, "7"), change("U", 2, "7"), change("I", 1, "7")]
    found = set()
    for rows in (copies, copies[::-1]):
        memory = memory_of("change_seq")
        for row in rows:
            memory.merge([row])
        found.add(memory.duck.sql(f"SELECT {OP}, {MODIFIED} FROM live_rows").fetchone())

    assert found == {("U", START + timedelta(hours=2))}


@pytest.mark.parametrize(
    ("one", "other"),
    [
        ({"A": "1", "B": "2"}, {"A": "1\x1fB:2", "B": None}),
        ({"A": "it's", "B": "x"}, {"A": "it", "B": "s''x"}),
        ({"A": "'", "B": "'"}, {"A": "''b':'", "B": None}),
        ({"A": None, "B": "x"}, {"A": "x", "B": None}),
        ({"A": "", "B": None}, {"A": None, "B": None}),
    ],
)
def test_two_rows_never_have_the_same_text(one: dict[str, Any], other: dict[str, Any]) -> None:
    assert text(one) != text(other)


def test_text_of_a_row_is_the_same_with_a_column_that_it_does_not_have() -> None:
    assert text({"A": "1", "C": "2"}) == text({"A": "1", "B": None, "C": "2"})


def text(row: dict[str, str | None]) -> Any:
    with connect() as duck:
        duck.register("r", pa.Table.from_pylist([row], pa.schema([(name, pa.string()) for name in row])))
        found = duck.sql(f"SELECT {canonical_text('r', list(row))} FROM r").fetchone()
    assert found
    return found[0]


@pytest.mark.parametrize("kind", ["bigint", "string", "timestamp", "date", "double", "binary", "decimal(10,2)"])
def test_a_change_seq_may_be_of_any_type(kind: str) -> None:
    of = contract(["modified_date", "change_seq"], kind)
    with connect() as duck:
        duck.register("empty", change_schema(of).empty_table())
        assert duck.sql(newest_per_key(of, "empty", list(of.columns))).fetchall() == []

        duck.execute("CREATE VIEW floors AS FROM empty")
        assert duck.sql(newest_floor(of)).fetchall() == []
