"""What `bench_features` computes features of, and what must come out.

Here: a points system of so many transactions over 400 days, as silver tables and as changes for bronze, and the oracle.
Customers come in sessions of eight transactions, as in the real data of 2024; few come often, many seldom. Every row
follows from its number. Not here: who computes features, and how fast.
"""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from itertools import chain
from pathlib import Path
from typing import Any

import pyarrow as pa

from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import connect
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import change_schema

sys.path.insert(0, str(Path(__file__).parents[1] / "upsell_assets_tests"))

import reference
from reference import Event, History, State

START, DAYS, SESSION = datetime(2023, 12, 1, 11, tzinfo=UTC), 400, 8
LAST_DTREF = START.date() + timedelta(DAYS - 10)
"""A dtRef with events after it."""

NOW = START + timedelta(DAYS + 30)
BATCH = 100_000

REFERENCES = {
    "feature_store.upsell.fs_geral": reference.fs_geral,
    "feature_store.upsell.fs_pontos": reference.fs_pontos,
    "feature_store.upsell.fs_transacoes": reference.fs_transacoes,
    "feature_store.upsell.fs_dia_horario": reference.fs_dia_horario,
}

_EVENTS = f"""
    SELECT
        number,
        md5('t' || number)::UUID::VARCHAR AS "idTransacao",
        md5('c' || customer)::UUID::VARCHAR AS "idCliente",
        TIMESTAMPTZ '{START.isoformat()}' + to_days(day) + to_milliseconds(
            (hash(session) % 50400000)::BIGINT + position * 97000 + (hash(number) % 90000)::BIGINT) AS "dtTransacao",
        CASE WHEN hash(number) % 20 = 0 THEN -((hash(session, position) % 200)::BIGINT)
            ELSE (hash(session, position) % 5)::BIGINT + 1 END AS "nrPontosTransacao"
    FROM (
        SELECT session, position, session * {SESSION} + position AS number,
            (session * {DAYS} // ?)::INT AS day,
            floor(? * pow(hash(session) % 1000003 / 1000003, 2))::BIGINT AS customer
        FROM range(?, ?) AS s(session), range({SESSION}) AS p(position)
    )
"""
_LINES = """
    SELECT
        md5('l' || number)::UUID::VARCHAR AS "idTransacaoProduto",
        md5('t' || number)::UUID::VARCHAR AS "idTransacao",
        ['Lista de presença', 'Resgatar Ponei', 'Presença Streak', 'Venda de Item: Espada', 'Churn_5pp', 'R Lover',
            'Airflow Lover', 'Something else', 'Daily Loot', 'Lista de presença', 'Lista de presença',
            'Lista de presença', 'ChatMessage'][least(hash(number, 7) % 100, 12)::INT + 1] AS "descNomeProduto",
        1::BIGINT AS "nrQuantidadeProduto"
    FROM range(?, ?) AS r(number)
"""
_HISTORY = f"""
    SELECT
        md5('c' || range)::UUID::VARCHAR AS "idCliente",
        TIMESTAMPTZ '{START.isoformat()}' + to_days((hash(range) % 300)::INT) AS "dtInicio",
        (hash(range) % 2)::BIGINT AS "flEmailCliente",
        5::BIGINT AS "nrPontosCliente",
        NULL::TIMESTAMPTZ AS "dtFim"
    FROM range(?)
"""


def _sessions(transactions: int) -> int:
    return transactions // SESSION


