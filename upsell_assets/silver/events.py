"""The local days of events: what a change of silver touches, and from when to when there are events.

Here: days read from rows of silver, in America/Sao_Paulo; events after now do not exist. Not here: which dtRefs
follow from a day (`touched`).
"""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, date, datetime, time

import pyarrow as pa

from upsell_assets.lake.duck import connect, reader
from upsell_assets.lake.files import root_of, rows_of
from upsell_assets.lake.sql import parse_query
from upsell_assets.lake.tables import Lake
from upsell_assets.settings import LOCAL_ZONE
from upsell_assets.silver.difference import Difference
from upsell_assets.silver.touched import EventDays

TRANSACTIONS = "silver.upsell.transacoes"
LINES = "silver.upsell.transacao_produto"
HISTORY = "silver.upsell.cliente_historico"


def local_day(moment: datetime) -> date:
    """The local day of an instant."""
    return moment.astimezone(LOCAL_ZONE).date()


def day_begins(day: date) -> datetime:
    """The instant (UTC) at which a local day begins; where it has no midnight, the first that it has."""
    return datetime.combine(day, time(), LOCAL_ZONE).astimezone(UTC)


def event_days(lake: Lake, now: datetime, change: Difference | None = None) -> EventDays | None:
    """The first and the newest day with an event, now or once `change` of the transactions is committed."""
    with reader(lake) as connection:
        if table := lake.find(TRANSACTIONS):
            times = f"SELECT idTransacao, dtTransacao FROM ({rows_of(connection, 'held', table)})"
        else:
            times = "SELECT '' AS idTransacao, NULL::TIMESTAMPTZ AS dtTransacao WHERE false"
        if change is not None and change.whole:
            connection.register("new", change.new)
            times = "SELECT dtTransacao FROM new"
        elif change is not None:
            connection.register("old", change.old)
            connection.register("new", change.new)
            times = (
                f"SELECT dtTransacao FROM ({times}) ANTI JOIN old USING (idTransacao) "
                "UNION ALL SELECT dtTransacao FROM new"
            )
        found = connection.execute(
            f"SELECT min(dtTransacao), max(dtTransacao) FROM ({times}) WHERE dtTransacao <= ?", [now]
        ).fetchone()
    if found is None or found[0] is None:
        return None
    return EventDays(local_day(found[0]), local_day(found[1]))


_NO_TIMES = pa.array([], pa.timestamp("us", tz="UTC"))


def transaction_days(change: Difference, now: datetime | None = None) -> set[date]:
    """The days of inserted, changed (old and new) and deleted transactions, of those before `now` if it is given."""
    return _days([rows["dtTransacao"] for rows in (change.old, change.new)], now)


def line_days(lake: Lake, change: Difference, now: datetime | None = None) -> tuple[set[date], int]:
    """The days of the transactions whose product lines changed, and the version in which these were looked up.

    A transaction that is not there has no day yet; -1 is the version of a table that was not there. Lines that are all
    made anew are of any day that has transactions.
    """
    if (table := lake.find(TRANSACTIONS)) is None:
        return set(), -1
    if change.whole:
        paths = [f"{root_of(table)}/{path}" for path in pa.table(table.get_add_actions())["path"].to_pylist()]
        ends = ends_of_days(lake, pa.schema(table.schema().to_arrow()), "dtTransacao", paths)
        return _days([ends["dtTransacao"]], now), table.version()
    with reader(lake) as connection:
        connection.register("old", change.old)
        connection.register("new", change.new)
        found = connection.sql(
            f"SELECT DISTINCT dtTransacao FROM ({rows_of(connection, 'held', table)}) "
            "SEMI JOIN (SELECT idTransacao FROM old UNION SELECT idTransacao FROM new) USING (idTransacao)"
        ).to_arrow_table()
    return _days([found["dtTransacao"]], now), table.version()


def ends_of_days(lake: Lake, shape: pa.Schema, column: str, paths: Sequence[str]) -> pa.Table:
    """The first and the last moment of each local day, of files of a table of that shape."""
    shape = pa.schema([shape.field(column)])
    if not paths:
        return shape.empty_table()
    day = f"CAST(FROM_UTC_TIMESTAMP(r.{column}, '{LOCAL_ZONE.key}') AS DATE)"
    found = lake.data.ask(
        lake,
        paths,
        shape,
        parse_query(
            f"SELECT MIN(r.{column}) AS first, MAX(r.{column}) AS last FROM rows AS r "
            f"WHERE r.{column} IS NOT NULL GROUP BY {day}"
        ),
    )
    both = pa.chunked_array([*found["first"].chunks, *found["last"].chunks], shape.field(column).type)
    return pa.table({column: both})


def _days(columns: list[pa.ChunkedArray], now: datetime | None) -> set[date]:
    with connect() as connection:
        connection.register(
            "times", pa.table({"moment": pa.chunked_array([c for a in columns for c in a.chunks], _NO_TIMES.type)})
        )
        rows = connection.execute(
            f"SELECT DISTINCT CAST(moment AT TIME ZONE '{LOCAL_ZONE.key}' AS DATE) FROM times "
            "WHERE moment IS NOT NULL AND (?::TIMESTAMPTZ IS NULL OR moment <= ?)",
            [now, now],
        ).fetchall()
    return {day for (day,) in rows}


def flag_since(change: Difference) -> date | None:
    """The earliest day from which some customer's e-mail flag differs between the old and the new history."""
    if change.whole:
        days = _days([change.old["dtInicio"], change.new["dtInicio"]], None)
        return min(days, default=None)
    with connect() as connection:
        connection.register("old", change.old)
        connection.register("new", change.new)
        # Intervals that differ in the balance only begin and end with the same flag on both sides.
        found = connection.sql(
            f"""
            WITH old_runs AS ({_flag_runs("old")}), new_runs AS ({_flag_runs("new")}),
                 differ AS ((FROM old_runs EXCEPT FROM new_runs) UNION ALL (FROM new_runs EXCEPT FROM old_runs))
            SELECT min(CAST(moment AT TIME ZONE '{LOCAL_ZONE.key}' AS DATE)) FROM differ
            """
        ).fetchone()
    return found[0] if found else None


def _flag_runs(rows: str) -> str:
    """Moments at which a flag begins to hold; the end of an interval is the begin of nothing known."""
    return f"""
        SELECT idCliente, moment, flag FROM (
            SELECT *, lag(flag) OVER (PARTITION BY idCliente ORDER BY moment, begins) AS previous FROM (
                SELECT idCliente, dtInicio AS moment, coalesce(flEmailCliente, -1) AS flag, true AS begins FROM {rows}
                UNION ALL
                SELECT idCliente, dtFim, -2, false FROM {rows} AS o WHERE dtFim IS NOT NULL AND NOT EXISTS (
                    SELECT 1 FROM {rows} AS n WHERE n.idCliente = o.idCliente AND n.dtInicio = o.dtFim)
            )
        ) WHERE previous IS DISTINCT FROM flag
    """
