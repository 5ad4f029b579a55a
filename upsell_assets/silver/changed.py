"""Which local days the commits of silver changed: what is kept of a day (`aggregates`) is made anew for these only.

One small Delta table, written before the commit that it speaks of, so that a crash repeats rather than forgets. Every
commit has a row, with a null day where it changed no day: a version that is not there was not written by silver's
refresh, and then nobody knows. Here: the table. Not here: how the days of a change are found (`events`), or which
dtRefs follow from them (`touched`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import write_deltalake

from upsell_assets.bronze.upkeep import compact
from upsell_assets.lake.tables import Lake

NAME = "silver.upsell._changed_days"
_SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("version", pa.int64()),
        ("day", pa.date32()),
        # Of the transactions, when the days of changed product lines were looked up in them.
        ("transactions_version", pa.int64()),
    ]
)


def note(lake: Lake, table: str, version: int, days: Iterable[date], transactions_version: int | None = None) -> None:
    """Write down which days the commit that makes this version of a table changes."""
    rows = [
        {"table": table, "version": version, "day": day, "transactions_version": transactions_version}
        for day in (*sorted(days),) or (None,)
    ]
    noted = lake.open_or_create(NAME, _SCHEMA)
    # Appends never conflict with each other: the library's own retries are right here.
    write_deltalake(noted, pa.Table.from_pylist(rows, _SCHEMA), mode="append")
    compact(lake, lake.open(NAME))


def changed_days(lake: Lake, since: Mapping[str, int], until: Mapping[str, int], transactions: str) -> set[date] | None:
    """The days that changed between two sets of versions (table -> version); None: nobody knows.

    Args:
        lake: where the tables lie.
        since: versions that were looked at before.
        until: versions that are looked at now; they were opened before this is called.
        transactions: the table in which the days of product lines were looked up. Where lines were looked up in an
            older version than was looked at since, their transactions may have moved to another day meanwhile.
    """
    if any(until[table] < version for table, version in since.items()):
        return None  # made anew
    if since == until:
        return set()
    noted = lake.rows(lake.open_or_create(NAME, _SCHEMA))
    days: set[date] = set()
    for table, version in since.items():
        of_table = pc.field("table") == table
        news = noted.to_table(filter=of_table & (pc.field("version") > version) & (pc.field("version") <= until[table]))
        looked_up = pc.min(news["transactions_version"]).as_py()
        if set(news["version"].to_pylist()) != set(range(version + 1, until[table] + 1)):
            return None
        if looked_up is not None and looked_up < since.get(transactions, 0):
            return None
        days |= {day for day in news["day"].to_pylist() if day is not None}
    return days
