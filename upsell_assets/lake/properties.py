"""Whether a Delta table is one that this lake can read and write.

Tables are created with pinned properties (`lake.tables`), but any other program may change what a table asks of its
readers: a Spark session that deletes with deletion vectors, a service that maps columns. Here: the refusal of such a table.
It is looked at by what the opened table holds in memory, and no file is read for it; nearly all tables are of the
protocol that is taken at once.

Reading such a table anyway would not always fail: the lake's own readers take the files that the log names, so that rows
come back which a deletion vector has deleted, and columns that were renamed are null.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from upsell_assets.errors import PermanentError

if TYPE_CHECKING:
    from deltalake import DeltaTable
    from deltalake.exceptions import DeltaError

READ = frozenset({"timestampNtz"})
"""What a table may ask of its readers, by the names of Delta's table features."""

WRITTEN = READ | {"appendOnly", "invariants", "changeDataFeed"}
"""What it may ask of its writers. Of constraints and generated columns the lake's own writers know nothing."""

_FEATURES = 7
"""The version of the protocol from which a table names its features; below, each version stands for some."""

_MEANING = {
    "deletionVectors": "deleted rows would come back",
    "columnMapping": "renamed columns would be null",
    "typeWidening": "files hold columns of more than one type",
    "v2Checkpoint": "the log has checkpoints of another form",
    "rowTracking": "commits must number rows",
}


def check_readable(name: str, table: DeltaTable) -> None:
    """Refuse a table whose rows the embedded engine would not read, or would read wrongly.

    Args:
        name: its three-part name.
        table: opened at the version that is read.

    Raises:
        PermanentError: it asks more of its readers; what, and how Spark takes it back.
    """
    protocol = table.protocol()
    if protocol.min_reader_version == 1:
        return
    asked = set(protocol.reader_features or ()) - {"columnMapping"}
    if table.metadata().configuration.get("delta.columnMapping.mode", "none") != "none":
        asked.add("columnMapping")
    if faults := asked - READ:
        raise PermanentError(_refusal(name, table, "read", faults))


def check_writable(name: str, table: DeltaTable) -> None:
    """Refuse a table that the lake cannot read, or to which it could commit nothing or only what breaks it.

    delta-rs refuses some of these commits as if another writer had won, which trying again does not mend.

    Args:
        name: its three-part name.
        table: opened at its newest version.

    Raises:
        PermanentError: it asks more of its readers or writers; what, and how Spark takes it back.
    """
    check_readable(name, table)
    protocol = table.protocol()
    if protocol.min_writer_version <= 2:
        return
    asked = set(protocol.writer_features or ())
    if protocol.min_writer_version < _FEATURES:
        asked.add(f"writer version {protocol.min_writer_version}")
    if faults := asked - WRITTEN:
        raise PermanentError(_refusal(name, table, "write", faults))


def refused_at_open(name: str, error: DeltaError) -> PermanentError | None:
    """The error for a person, where the library would not even open a table for what it asks; else None."""
    said = str(error)
    if "Unsupported" not in said and "catalog-managed" not in said:
        return None
    return PermanentError(
        f"{name}: another program has changed the table, and the embedded engine cannot open it any more: {said}. Let "
        "Spark take it back (ALTER TABLE ... DROP FEATURE, docs/spark.md), or delete the table and let it be made anew."
    )


def _refusal(name: str, table: DeltaTable, verb: str, faults: Iterable[str]) -> str:
    found = [f"{fault} ({_MEANING[fault]})" if fault in _MEANING else fault for fault in sorted(faults)]
    return (
        f"{name}: another program has given the table what the embedded engine does not {verb}: {', '.join(found)}. Let "
        f"Spark take it back, ALTER TABLE delta.`{table.table_uri}` DROP FEATURE of each (docs/spark.md), or delete the "
        "table and let it be made anew; and let nobody else write it."
    )
