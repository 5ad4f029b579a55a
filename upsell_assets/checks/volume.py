"""Rows of a table's newest whole day against its own past: a source that fell silent, or that sends all of it twice.

Usual is what lies near the median, by the median absolute deviation (MAD), which a few odd days do not move. What a day's rows are: changes that landed on it (bronze, by the ledger), events of it (silver's transactions), rows of
a dtRef (features, reports, scores, by the table's log). Not here: who is told (`audit`), and whether rows are right.
"""

from __future__ import annotations

import statistics
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta

import pyarrow as pa

from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import reader
from upsell_assets.lake.files import rows_of
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.ledger import Ledger
from upsell_assets.settings import LOCAL_ZONE
from upsell_assets.silver import events

DAYS, LEAST_DAYS = 28, 14
"""Days that a day is held against; with fewer of them nothing is usual yet."""

MOST_DEVIATIONS = 6.0
"""Robust standard deviations (1.4826 MAD) from the median. Of days that scatter as a bell does, one in 500 million is
farther; weekends and the like widen the MAD by themselves."""

LEAST_SHARE = 0.2
"""A day that is nearer to the median than this share of it is usual, however even the other days are."""


@dataclass(frozen=True)
class Volume:
    """A day's rows, and what the days before it say; `usual` is true where these are too few to say anything."""

    day: date | None
    rows: int
    median: float
    deviation: float
    days: int

    @property
    def distance(self) -> float:
        """From the median, in robust standard deviations; of days that are all alike, infinite."""
        away = abs(self.rows - self.median)
        return away / self.deviation if self.deviation else (float("inf") if away else 0.0)

    @property
    def usual(self) -> bool:
        """Whether such a day was to be expected."""
        if self.days < LEAST_DAYS:
            return True
        near = abs(self.rows - self.median) <= LEAST_SHARE * self.median
        return near or self.distance <= MOST_DEVIATIONS


def judge(rows: Mapping[date, int], day: date, *, every_day: bool = True) -> Volume:
    """Hold a day against the (at most 28) days before it; with `every_day` a day that is missing has no rows."""
    if every_day:
        first = min(rows, default=day)
        past = [day - timedelta(back) for back in range(1, DAYS + 1) if day - timedelta(back) >= first]
    else:
        past = sorted((d for d in rows if d < day), reverse=True)[:DAYS]
    counts = [rows.get(d, 0) for d in past]
    if not counts:
        return Volume(day, rows.get(day, 0), 0.0, 0.0, 0)
    median = statistics.median(counts)
    deviation = 1.4826 * statistics.median(abs(count - median) for count in counts)
    return Volume(day, rows.get(day, 0), float(median), deviation, len(counts))


def landed_rows(lake: Lake, contract: Contract) -> dict[date, int]:
    """Accepted changes by landing day (UTC), without those of full loads."""
    found: Counter[date] = Counter()
    for record in Ledger(lake, contract).records().values():
        if record.state == "accepted" and record.file.load is None:
            found[record.file.day] += record.rows
    return dict(found)


def landed_files(lake: Lake, contract: Contract, day: date, limit: int = 5) -> list[str]:
    """The files of a landing day that have the most changes."""
    records = [r for r in Ledger(lake, contract).records().values() if r.state == "accepted" and r.file.day == day]
    return [record.file.key for record in sorted(records, key=lambda r: -r.rows)[:limit]]


def event_rows(lake: Lake, now: datetime) -> dict[date, int]:
    """Transactions by local day, of the days that are looked at.

    Raises:
        UnknownTableError: silver has no transactions yet.
    """
    table = lake.open(events.TRANSACTIONS)
    since = events.day_begins(events.local_day(now) - timedelta(DAYS + 2))
    with reader(lake) as connection:
        found = connection.execute(
            f"SELECT (dtTransacao AT TIME ZONE '{LOCAL_ZONE}')::DATE, count(*) FROM ({rows_of(connection, 'held', table)}) "
            "WHERE dtTransacao >= ? AND dtTransacao <= ? GROUP BY ALL",
            [since, now],
        )
        return dict(found.fetchall())


def dtref_rows(lake: Lake, name: str) -> dict[date, int]:
    """Rows of each dtRef, from the table's log.

    Raises:
        UnknownTableError: the table has not been made.
    """
    found: Counter[date] = Counter()
    for file in pa.table(lake.open(name).get_add_actions(flatten=True)).to_pylist():
        found[file["partition.dtRef"]] += int(file["num_records"])
    return dict(found)


def yesterday(now: datetime) -> date:
    """The last whole day, in UTC, as landing days are."""
    return now.astimezone(UTC).date() - timedelta(1)
