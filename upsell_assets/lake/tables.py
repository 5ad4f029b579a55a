"""Delta tables by their three-part names, on any root that delta-rs reads.

Here: where a table lies, how it is created with the pinned properties, opened, listed and replaced by
partitions. Not here: what is merged into a table (`bronze`, `silver`) or how SQL runs over it (`lake.engines`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.fs as pafs
from deltalake import DeltaTable, write_deltalake
from deltalake.exceptions import DeltaError, TableNotFoundError

from upsell_assets.errors import PermanentError
from upsell_assets.lake.commits import commit_properties
from upsell_assets.lake.data import DataFiles, DuckFiles
from upsell_assets.lake.files import folder_of
from upsell_assets.lake.partitions import replace_partitions
from upsell_assets.lake.properties import check_readable, refused_at_open

if TYPE_CHECKING:
    from upsell_assets.lake.store import ObjectStore

LOG, DELETED_FILES = "delta.logRetentionDuration", "delta.deletedFileRetentionDuration"


def retention(keep: timedelta) -> dict[str, str]:
    """The properties by which whoever writes a table keeps its versions readable for so long (whole hours)."""
    return dict.fromkeys((LOG, DELETED_FILES), f"interval {keep // timedelta(hours=1)} hours")


TABLE_PROPERTIES: dict[str, str | None] = {
    # The default of UPSELL_KEEP_DAYS; another one is written into the tables by their upkeep.
    **retention(timedelta(7)),
    # What both engines can write: no deletion vectors, no column mapping, classic checkpoints.
    "delta.enableDeletionVectors": "false",
    "delta.columnMapping.mode": "none",
    # Without checkpoints 1,000 commits make every open 0.28 s; with them 7 ms.
    "delta.checkpointInterval": "10",
    # Statistics of every column, not of the first 32: what files are skipped by stands last in a wide table.
    "delta.dataSkippingNumIndexedCols": "-1",
}


class UnknownTableError(PermanentError):
    """A name is not that of a table in the lake."""


class VersionGoneError(PermanentError):
    """A pinned version of a table is older than the horizon of its upkeep."""


@dataclass(frozen=True)
class Lake:
    """The root of all tables.

    `options` gives the storage options of this moment (credentials refresh), `files` the filesystem at the root; `data`
    reads and writes the data files of tables.
    """

    root: str
    options: Callable[[], dict[str, str]]
    files: Callable[[], pafs.FileSystem]
    data: DataFiles = field(default_factory=DuckFiles)

    @classmethod
    def of(cls, store: ObjectStore, data: DataFiles | None = None) -> Lake:
        """The lake in a bucket."""
        return cls(f"s3://{store.bucket}", store.delta_options, store.arrow_files, data or DuckFiles())

    @classmethod
    def at(cls, folder: Path, data: DataFiles | None = None) -> Lake:
        """A lake in a folder of this machine."""
        files = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem())
        return cls(str(folder), dict, lambda: files, data or DuckFiles())

    def uri(self, name: str) -> str:
        """Where the table `layer.schema.table` lies."""
        layer, schema, table = split(name)
        return f"{self.root}/{layer}/{schema}/{table}"

    def exists(self, name: str) -> bool:
        """Whether the table has been created."""
        return DeltaTable.is_deltatable(self.uri(name), self.options())

    def open(self, name: str, version: int | None = None) -> DeltaTable:
        """The table at its newest version, or at a pinned one.

        Raises:
            UnknownTableError: no such table.
            VersionGoneError: the pinned version is older than what is kept.
            PermanentError: another program has changed the table to one that the embedded engine does not read.
        """
        try:
            table = DeltaTable(self.uri(name), version=version, storage_options=self.options())
        except TableNotFoundError as error:
            if version is not None and self.exists(name):
                raise VersionGoneError(
                    f"{name}: version {version} cannot be read any more. Versions are kept for UPSELL_KEEP_DAYS days: pin "
                    "a newer one."
                ) from error
            raise UnknownTableError(f"{name}: no such table in {self.root} yet.") from error
        except DeltaError as error:
            if refused := refused_at_open(name, error):
                raise refused from error
            raise
        check_readable(name, table)
        return table

    def find(self, name: str) -> DeltaTable | None:
        """The table at its newest version, if there is one."""
        try:
            return self.open(name)
        except UnknownTableError:
            return None

    def rows(self, table: DeltaTable) -> ds.Dataset:
        """The rows of an opened table, read lazily; partitions that a condition excludes are skipped.

        Arrow reads through its own filesystem: through that of delta-rs, which is written in Python, its threads
        need the interpreter, and one that is still reading when a process ends aborts it or hangs it. And it is told
        the partitions alone: of a column whose bounds a file's statistics do not have (doubles, long texts), delta-rs
        says that no value meets any condition.
        """
        files = table.to_pyarrow_dataset(filesystem=pafs.SubTreeFileSystem(folder_of(table), self.files()))
        columns = table.metadata().partition_columns
        fragments = [
            files.format.make_fragment(file.path, files.filesystem, _partition(file.partition_expression, columns))
            for file in files.get_fragments()
        ]
        return ds.FileSystemDataset(fragments, files.schema, files.format, files.filesystem)

    def open_or_create(
        self,
        name: str,
        schema: pa.Schema,
        *,
        partition_by: tuple[str, ...] = (),
    ) -> DeltaTable:
        """The table, made empty at version 0 where there was none, with the pinned properties."""
        return self.find(name) or DeltaTable.create(
            self.uri(name),
            schema,
            mode="ignore",
            partition_by=list(partition_by),
            configuration=TABLE_PROPERTIES,
            storage_options=self.options(),
        )

    def replace(
        self,
        name: str,
        rows: pa.RecordBatchReader,
        *,
        partitions: Mapping[str, Iterable[date | str]],
        watermarks: Mapping[str, int] | None = None,
        key: Sequence[str] = (),
    ) -> DeltaTable:
        """Replace exactly the named partitions by `rows` in one commit; without any, the whole table.

        With a `key` (of a table with partitions, whose columns it names, too) a key has one row.

        Raises:
            DoubledKeysError: it has several; nothing was replaced.
            PermanentError: rows lie outside of the partitions, or do not fit the table; nothing was replaced.
            CommitFailedError: somebody else committed in between; nothing was replaced.
        """
        table = self.open_or_create(name, rows.schema, partition_by=tuple(partitions))
        if partitions:
            replace_partitions(self, name, table, rows, partitions, watermarks, key)
        else:
            write_deltalake(
                table,
                rows,
                mode="overwrite",
                schema_mode="overwrite",
                commit_properties=commit_properties(watermarks),
            )
        return table


def _partition(known: pc.Expression, columns: list[str]) -> pc.Expression | None:
    """What is known of all rows of a file, of the columns that the table is partitioned by."""
    values = ds.get_partition_keys(known)
    found = None
    for column in columns:
        value = values.get(column)
        same = pc.field(column).is_null() if value is None else pc.field(column) == pa.scalar(value)
        found = same if found is None else found & same
    return found


def split(name: str) -> tuple[str, str, str]:
    """The three parts of a table's name.

    Raises:
        UnknownTableError: the name has not three parts.
    """
    parts = name.split(".")
    if len(parts) != 3 or not all(parts):
        raise UnknownTableError(f"{name}: a table is named by three parts, such as bronze.upsell.customers.")
    return parts[0], parts[1], parts[2]
