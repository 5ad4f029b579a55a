"""The simulator's customers, with events that come late, are corrected and are deleted, all the way to the reports.

Raw files go through bronze and silver; features and reports are compared with the reference, over the state that
bronze's oracle says and the states of customers that their changes say.
"""

from __future__ import annotations

import json
import random
from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path

import bronze_steps
import pytest
import reference
from bronze_steps import CONTRACTS, SILVER, START
from daily_tables import FILES, DailyTables, local_lakehouse
from histories import landed, law
from oracle import Change, Load
from reference import Event, History, State
from run_sql import assert_same

from upsell_assets.bronze.ingest import ingest
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.silver.dates import unread_dates
from upsell_assets.source.simulator import simulated_tables

pytestmark = pytest.mark.services

DAYS = 70
UNTIL = START + timedelta(days=DAYS)
LOADED = START + timedelta(days=15)
BATCHES = 4


@dataclass
class Lived:
    """What happened in the points system, in the order of its log, and how dates were spelled."""

    chance: random.Random
    happened: list[tuple[datetime, str, str, str, tuple[object, ...]]] = field(default_factory=list)
    instants: dict[str | None, datetime] = field(default_factory=dict)

    def say(self, at: datetime, table: str, key: str, op: str, values: tuple[object, ...] = ()) -> None:
        self.happened.append((at, table, key, op, values))

    def later(self, at: datetime) -> datetime:
        return at + timedelta(hours=self.chance.randint(1, 20 * 24))

    def spelled(self, instant: datetime) -> str | None:
        """A date as one of the source's extracts writes it; some are none."""
        draw = self.chance.random()
        if draw < 0.02:
            return self.chance.choice(["0000-00-00 00:00:00", "soon", None])
        local = instant.astimezone(timezone(timedelta(hours=-3)))
        text = (
            f"{instant:%Y-%m-%d %H:%M:%S.%f} +0000 UTC"
            if draw < 0.2
            else local.isoformat(timespec="milliseconds")
            if draw < 0.4
            else f"{instant:%Y-%m-%d %H:%M:%S.%f}"
        )
        self.instants[text] = instant
        return text


def lived(seed: int) -> Lived:
    """The simulated rows, and what becomes of them: balances and flags move, rows are corrected and deleted."""
    life = Lived(random.Random(seed))
    chance = life.chance
    tables = {name: list(rows) for name, rows in simulated_tables(80, DAYS, seed, UNTIL)}
    for key, points, email in tables["customers"]:
        at = START + timedelta(hours=chance.randrange(DAYS * 12))
        life.say(at, "customers", key, "I", (points, email))
        for _ in range(chance.randint(0, 3)):
            at = life.later(at)
            life.say(at, "customers", key, "U", (points + chance.randint(-9, 9), chance.choice([None, 0, 1])))
        if chance.random() < 0.1:
            life.say(at := life.later(at), "customers", key, "D")
            if chance.random() < 0.5:
                life.say(life.later(at), "customers", key, "I", (0, 1))
    instants = {}
    for key, customer, text, points in tables["transactions"]:
        instants[key] = instant = datetime.fromisoformat(text).replace(tzinfo=UTC)
        date = life.spelled(instant)
        life.say(instant, "transactions", key, "I", (customer, date, points))
        fate = chance.random()
        if fate < 0.06:
            life.say(life.later(instant), "transactions", key, "D")
        elif fate < 0.12:
            other = chance.choice([customer, None, tables["transactions"][0][1]])
            life.say(life.later(instant), "transactions", key, "U", (other, date, chance.randint(-50, 50)))
    for key, of, name, quantity in tables["transactions_product"]:
        life.say(instants[of], "transactions_product", key, "I", (of, name, quantity))
        fate = chance.random()
        if fate < 0.03:
            life.say(life.later(instants[of]), "transactions_product", key, "D")
        elif fate < 0.06:
            product = chance.choice(["R Lover", "ChatMessage", "Venda de Item: Arco", None])
            life.say(life.later(instants[of]), "transactions_product", key, "U", (of, product, quantity))
    # Rows of one table and key follow each other in time; sorting keeps the order of those at one instant.
    life.happened.sort(key=lambda happened: happened[0])
    return life


@dataclass
class Table:
    """A table's changes and its full load, which stands where the log was at LOADED."""

    changes: list[Change] = field(default_factory=list)
    load: Load | None = None