def _customers(transactions: int) -> int:
    return max(transactions // 200, 5)


def _batches(transactions: int) -> Iterator[tuple[int, int]]:
    """Numbers of sessions, from and until."""
    step = BATCH // SESSION
    for first in range(0, _sessions(transactions), step):
        yield first, min(first + step, _sessions(transactions))


def events(transactions: int, first: int, until: int) -> pa.Table:
    """Rows of silver's transactions, by the numbers of their sessions, in the order of time."""
    numbers = [_sessions(transactions), _customers(transactions), first, until]
    with connect() as connection:
        return connection.execute(
            f'SELECT * EXCLUDE (number) FROM ({_EVENTS}) ORDER BY "dtTransacao"', numbers
        ).to_arrow_table()


def lines(first: int, until: int) -> pa.Table:
    """Rows of silver's product lines."""
    with connect() as connection:
        return connection.execute(_LINES, [first * SESSION, until * SESSION]).to_arrow_table()


def history(transactions: int) -> pa.Table:
    """Rows of the customers' history."""
    with connect() as connection:
        return connection.execute(_HISTORY, [_customers(transactions)]).to_arrow_table()


def fill_silver(lake: Lake, transactions: int) -> None:
    """Silver's tables, as they are after many refreshes."""
    parts = {
        "transacoes": (events(transactions, *batch) for batch in _batches(transactions)),
        "transacao_produto": (lines(*batch) for batch in _batches(transactions)),
        "cliente_historico": iter([history(transactions)]),
    }
    for name, tables in parts.items():
        head = next(tables)
        batches = (batch for table in chain([head], tables) for batch in table.to_batches())
        lake.replace(f"silver.upsell.{name}", pa.RecordBatchReader.from_batches(head.schema, batches), partitions={})


def changes(contract: Contract, transactions: int) -> Iterator[pa.Table]:
    """The same events as the inserts of a source table that made them."""
    for number, (first, until) in enumerate(_batches(transactions)):
        if contract.table == "transactions":
            rows = events(transactions, first, until)
            columns = [rows["idTransacao"], rows["idCliente"], _texts(rows["dtTransacao"]), rows["nrPontosTransacao"]]
        elif contract.table == "transactions_product":
            columns = lines(first, until).columns
        else:
            if number:
                return
            rows = history(transactions)
            columns = [rows["idCliente"], rows["nrPontosCliente"], rows["flEmailCliente"]]
        yield as_changes(contract, columns, number)


def _texts(moments: pa.ChunkedArray) -> pa.ChunkedArray:
    with connect() as connection:
        connection.register("rows", pa.table({"moment": moments}))
        return connection.sql("SELECT strftime(moment, '%Y-%m-%d %H:%M:%S.%g') AS text FROM rows").to_arrow_table()[
            "text"
        ]


def as_changes(contract: Contract, columns: list[Any], batch: int, op: str = "I") -> pa.Table:
    """Change rows with these values of the contract's columns."""
    count = len(columns[0])
    sequence = pa.array([f"{batch:06d}-{row:08d}" for row in range(count)])
    file = f"raw/upsell/cdc/{contract.table}/{batch:06d}.parquet"
    moment = pa.scalar(START + timedelta(days=1), pa.timestamp("us", tz="UTC"))
    internal = [
        pa.repeat(op, count),
        pa.repeat(moment, count),
        sequence,
        pa.repeat(file, count),
        pa.array(range(count)),
    ]
    return pa.table([*columns, *internal], names=change_schema(contract).names).cast(change_schema(contract))


def known_life(lake: Lake, customers: list[str]) -> History:
    """All that silver knows of some customers, for the plain-Python reference."""
    with connect() as connection:
        for name in ("transacoes", "transacao_produto", "cliente_historico"):
            connection.register(name, lake.rows(lake.open(f"silver.upsell.{name}")))
        connection.execute("CREATE TABLE own AS FROM transacoes WHERE list_contains(?, idCliente)", [customers])
        carts: dict[str, list[str | None]] = defaultdict(list)
        for key, product in connection.sql(
            "SELECT idTransacao, descNomeProduto FROM transacao_produto SEMI JOIN own USING (idTransacao)"
        ).fetchall():
            carts[key].append(product)
        found = connection.sql("SELECT idTransacao, idCliente, dtTransacao, nrPontosTransacao FROM own").fetchall()
        states = connection.execute(
            "SELECT idCliente, dtInicio, flEmailCliente, nrPontosCliente, dtFim FROM cliente_historico "
            "WHERE list_contains(?, idCliente)",
            [customers],
        ).fetchall()
    return History(
        [Event(customer, at, points, tuple(carts[key])) for key, customer, at, points in found],
        [State(*state) for state in states],
    )


def wrong_features(lake: Lake, dtrefs: list[date], customers: int = 40) -> list[str]:
    """What some customers' features are not, at these dtRefs, by the plain-Python reference."""
    with connect() as connection:
        connection.register("rows", lake.rows(lake.open("feature_store.upsell.fs_geral")))
        drawn = connection.execute(
            'SELECT DISTINCT "idCliente" FROM rows WHERE "dtRef" = ? ORDER BY md5("idCliente") LIMIT ?',
            [dtrefs[-1], customers],
        ).fetchall()
        chosen = [customer for (customer,) in drawn]
        life = known_life(lake, chosen)
        wrong = [] if chosen else ["no customers"]
        for name, rows in REFERENCES.items():
            connection.register("rows", lake.rows(lake.open(name)))
            for day in dtrefs:
                held = connection.execute(
                    'SELECT * EXCLUDE ("dtRef", _computed_at) FROM rows WHERE "dtRef" = ? AND list_contains(?, "idCliente")',
                    [day, chosen],
                ).to_arrow_table()
                ours = {row.pop("idCliente"): row for row in held.to_pylist()}
                wrong += [f"{name} {day} {key}" for key in _differing(ours, rows(life, day))]
    return wrong


def _differing(ours: dict[str, Any], theirs: dict[str, Any]) -> list[str]:
    return [
        f"{customer}.{column}"
        for customer in ours.keys() | theirs.keys()
        for column in ours.get(customer) or theirs[customer]
        if not _same(ours.get(customer, {}).get(column), theirs.get(customer, {}).get(column))
        or (customer in ours) != (customer in theirs)
    ]


def _same(a: Any, b: Any) -> bool:
    if a is None or b is None:
        return a is b
    return abs(a - b) <= 1e-9 * max(abs(a), abs(b), 1)


def wrong_reports(lake: Lake, dtrefs: list[date]) -> list[str]:
    """What the totals of the reports are not, at these dtRefs, counted over the events by queries of their own."""
    wrong = []
    with connect() as connection:
        connection.register("events", lake.rows(lake.open("silver.upsell.transacoes")))
        connection.execute(
            'CREATE TABLE days AS SELECT ("dtTransacao" AT TIME ZONE \'America/Sao_Paulo\')::DATE AS day, "idCliente" AS c, '
            'count(*) AS n, sum("nrPontosTransacao") AS points FROM events GROUP BY ALL'
        )
        for name, window in (("daily_report", 1), ("monthly_report", 28)):
            connection.register("report", lake.rows(lake.open(f"gold.upsell.{name}")))
            for day in dtrefs:
                expected = connection.execute(
                    "SELECT sum(n), count(DISTINCT c), sum(points) FROM days WHERE day > ?::DATE - ? AND day <= ?",
                    [day, window, day],
                ).fetchall()
                found = connection.execute(
                    'SELECT "nrQuantidadeTrasacoes", "nrQuantidadeClientes", "nrQuantidadePontos" FROM report '
                    'WHERE "dtRef" = ? AND "descNomeProduto" IS NULL',
                    [day],
                ).fetchall()
                if found != expected:
                    wrong.append(f"{name} {day}: {found}, not {expected}")
        connection.register("report", lake.rows(lake.open("gold.upsell.churn_report")))
        for day in dtrefs:
            expected = connection.execute(
                "WITH old AS (SELECT DISTINCT c FROM days WHERE day > $1::DATE - 56 AND day <= $1::DATE - 28), "
                "new AS (SELECT DISTINCT c FROM days WHERE day > $1::DATE - 28 AND day <= $1::DATE) "
                "SELECT (SELECT count(*) FROM old), (SELECT count(*) FROM old SEMI JOIN new USING (c))",
                [day],
            ).fetchall()
            found = connection.execute(
                'SELECT "qtdeBaseOld", "qtdeBaseNewNotChurn" FROM report WHERE "dtRef" = ?', [day]
            ).fetchall()
            if found != expected:
                wrong.append(f"churn_report {day}: {found}, not {expected}")
    return wrong
