"""Which local days the commits of silver changed: what is kept of a day (`aggregates`) is made anew for these only.

One small Delta table, written before the commit that it speaks of, so that a crash repeats rather than forgets. Every
commit has a row, with a null day where it changed no day: a version that is not there was not written by silver's
refresh, and then nobody knows. Here: the table. Not here: how the days of a change are found (`events`), or which
dtRefs follow from them (`touched`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import date
from functools import reduce
from operator import or_

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import write_deltalake

from upsell_assets.bronze.upkeep import compact
from upsell_assets.lake.commits import commit_properties, retry_conflicts
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


def read_until(lake: Lake, readers: Mapping[str, Iterable[str]]) -> dict[str, int]:
    """The version of each table of silver up to which all of its readers have taken in what changed.

    Args:
        lake: where the tables lie.
        readers: tables that keep the versions that they are made from, and which tables these are. One that is not
            there yet, or does not say, begins with everything, and needs none of the days.
    """
    until: dict[str, int] = {}
    for reader, sources in readers.items():
        table = lake.find(reader)
        for source in sources:
            if table is not None and (at := table.transaction_version(source)) is not None:
                until[source] = min(at, until.get(source, at))
    return until


def expire(lake: Lake, until: Mapping[str, int], *, dry_run: bool = False) -> int:
    """Forget the days of commits that all have taken in (see `read_until`); how many rows they had.

    Raises:
        RetryableError: other writers kept committing in between.
    """
    conditions = [f"(\"table\" = '{table}' AND version <= {version})" for table, version in sorted(until.items())]
    taken = [(pc.field("table") == table) & (pc.field("version") <= version) for table, version in until.items()]
    if not taken:
        return 0

    def forget() -> int:
        noted = lake.open_or_create(NAME, _SCHEMA)
        rows = int(lake.rows(noted).count_rows(filter=reduce(or_, taken)))
        if rows and not dry_run:
            noted.delete(" OR ".join(conditions), commit_properties=commit_properties())
        return rows

    return retry_conflicts(NAME, forget)


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