def tables_of(life: Lived) -> dict[str, Table]:
    found: dict[str, Table] = defaultdict(Table)
    position = sum(at <= LOADED for at, *_ in life.happened)
    for number, (at, table, key, op, values) in enumerate(life.happened):
        # One number is left to the load.
        seq = f"{number + (number >= position):06d}"
        found[table].changes.append(change(table, key, op, at, seq, values))
    for table, contents in found.items():
        before = [one for one in contents.changes if one.seq < f"{position:06d}"]
        rows = tuple(
            change(
                table, *key, "I", LOADED, f"{position:06d}", tuple(row.get(name) for name in columns(table)), "first"
            )
            for key, row in law(CONTRACTS[table]).oracle(before).live.items()
        )
        contents.load = Load("first", LOADED, f"{position:06d}", ended=True, rows=rows)
        # Of what happened before the load some changes come late, after it has said what they came to. Of customers
        # none, since their history would know of them.
        late = set() if table == "customers" else set(life.chance.sample(before, len(before) // 5))
        contents.changes = [one for one in contents.changes if one.seq > f"{position:06d}" or one in late]
    return found


def columns(table: str) -> list[str]:
    return [name for name in CONTRACTS[table].columns if name not in CONTRACTS[table].key]


def change(
    table: str, key: str, op: str, at: datetime, seq: str, values: tuple[object, ...], load: str | None = None
) -> Change:
    named = zip(columns(table), values, strict=False) if op != "D" else ()
    return Change((key,), op, at, seq, values=((CONTRACTS[table].key[0], key), *named), load=load)


def land(lakehouse: Lakehouse, table: str, name: str, changes: Iterable[Change]) -> None:
    lakehouse.store.write(f"raw/upsell/cdc/{table}/{name}.parquet", landed(CONTRACTS[table], list(changes)))


def land_load(lakehouse: Lakehouse, table: str, load: Load) -> None:
    folder = f"raw/upsell/full_load/{table}/{load.name}/"
    half = len(load.rows) // 2
    files = {f"{folder}{n}.parquet": rows for n, rows in enumerate((load.rows[:half], load.rows[half:]))}
    etags = {key: lakehouse.store.write(key, landed(CONTRACTS[table], rows)) for key, rows in files.items()}
    position = {"modified_date": LOADED.isoformat(), "change_seq": load.seq}
    manifest = {"position": position, "files": [{"key": key, "etag": etag} for key, etag in etags.items()]}
    lakehouse.store.write(f"{folder}_manifest.json", json.dumps(manifest).encode())


def arrival(changes: list[Change], chance: random.Random) -> list[list[Change]]:
    """Most come in the order in which they happened, a fifth late, some twice; in batches."""
    come = changes + chance.sample(changes, len(changes) // 20)
    ranked = sorted((int(one.seq) + chance.randrange(9_000) * (chance.random() < 0.2), n) for n, one in enumerate(come))
    size = -(-len(come) // BATCHES)
    return [[come[n] for _, n in ranked[start : start + size]] for start in range(0, len(come), size)]


def expected(tables: dict[str, Table], instants: dict[str | None, datetime]) -> History:
    """What silver must know: the live rows that the law says, and the customers' states in the order of the log."""
    live = {
        table: law(CONTRACTS[table]).oracle(contents.changes, [contents.load] if contents.load else []).live
        for table, contents in tables.items()
    }
    carts: dict[str, list[str | None]] = defaultdict(list)
    for line in live["transactions_product"].values():
        carts[line["idTransaction"]].append(line.get("NameProduct"))
    events = [
        Event(
            row.get("idCustomer"),
            instants.get(row.get("dtTransaction")),
            row.get("pointsTransaction"),
            tuple(carts[row["idTransaction"]]),
        )
        for row in live["transactions"].values()
    ]
    customers = tables["customers"]
    assert customers.load is not None
    fold = bronze_steps.Bronze()
    fold.take(
        bronze_steps.Change(
            "customers",
            one.key[0],
            one.op,
            int(one.seq),
            tuple(dict(one.values).get(name) for name in columns("customers")),
            (one.modified - START) / timedelta(hours=1) if one.modified else 0,
        )
        for one in [*customers.load.rows, *customers.changes]
    )
    states = [
        State(who, start, email, points, end) for who, start, end, points, email in fold.silver("cliente_historico")
    ]
    return History(events, states)


def test_features_and_reports_of_late_corrected_and_deleted_events_equal_the_reference(
    lakehouse: Lakehouse, tmp_path: Path
) -> None:
    life = lived(seed=1)
    source = tables_of(life)
    tables = DailyTables(local_lakehouse(tmp_path, START.date() - timedelta(days=1)), UNTIL + timedelta(hours=1))
    batches = {table: arrival(contents.changes, life.chance) for table, contents in source.items()}
    for number in range(BATCHES):
        for table, contents in source.items():
            batch = batches[table][number]
            for part in range(3):
                land(lakehouse, table, f"{number}-{part}", batch[part::3])
            if number == 1 and contents.load:
                land_load(lakehouse, table, contents.load)
            done = ingest(lakehouse.store, tables.lakehouse.lake, CONTRACTS[table])
            assert not done.quarantined
        tables.refresh(SILVER)
    history = expected(source, life.instants)

    for name, days in tables.existing().items():
        rows = getattr(reference, name.rpartition(".")[2])
        dtrefs = [*days[::6], days[-1]]
        actual = tables.computed(name, dtrefs)
        assert_same({day: actual.get(day, {}) for day in dtrefs}, {day: rows(history, day) for day in dtrefs}, name)
    unread = unread_dates(tables.lakehouse.lake, SILVER["transacoes"].name, CONTRACTS["transactions"])
    assert (
        unread.zero_dates + unread.unreadable + unread.missing == sum(event.at is None for event in history.events) > 0
    )
    assert tables.existing().keys() == FILES.keys()
    assert {state.email for state in history.states} == {None, 0, 1}
