"""Upkeep of bronze's tables, so that the thousandth small merge costs what the tenth did.

Each merge leaves small files. Where a partition has gathered enough of them they are made into one, in a commit that
changes no row and gives way to any other. Log and checkpoints are kept by Delta itself (`TABLE_PROPERTIES`). Not
here: what a vacuum may delete.
"""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import CommitFailedError

from upsell_assets.bronze.layout import DATE, NO_MONTH, Files
from upsell_assets.bronze.tables import VERSION, changes_name, table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import parquet, quote, reader, text
from upsell_assets.lake.tables import Lake, commit_properties, retry_conflicts
from upsell_assets.raw.files import MODIFIED

SMALL_BYTES = 2 << 20
SMALL_FILES = 16
"""Small files of a partition that are worth a commit of their own: each is then written anew some log(n) times."""

OVERLAP = 3.0
"""How many files of a month may hold a day, on average, before the month is sorted again."""

_EXPIRED = "tombstones expired before"


def tidy(lake: Lake, contract: Contract) -> int:
    """Compact a table, its tombstones and its history, and sort months again, each where it is needed.

    Tombstones expire only where the contract says after how many days.

    Returns:
        The number of files that were replaced.
    """
    if contract.tombstone_days is not None and lake.exists(tombstones_name(contract)):
        before = datetime.now(UTC).replace(microsecond=0) - timedelta(contract.tombstone_days)
        retry_conflicts(tombstones_name(contract), lambda: _expire(lake.open(tombstones_name(contract)), before))
    names = [table_name(contract), tombstones_name(contract), changes_name(contract)]
    tables = [lake.open(name) for name in names if lake.exists(name)]
    replaced = sum(compact(lake, table) for table in tables)
    if contract.immutable_date is not None and tables:
        replaced += _sort_months(lake, lake.open(table_name(contract)))
    return replaced


def compact(lake: Lake, table: DeltaTable) -> int:
    """Make few files of the small ones, in each partition that has many; 0 where somebody else committed at once."""
    small: dict[str, list[int]] = {}
    for file in Files.of(table).table.to_pylist():
        if file["bytes"] < SMALL_BYTES:
            small.setdefault(file["part"], []).append(file["newest"])
    # All that was written since the oldest of them is written again, so that each of them goes.
    return sum(
        _rewrite(lake, table, part, since=min(written))
        for part, written in small.items()
        if len(written) >= SMALL_FILES
    )


def _sort_months(lake: Lake, table: DeltaTable) -> int:
    months: dict[str, list[tuple[int, int]]] = {}
    for file in Files.of(table).table.to_pylist():
        if file["part"] != NO_MONTH and file["first"] is not None:
            months.setdefault(file["part"], []).append((file["first"], file["last"]))
    return sum(_rewrite(lake, table, month) for month, spans in months.items() if _overlap(spans) > OVERLAP)


def _overlap(spans: list[tuple[int, int]]) -> float:
    """In how many of the spans a moment lies, on average over all that they cover."""
    whole = max(last for _, last in spans) - min(first for first, _ in spans)
    return sum(last - first for first, last in spans) / whole if whole else 1.0


def _rewrite(lake: Lake, table: DeltaTable, part: str, *, since: int = 0) -> int:
    """Replace the rows of a partition that were written since a version by themselves, in the order of their dates.

    Not by the library's own compaction: it commits also when another one replaced the same files meanwhile, and then
    every row is there twice.
    """
    partition = table.metadata().partition_columns
    files = Files.of(table).table
    written = pc.field("newest") >= since
    paths = files.filter(written & (pc.field("part") == part))["path"].to_pylist()
    shape = pa.schema(table.schema().to_arrow())
    where = f"{VERSION} >= {since}"
    with reader(lake) as connection:
        connection.register("shape", shape.empty_table())
        connection.execute(
            f"CREATE TEMP VIEW rows AS SELECT * FROM shape UNION ALL BY NAME SELECT * EXCLUDE (filename)"
            f"{''.join(f', {text(part)} AS {quote(name)}' for name in partition)} FROM {parquet(paths)}"
        )
        columns = ", ".join(f"{quote(name)}" for name in shape.names)
        order = f" ORDER BY {DATE}" if DATE in shape.names else ""
        rows = connection.sql(f"SELECT {columns} FROM rows WHERE {where}{order}").to_arrow_reader()
        try:
            write_deltalake(
                table,
                rows,
                mode="overwrite",
                predicate=" AND ".join([where, *(f"{name} = {text(part)}" for name in partition)]),
                commit_properties=commit_properties(),
            )
        except CommitFailedError:
            return 0  # the next merge finds the same need
    return len(paths)


def _expire(table: DeltaTable, before: datetime) -> None:
    """Forget tombstones older than a moment; the table remembers how far (see `expired_before`)."""
    known = expired_before(table)
    if known is None or known < before:
        micros = int(before.timestamp() * 1_000_000)
        table.delete(
            f"{MODIFIED} < '{before:%Y-%m-%dT%H:%M:%S.%f}Z'",
            commit_properties=commit_properties({_EXPIRED: micros}),
        )


def expired_before(tombstones: DeltaTable) -> datetime | None:
    """The moment (UTC) before which tombstones are forgotten; None: none ever was."""
    micros = tombstones.transaction_version(_EXPIRED)
    return None if micros is None else datetime.fromtimestamp(micros / 1_000_000, UTC)
