"""The ledger: which files were taken in, which are in quarantine, and why.

One Delta table per schema, `raw.<schema>._ledger`, partitioned by table and landing day, only ever appended to:
the newest record of a file (key and etag) counts. A file is written down after its rows are in bronze, so that
a crash in between repeats it, which changes nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import write_deltalake

from upsell_assets.contracts import Contract
from upsell_assets.lake.tables import Lake
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
    ]
)


@dataclass(frozen=True)
class Record:
    """What the ledger says of one version of one file; `position` is the one that a full load gave its rows."""

    file: LandedFile
    state: State
    rows: int = 0
    reason: str | None = None
    position: str | None = None


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
        wanted = pc.field("table") == self.contract.table
        if window.first is not None:
            wanted &= pc.field("day") >= window.first
        if window.last is not None:
            wanted &= pc.field("day") <= window.last
        return self._read(wanted)

    def known(self, files: Iterable[LandedFile]) -> Records:
        """The newest record of each of these files, and of what else landed on their days."""
        days = {file.day for file in files}
        return self._read((pc.field("table") == self.contract.table) & pc.field("day").isin(sorted(days)))

    def _read(self, wanted: pc.Expression) -> Records:
        if not self.lake.exists(self.name):
            return {}
        # Of two records of one moment the same one counts each time: that of the file taken in.
        order = [("recorded_at", "ascending"), ("state", "descending")]
        rows = self.lake.rows(self.lake.open(self.name)).to_table(filter=wanted).sort_by(order)
        return {
            (row["key"], row["etag"]): Record(
                LandedFile(row["key"], row["etag"], row["size"], row["day"], row["load"]),
                row["state"],
                row["rows"],
                row["reason"],
                row["position"],
            )
            for row in rows.to_pylist()
        }

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
            }
            for record in records
        ]
        if rows:
            table = self.lake.open_or_create(self.name, SCHEMA, partition_by=("table", "day"))
            # Appends never conflict with each other: the library's own retries are right here.
            write_deltalake(table, pa.Table.from_pylist(rows, SCHEMA), mode="append")
