"""What any Delta table no longer needs: data files that no version inside of the horizon names, and its old log.

The horizon is how long the versions of a table stay readable. Nobody in the lake goes on from an old version: what was
taken in before is a condition on rows (`silver.read`), so that a reader needs the version that it opened, for as long as
it runs. Nothing is committed here: a version that only says "vacuumed" would be news to everybody who watches versions.
What is deleted is in no version any more that can be opened, so that it does not matter when this is interrupted.

Not here: files that are put together and rows that expire (`bronze.upkeep`, `upkeep`).
"""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from datetime import timedelta

import pyarrow.fs as pafs
from deltalake import DeltaTable
from deltalake.fs import DeltaStorageHandler

from upsell_assets.lake.commits import commit_properties
from upsell_assets.lake.files import folder_of
from upsell_assets.lake.tables import Lake, retention

DELETERS = 8
"""Files deleted at once: each is a request that mostly waits."""


@dataclass(frozen=True)
class Deleted:
    """Files that are gone (or would be), data files and files of the log, and the bytes of both."""

    files: int = 0
    log_files: int = 0
    bytes: int = 0


def is_kept(table: DeltaTable, keep: timedelta) -> bool:
    """Whether the table's own properties say the horizon; whoever writes it cleans its log by them."""
    held = table.metadata().configuration
    return all(held.get(name) == value for name, value in retention(keep).items())


def set_horizon(table: DeltaTable, keep: timedelta) -> None:
    """Write the horizon into the table's properties, in one commit.

    Raises:
        CommitFailedError: somebody else committed since the table was opened.
    """
    table.alter.set_table_properties(retention(keep), commit_properties=commit_properties())


def vacuum(lake: Lake, name: str, keep: timedelta, *, dry_run: bool = False) -> Deleted:
    """Delete what no version of the last `keep` names, and the log of older versions.

    A file that was written and is not committed yet is younger than the horizon: `keep` must be longer than any run.

    Args:
        lake: where the table lies.
        name: the table.
        keep: the horizon, in whole hours.
        dry_run: only tell; the log is cleaned by the library, which cannot tell before.
    """
    table = lake.open(name)
    there = _sizes(lake, folder_of(table))
    # The library decides, and deletes nothing: it would commit before and after. It names what it has named before, too.
    hours = int(keep / timedelta(hours=1))
    named = table.vacuum(hours, dry_run=True, enforce_retention_duration=False, full=True)
    gone = {path: there[path] for path in named if path in there}
    if dry_run:
        return Deleted(len(gone), 0, sum(gone.values()))
    _delete(lake, table, gone)
    log = {path: size for path, size in there.items() if path.startswith("_delta_log/")}
    table.cleanup_metadata()
    for path in _sizes(lake, f"{folder_of(table)}/_delta_log"):
        log.pop(f"_delta_log/{path}", None)
    return Deleted(len(gone), len(log), sum(gone.values()) + sum(log.values()))


def _sizes(lake: Lake, folder: str) -> dict[str, int]:
    """The files below a folder, by their path from there, and their bytes."""
    found = lake.files().get_file_info(pafs.FileSelector(folder, recursive=True))
    return {info.path.removeprefix(f"{folder}/"): info.size for info in found if info.is_file}


def delete_files(lake: Lake, table: DeltaTable, folder: str) -> None:
    """Delete all that lies in a folder below a table."""
    _delete(lake, table, [f"{folder}/{path}" for path in _sizes(lake, f"{folder_of(table)}/{folder}")])


def _delete(lake: Lake, table: DeltaTable, paths: Iterable[str]) -> None:
    # Not by Arrow, which leaves an empty object in the place of a folder that it empties.
    storage = DeltaStorageHandler(table.table_uri, lake.options())

    def delete(path: str) -> None:
        with suppress(FileNotFoundError):  # somebody else was faster
            storage.delete_file(path)

    with ThreadPoolExecutor(DELETERS) as pool:
        list(pool.map(delete, paths))
