"""The layers' SQL, run in DuckDB over tables made in memory.

Here: silver's tables out of a reference history, running one file, and comparing its rows with expected ones. Not
here: what is expected (`reference`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
from reference import History, Keyed

import upsell_assets
from upsell_assets.lake.engines import Query
from upsell_assets.lake.sql import Parameter, SqlFile, bind, load_sql, to_duckdb

PACKAGE = Path(upsell_assets.__file__).parent
INSTANT = pa.timestamp("us", tz="UTC")


@cache
def sql_file(name: str) -> SqlFile:
    """By its name in the package: `gold/daily_report`."""
    return load_sql(PACKAGE / f"{name}.sql")


def silver(history: History) -> dict[str, pa.Table]:
    """Silver's tables of a history; ids are the positions in it."""
    events = list(enumerate(history.events))
    lines = [(str(number), name) for number, event in events for name in event.products]
    return {
        "silver.upsell.transacoes": pa.table(
            {
                "idTransacao": pa.array([str(number) for number, _ in events], pa.string()),
                "idCliente": pa.array([event.customer for _, event in events], pa.string()),
                "dtTransacao": pa.array([event.at for _, event in events], INSTANT),
                "nrPontosTransacao": pa.array([event.points for _, event in events], pa.int64()),
            }
        ),
        "silver.upsell.transacao_produto": pa.table(
            {
                "idTransacaoProduto": pa.array([str(number) for number, _ in enumerate(lines)], pa.string()),
                "idTransacao": pa.array([number for number, _ in lines], pa.string()),
                "descNomeProduto": pa.array([name for _, name in lines], pa.string()),
                "nrQuantidadeProduto": pa.array([1] * len(lines), pa.int64()),
            }
        ),
        "silver.upsell.cliente_historico": pa.table(
            {
                "idCliente": pa.array([state.customer for state in history.states], pa.string()),
                "dtInicio": pa.array([state.start for state in history.states], INSTANT),
                "flEmailCliente": pa.array([state.email for state in history.states], pa.int64()),
                "nrPontosCliente": pa.array([state.points for state in history.states], pa.int64()),
                "dtFim": pa.array([state.end for state in history.states], INSTANT),
            }
        ),
    }


def run(
    name: str,
    tables: Mapping[str, pa.Table],
    dtrefs: Iterable[date] = (),
    params: Mapping[str, Parameter] | None = None,
) -> pa.Table:
    """What a file gives over these tables, for these dtRefs."""
    query = sql_file(name)
    asked = Query(query.tree, params or {}).over(dtrefs)
    given = {**tables, **asked.relations}
    names = {table: table.replace(".", "_") for table in query.tables}
    with duckdb.connect() as connection:
        connection.execute("SET TimeZone = 'UTC'")
        for table, alias in names.items():
            connection.register(alias, given[table])
        return connection.execute(to_duckdb(bind(query.tree, names, asked.params))).to_arrow_table()


def by_dt_ref(table: pa.Table, key: str | None) -> dict[date, Keyed]:
    """dtRef -> key -> the other columns; a table without a key has one row a dtRef, under None."""
    found: dict[date, Keyed] = {}
    for row in table.to_pylist():
        rows = found.setdefault(row.pop("dtRef"), {})
        name = row.pop(key) if key else None
        assert name not in rows, f"two rows of {name}"
        rows[name] = row
    return found


def assert_same(actual: Mapping[Any, Any], expected: Mapping[Any, Any], where: str = "") -> None:
    """Equal keys in equal order, integers exactly, floats within 1e-9; never an integer for a float."""
    assert set(actual) == set(expected), f"{where}: {set(actual) ^ set(expected)}"
    for key, wanted in expected.items():
        got, place = actual[key], f"{where} {key}"
        if isinstance(wanted, Mapping):
            assert_same(got, wanted, place)
        elif isinstance(wanted, float):
            assert isinstance(got, float), f"{place}: {got!r} is no float"
            assert math.isclose(got, wanted, rel_tol=1e-9), f"{place}: {got} is not {wanted}"
        else:
            assert type(got) is type(wanted), f"{place}: {got!r} is no {type(wanted).__name__}"
            assert got == wanted, f"{place}: {got!r} is not {wanted!r}"


def utc(text: str) -> datetime:
    """An instant, from ISO text that ends in its offset."""
    moment = datetime.fromisoformat(text)
    assert moment.tzinfo is not None
    return moment
