"""A lake of all layers for tests of engines, made step by step as its assets make it; and its tables, to be compared."""

from __future__ import annotations

import random
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs
import pytest
from bronze_steps import SILVER, Change, End, end, take_in

from upsell_assets.aggregates import AGGREGATES
from upsell_assets.dtref_assets import current_tables, timed_query
from upsell_assets.dtref_files import declared_files, key_of
from upsell_assets.lake.engines import Engine
from upsell_assets.lake.portions import replace_by_query
from upsell_assets.lake.sql import load_sql
from upsell_assets.lake.tables import Lake
from upsell_assets.silver.refresh import refresh

NOW = datetime(2024, 5, 1, tzinfo=UTC)
LEARNT = datetime(2024, 4, 1, tzinfo=UTC)
DTREFS = [date(2024, 2, 10), date(2024, 3, 1), date(2024, 3, 2)]
ORDER = ("cliente", "transacao_produto", "transacoes", "cliente_historico", "produtos")

FILES = {table.name for table in SILVER.values()}
DAILY = declared_files(FILES)
OF_THE_MOMENT = ("_ingested_at", "_computed_at", "_recorded_at", "_version")
"""Columns that say when, or by which commit, a row was written."""


def rounds(seed: int, count: int = 2) -> Iterator[list[Change | End]]:
    """Changes as they land, of few keys: new, moved to other days and customers, late, deleted; and ends of loads."""
    chosen = random.Random(seed)

    def transaction(seq: int, op: str) -> Change:
        at = datetime(2024, 2, 1, tzinfo=UTC) + timedelta(days=chosen.randint(0, 40), hours=chosen.choice([2, 3, 15]))
        values = (chosen.choice("abc"), at.strftime("%Y-%m-%d %H:%M:%S"), chosen.randint(-9, 9))
        return Change("transactions", f"t{chosen.randint(0, 60)}", op, seq, () if op == "D" else values)

    def line(seq: int, op: str) -> Change:
        names = ["ChatMessage", "R Lover", "Lista de presença", "Something else", None]
        values = (f"t{chosen.randint(0, 60)}", chosen.choice(names), chosen.randint(1, 3))
        return Change("transactions_product", f"l{chosen.randint(0, 60)}", op, seq, () if op == "D" else values)

    def customer(seq: int, op: str) -> Change:
        values = (chosen.choice([None, *range(9)]), chosen.randint(0, 1))
        return Change("customers", chosen.choice("abcd"), op, seq, () if op == "D" else values, hour=seq)

    for number in range(count):
        first, ops = 1000 * number, "UUUD" if number else "U"
        changes: list[Change | End] = [transaction(first + seq, chosen.choice(ops)) for seq in range(40)]
        changes += [line(first + seq, chosen.choice(ops)) for seq in range(40)]
        changes += [customer(first + seq, chosen.choice(ops)) for seq in range(6)]
        # Late ones, whose keys newer changes have been heard of.
        changes += [transaction(max(first - 500 + seq, seq), "U") for seq in range(5)]
        if number:
            changes += [End(table, first + 20, hour=first + 20) for table in ("transactions", "customers")]
        yield changes


def land(lake: Lake, changes: list[Change | End]) -> None:
    """Merge what landed."""
    clock = lambda: LEARNT  # noqa: E731 (one moment, so that tables can be compared)
    take_in(lake, *(change for change in changes if isinstance(change, Change)), clock=clock)
    for change in changes:
        if isinstance(change, End):
            end(lake, change, clock)


def compute(engine: Engine) -> None:
    """Bring silver, the aggregates, features and gold up to date."""
    for name in ORDER:
        refresh(engine.lake, engine, SILVER[name])
    compute_daily(engine, DTREFS)


def compute_daily(engine: Engine, dtrefs: list[date]) -> None:
    """Bring the aggregates up to date, and replace features and gold of these dtRefs."""
    for sql in DAILY:
        kept = load_sql(sql.path, tables=AGGREGATES)
        query = timed_query(kept, NOW, current_tables(engine.lake, engine, kept)).over(dtrefs)
        replace_by_query(engine, sql.name, query, {"dtRef": [str(day) for day in dtrefs]}, key_of(sql))


def tables(lake: Lake) -> dict[str, pa.Table]:
    """What every table holds, without what each writing of it makes anew, in the order of its columns."""
    names = [
        ".".join(info.path.split("/"))
        for layer in ("bronze", "silver", "feature_store", "gold")
        for info in lake.files().get_file_info(pafs.FileSelector(f"{layer}/upsell", allow_not_found=True))
    ]
    found = {}
    for name in sorted(names):
        rows = lake.rows(lake.open(name)).to_table()
        if name != "silver.upsell._changed_days":  # speaks of versions, of which engines make different numbers
            found[name] = rows.select(sorted(column for column in rows.column_names if column not in OF_THE_MOMENT))
    return found


def assert_equal(actual: dict[str, pa.Table], expected: dict[str, pa.Table]) -> None:
    """Every table has the same rows, in the same types; floats within 1e-9 of each other."""
    assert actual.keys() == expected.keys()
    for name, wanted in expected.items():
        assert actual[name].schema.equals(wanted.schema), name
        assert _rows(actual[name]) == _rows(wanted), name


def _rows(table: pa.Table) -> list[dict[str, Any]]:
    floats = [column.name for column in table.schema if pa.types.is_floating(column.type)]
    exact = [column.name for column in table.schema if column.name not in floats]
    ordered = table.take(pc.sort_indices(table, [(name, "ascending", "at_end") for name in exact])).to_pylist()
    for row in ordered:
        row.update({name: pytest.approx(row[name], rel=1e-9) for name in floats if row[name] is not None})
    return ordered
