"""The ledger: which files were taken in, which are in quarantine, and why.

One Delta table per schema, `raw.<schema>._ledger`, partitioned by table, only ever appended to: the newest record
of a version of a file (key and etag) counts. A file is written down after its rows are in bronze, so that a crash
in between repeats it, which changes nothing. A full load is written down when it has ended, by the file that
declares it. Small files are put together on the way: a ledger of a thousand commits is read as fast as one of ten.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Set
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import reduce
from operator import and_
from typing import Literal, NamedTuple

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable, WriterProperties, write_deltalake
from deltalake.exceptions import CommitFailedError

from upsell_assets.contracts import Contract
from upsell_assets.lake.commits import commit_properties, retry_conflicts
from upsell_assets.lake.tables import Lake, UnknownTableError
from upsell_assets.raw.landing import EVER, LandedFile, Window

State = Literal["accepted", "quarantined", "retry"]

SCHEMA = pa.schema(
    [
        ("table", pa.string()),
        ("day", pa.date32()),
        ("key", pa.string()),
        ("etag", pa.string()),
        ("size", pa.int64()),
        ("rows", pa.int64()),
        ("state", pa.string()),
        ("reason", pa.string()),
        ("load", pa.string()),
        ("position", pa.string()),
        ("recorded_at", pa.timestamp("us", tz="UTC")),
        ("decisions", pa.list_(pa.string())),
    ]
)
SMALL_FILES = 16
"""More than so many files of one table are put together."""
GROUP_ROWS = 16_384
"""Records that are read together, of neighbouring days: a tick reads those of its own days."""


@dataclass(frozen=True)
class Record:
    """What the ledger says of one version of one file.

    `position` is the one that a full load gave its rows, `decisions` what was made of columns that are not as the
    contract has them. `recorded_at` (UTC) is set when the record is read.
    """

    file: LandedFile
    state: State
    rows: int = 0
    reason: str | None = None
    position: str | None = None
    decisions: tuple[str, ...] = ()
    recorded_at: datetime | None = field(default=None, compare=False)


class Known(NamedTuple):
    """What must be known of a file to tell whether there is anything to do for it."""

    state: State
    position: str | None


KnownFiles = dict[tuple[str, str], Known]
"""What the newest record of each file says, by key and etag."""

Records = dict[tuple[str, str], Record]
"""The newest record of each file, by key and etag."""


@dataclass(frozen=True)
class Ledger:
    """The ledger of one table."""

    lake: Lake
    contract: Contract

    @property
    def name(self) -> str:
        """The ledger's own table."""
        return f"raw.{self.contract.schema_name}._ledger"

    def records(self, window: Window = EVER) -> Records:
        """The newest record of each file (key, etag) that landed in the window."""
        wanted = pc.scalar(True)
        if window.first is not None:
            wanted &= pc.field("day") >= window.first
        if window.last is not None:
            wanted &= pc.field("day") <= window.last
        return {(record.file.key, record.file.etag): record for record in _records(self._rows(wanted))}

    def known(self, files: Iterable[LandedFile]) -> KnownFiles:
        """What is known of these files, and of what else landed on their days."""
        days = sorted({file.day for file in files})
        rows = self._rows(pc.field("day").isin(days), ["key", "etag", "state", "position"]) if days else None
        if rows is None:
            return {}
        key, etag, state, position = (rows[name].to_pylist() for name in ("key", "etag", "state", "position"))
        return dict(zip(zip(key, etag, strict=True), map(Known, state, position), strict=True))

    def first_accepted(self) -> dict[tuple[str, str, str | None], datetime]:
        """When each version of a file was first written down as taken in (UTC), by key, etag and position."""
        rows = self._rows(pc.field("state") == "accepted", ["key", "etag", "position"])
        found: dict[tuple[str, str, str | None], datetime] = {}
        for row in rows.to_pylist() if rows else ():
            found.setdefault((row["key"], row["etag"], row["position"]), row["recorded_at"])
        return found

    def quarantined(self) -> list[Record]:
        """The files in quarantine, by key: those whose newest record, of whichever version, says so."""
        newest = {record.file.key: record for record in _records(self._rows())}
        return [newest[key] for key in sorted(newest) if newest[key].state == "quarantined"]

    def history(self, ending: str) -> list[Record]:
        """Every record of the files whose keys end so, oldest first."""
        return _records(self._rows(pc.ends_with(pc.field("key"), ending)))

    def forget(self, there: Set[tuple[str, str]], before: datetime, *, dry_run: bool = False) -> int:
        """Forget files that were taken in long ago and are not there any more; how many records they had.

        A file that is there, in this version, can be listed again and must be known. One that is gone cannot; should
        somebody bring it back, it is read once more, which by the law changes nothing. A file whose newest record does
        not say that it was taken in is remembered whole, so that no loss is forgotten.

        Args:
            there: keys and etags of all that lies in the table's folders, listed after the ledger's newest record.
            before: files with a record since then (UTC) are remembered.
            dry_run: only tell.

        Raises:
            RetryableError: other writers kept committing in between.
        """

        def attempt() -> int:
            if (table := self.lake.find(self.name)) is None:
                return 0
            rows = self._sorted(table)
            versions = zip(rows["key"].to_pylist(), rows["etag"].to_pylist(), strict=True)
            gone = pa.array([version not in there for version in versions], pa.bool_())
            newest = dict(zip(rows["key"].to_pylist(), rows["state"].to_pylist(), strict=True))
            taken = pa.array([key for key, state in newest.items() if state == "accepted"], pa.string())
            recent = rows.filter(pc.greater_equal(rows["recorded_at"], pa.scalar(before)))["key"]
            old = pc.invert(pc.is_in(rows["key"], recent.combine_chunks()))
            forgotten = pc.and_(pc.and_(gone, pc.is_in(rows["key"], taken)), old)
            count = pc.sum(forgotten).as_py() or 0
            if count and not dry_run:
                self._rewrite(table, {"table": self.contract.table}, rows.filter(pc.invert(forgotten)))
            return count

        return retry_conflicts(self.name, attempt)

    def _rows(self, wanted: pc.Expression | None = None, columns: list[str] | None = None) -> pa.Table | None:
        """Records from oldest to newest."""
        try:
            return self._sorted(self.lake.open(self.name), wanted, columns)
        except UnknownTableError:
            return None

    def _sorted(
        self, ledger: DeltaTable, wanted: pc.Expression | None = None, columns: list[str] | None = None
    ) -> pa.Table:
        mine = pc.field("table") == self.contract.table
        order = [("recorded_at", "ascending"), ("state", "descending")]
        rows = self.lake.rows(ledger).to_table(
            filter=mine if wanted is None else mine & wanted,
            columns=columns and [*dict.fromkeys([*columns, *(name for name, _ in order)])],
        )
        # Of two records of one moment the same one counts each time: that of the file taken in.
        return rows.sort_by(order)

    def write(self, records: Iterable[Record]) -> None:
        """Append records; nothing to append makes no commit."""
        now = datetime.now(UTC)
        rows = [
            {
                "table": self.contract.table,
                "day": record.file.day,
                "key": record.file.key,
                "etag": record.file.etag,
                "size": record.file.size,
                "rows": record.rows,
                "state": record.state,
                "reason": record.reason,
                "load": record.file.load,
                "position": record.position,
                "recorded_at": now,
                "decisions": list(record.decisions),
            }
            for record in records
        ]
        if rows:
            appended = pa.Table.from_pylist(rows, SCHEMA)
            self._put_together(retry_conflicts(self.name, lambda: self._append(appended)))

    def _append(self, rows: pa.Table) -> DeltaTable:
        table = self.lake.open_or_create(self.name, SCHEMA, partition_by=("table",))
        # Appends never conflict with each other, and the library's own retries are right; with a rewrite they may.
        write_deltalake(table, rows, mode="append", schema_mode="merge")
        return table

    def _put_together(self, table: DeltaTable) -> None:
        """Rewrite a partition that has many small files; whoever commits at the same time goes first.

        Not by the library's compaction: of two at one time both commit, and every record is there twice.
        """
        files = pa.table(table.get_add_actions(flatten=True))
        columns = table.metadata().partition_columns
        found = files.group_by([f"partition.{name}" for name in columns]).aggregate(
            [("path", "count"), ("size_bytes", "sum")]
        )
        for row in found.to_pylist():
            values = {name: row[f"partition.{name}"] for name in columns}
            # The larger a partition, the more rarely: a commit pays for a few of its bytes at most.
            many = max(SMALL_FILES, row["size_bytes_sum"] // 2**20)
            if values["table"] != self.contract.table or row["path_count"] <= many:
                continue
            wanted = [pc.field(name) == value for name, value in values.items()]
            records = self.lake.rows(table).to_table(filter=reduce(and_, wanted))
            with suppress(CommitFailedError):
                self._rewrite(table, values, records)
            return

    def _rewrite(self, table: DeltaTable, part: Mapping[str, str], records: pa.Table) -> None:
        """Replace the records of a part of the ledger.

        Raises:
            CommitFailedError: somebody else committed since the ledger was opened; nothing was replaced.
        """
        write_deltalake(
            table,
            records.sort_by("day"),
            mode="overwrite",
            predicate=" AND ".join(f"\"{name}\" = '{value}'" for name, value in part.items()),
            writer_properties=WriterProperties(max_row_group_size=GROUP_ROWS),
            commit_properties=commit_properties(),
        )


def _records(rows: pa.Table | None) -> list[Record]:
    return [
        Record(
            LandedFile(row["key"], row["etag"], row["size"], row["day"], row["load"]),
            row["state"],
            row["rows"],
            row["reason"],
            row["position"],
            tuple(row.get("decisions") or ()),  # ledgers of before have no such column
            row["recorded_at"],
        )
        for row in (rows.to_pylist() if rows else [])
    ]
