"""Upkeep of bronze's tables, so that the thousandth small merge costs what the tenth did.

Each merge of new keys leaves small files. Where a part of a table has gathered enough of them they are put together, in
a commit that changes no row and gives way to any other. Log and checkpoints are kept by Delta itself
(`TABLE_PROPERTIES`). Not here: which files may be deleted (`lake.vacuum`), and how far silver has read (`upkeep`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable
from deltalake.exceptions import CommitFailedError

from upsell_assets.bronze.layout import DATE, Files, partition_of
from upsell_assets.bronze.tables import VERSION, changes_name, late_name, table_name, tombstones_name
from upsell_assets.bronze.write import grouped, old_files
from upsell_assets.clock import Clock, utc_now
from upsell_assets.contracts import Contract
from upsell_assets.lake.commits import commit_properties, retry_conflicts
from upsell_assets.lake.files import NewFile, exchange
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import MODIFIED

SMALL_FILES = 16
"""Small files (less than half as large as new ones) of a part that are worth a commit of their own."""

OVERLAP = 3.0
"""How many files of a month may hold a day, on average, before the month is sorted again."""

_EXPIRED = "tombstones expired before"


@dataclass(frozen=True)
class Tidied:
    """What was done to a table (or would be): files that others took the place of, and rows that are forgotten."""

    replaced: int = 0
    expired: int = 0


def tidy(
    lake: Lake,
    contract: Contract,
    read_until: int | None = None,
    *,
    dry_run: bool = False,
    clock: Clock = utc_now,
) -> dict[str, Tidied]:
    """Compact a table and what lies beside it, and sort months again, each where it is needed.

    Tombstones expire only where the contract says after how many days.

    Args:
        lake: where the tables lie.
        contract: the table.
        read_until: the version of the tombstones that everybody has read who takes deletes from them; newer ones do not
            expire, however old the deletes are that they tell of. None: nobody does.
        dry_run: only tell.
        clock: says when tombstones are old.

    Returns:
        What was done, by the tables that there are.

    Raises:
        RetryableError: other writers kept committing while tombstones expired.
    """
    names = (table_name(contract), tombstones_name(contract), changes_name(contract), late_name(contract))
    done = {}
    for name in names:
        if not lake.exists(name):
            continue
        expired = 0
        if name == tombstones_name(contract) and contract.tombstone_days is not None:
            before = clock().replace(microsecond=0) - timedelta(contract.tombstone_days)
            expired = _expire_tombstones(lake, name, before, read_until, dry_run=dry_run)
        replaced = compact(lake, lake.open(name), dry_run=dry_run)
        if name == table_name(contract) and contract.immutable_date is not None:
            replaced += _sort_months(lake, lake.open(name), dry_run=dry_run)
        done[name] = Tidied(replaced, expired)
    return done


def compact(lake: Lake, table: DeltaTable, *, dry_run: bool = False) -> int:
    """Put small files together, in each part that has many; how many there were (0: somebody else committed at once)."""
    files = Files.of(table)
    small = pc.less(pc.multiply(files.table["rows"], 2), files.rows_per_file())
    many = (of_part for of_part in _by_part(files.table.filter(small)) if of_part.num_rows >= SMALL_FILES)
    return _rewrite_each(lake, table, many, files.rows_per_file(), dry_run=dry_run)


def _sort_months(lake: Lake, table: DeltaTable, *, dry_run: bool) -> int:
    files = Files.of(table)
    unsorted = (
        of_month
        for of_month in _by_part(files.table.filter(pc.is_valid(files.table["first"])))
        if _overlap(list(zip(of_month["first"].to_pylist(), of_month["last"].to_pylist(), strict=True))) > OVERLAP
    )
    return _rewrite_each(lake, table, unsorted, files.rows_per_file(), dry_run=dry_run)


def _rewrite_each(lake: Lake, table: DeltaTable, parts: Iterable[pa.Table], limit: int, *, dry_run: bool) -> int:
    return sum(files.num_rows if dry_run else _rewrite(lake, table, files, limit) for files in parts)


def _by_part(files: pa.Table) -> list[pa.Table]:
    return [files.filter(pc.equal(files["part"], part)) for part in pc.unique(files["part"]).to_pylist()]


def _overlap(spans: list[tuple[int, int]]) -> float:
    """In how many of the spans a moment lies, on average over all that they cover."""
    whole = max(last for _, last in spans) - min(first for first, _ in spans)
    return sum(last - first for first, last in spans) / whole if whole else 1.0


def _rewrite(lake: Lake, table: DeltaTable, files: pa.Table, limit: int) -> int:
    """Put files of one part together, in the order of their dates where they have some; returns how many there were.

    Not by the library's own compaction: it commits also when another one replaced the same files meanwhile, and then
    every row is there twice.
    """
    partition = partition_of(table, files["part"][0].as_py())
    dated = files["first"].null_count == 0
    if dated:
        new = _by_date(lake, files, limit, partition)
    else:
        new = [NewFile(kept=group.paths, partition=partition) for group in grouped(files, limit)]
    added = lake.data.write(lake, table, new)
    try:
        exchange(table, added, old_files(table, files), changes=False)
    except CommitFailedError:
        return 0  # the next merge finds the same need
    return int(files.num_rows)


def _by_date(lake: Lake, files: pa.Table, limit: int, partition: dict[str, str]) -> list[NewFile]:
    """Files of these ones' rows, each of a stretch of time, with about so many rows."""
    paths = files["path"].to_pylist()
    pieces = -(-(pc.sum(files["rows"]).as_py()) // limit)
    cuts = lake.data.quantiles(lake, paths, DATE, pieces)
    return [
        NewFile(kept=paths, within=(DATE, first, last), partition=partition)
        for first, last in pairwise([None, *cuts, None])
    ]


def _expire_tombstones(lake: Lake, name: str, before: datetime, read_until: int | None, *, dry_run: bool) -> int:
    """Forget tombstones older than a moment that everybody has read; the table remembers the moment.

    How many rows; see `expired_before`.
    """
    moment = f"{before:%Y-%m-%dT%H:%M:%S.%f}Z"
    condition = f"{MODIFIED} < '{moment}'" + ("" if read_until is None else f" AND {VERSION} <= {read_until}")
    found = pc.field(MODIFIED) < pa.scalar(before, pa.timestamp("us", tz="UTC"))
    if read_until is not None:
        found &= pc.field(VERSION) <= read_until

    def expire() -> int:
        table = lake.open(name)
        rows = int(lake.rows(table).count_rows(filter=found))
        if rows and not dry_run:
            # What nothing was forgotten of can still be judged: the moment moves with rows only.
            micros = max(int(before.timestamp() * 1_000_000), table.transaction_version(_EXPIRED) or 0)
            table.delete(condition, commit_properties=commit_properties({_EXPIRED: micros}))
        return rows

    return retry_conflicts(name, expire)


def expired_before(tombstones: DeltaTable) -> datetime | None:
    """The moment (UTC) before which tombstones are forgotten; None: none ever was."""
    micros = tombstones.transaction_version(_EXPIRED)
    return None if micros is None else datetime.fromtimestamp(micros / 1_000_000, UTC)
