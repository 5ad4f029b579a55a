"""How a table grew: rows at each of some moments, and how far its newest event was behind, read from its log.

No data file is opened: a version's rows and bounds stand in the log. Versions whose log entries are gone (Delta keeps 30
days of them) are not told of.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.fs as pafs

from upsell_assets.lake.files import folder_of
from upsell_assets.lake.tables import Lake
from upsell_assets.silver.events import day_begins
from upsell_assets.status import newest_of

MOMENTS = 48
"""Versions that are looked at: each is opened, which takes some 10 ms."""


@dataclass(frozen=True)
class Moment:
    """A version of a table: when it was committed (UTC), its rows, and the hours since its newest event then.

    `lag` is None where the table has no times; of a table by dtRef it counts from the beginning of its newest dtRef.
    """

    at: datetime
    rows: int
    lag: float | None


def growth(lake: Lake, name: str, moments: int = MOMENTS) -> list[Moment]:
    """The table at up to so many moments, evenly spread over the time that its log tells of, the newest one last.

    Raises:
        UnknownTableError: the table has not been made.
    """
    return list(_moments(lake, name, _spread(_commits(lake, name), moments)))


def _commits(lake: Lake, name: str) -> list[tuple[datetime, int]]:
    """When each version was committed, as far as a log entry is there."""
    log = pafs.FileSelector(f"{folder_of(lake.open(name))}/_delta_log")
    entries = (
        (info.mtime, re.fullmatch(r"(\d{20})\.json", info.base_name)) for info in lake.files().get_file_info(log)
    )
    return sorted((at.astimezone(UTC), int(found[1])) for at, found in entries if found and at)


def _spread(commits: list[tuple[datetime, int]], moments: int) -> list[tuple[datetime, int]]:
    """The last commit of each of so many equal spans of time."""
    if len(commits) <= moments:
        return commits
    first, span = commits[0][0], (commits[-1][0] - commits[0][0]) / moments
    chosen = {min(int((at - first) / span), moments - 1): (at, version) for at, version in commits}
    return [chosen[number] for number in sorted(chosen)]


def _moments(lake: Lake, name: str, commits: list[tuple[datetime, int]]) -> Iterator[Moment]:
    for at, version in commits:
        table = lake.open(name, version)
        actions = pa.table(table.get_add_actions(flatten=True))
        newest = newest_of(table, actions) if actions.num_rows else None
        begins = day_begins(newest) if isinstance(newest, date) and not isinstance(newest, datetime) else newest
        lag = (at - begins).total_seconds() / 3600 if isinstance(begins, datetime) else None
        yield Moment(at, int(pc.sum(actions["num_records"]).as_py() or 0), lag)
