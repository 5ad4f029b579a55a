"""Which raw files there are: keys of the object store read as table, landing day and load.

Layouts: `raw/<schema>/cdc/<table>/[yyyy/mm/dd/]...` and `raw/<schema>/full_load/<table>/[<load>/]...`. What
has `_` or `.` before its name, or before that of a folder on the way, is a marker or not finished: no data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, timedelta

from upsell_assets.contracts import Contract
from upsell_assets.lake.store import ObjectStore, StoredObject

_DATED = re.compile(r"(?:^|/)(\d{4})/(\d{2})/(\d{2})/")
_YEAR = re.compile(r"\d{4}")


@dataclass(frozen=True)
class LandedFile:
    """One version of one raw file; `load` is the folder of a full load ('' for the flat one), None for changes."""

    key: str
    etag: str
    size: int
    day: date
    load: str | None = None


def cdc_prefix(contract: Contract) -> str:
    """Where a table's change files lie."""
    return f"raw/{contract.schema_name}/cdc/{contract.table}/"


def full_load_prefix(contract: Contract) -> str:
    """Where a table's full loads lie."""
    return f"raw/{contract.schema_name}/full_load/{contract.table}/"


@dataclass(frozen=True)
class Window:
    """Landing days from `first` to `last`, both included; None: open on that side."""

    first: date | None = None
    last: date | None = None

    def __contains__(self, day: date) -> bool:
        return (self.first is None or self.first <= day) and (self.last is None or day <= self.last)

    @property
    def days(self) -> list[date] | None:
        """The days one by one, None where a side is open."""
        if self.first is None or self.last is None:
            return None
        return [self.first + timedelta(number) for number in range((self.last - self.first).days + 1)]


EVER = Window()


def landed(store: ObjectStore, contract: Contract, window: Window = EVER) -> list[LandedFile]:
    """The files of a table that landed in the window, by key."""
    parts = [part for part in landed_parts(store, contract) if part.day in window]
    return sorted([*landed_changes(store, contract, window), *parts], key=lambda file: file.key)


def landed_changes(store: ObjectStore, contract: Contract, window: Window = EVER) -> list[LandedFile]:
    """The change files of a table that landed in the window.

    Of a closed window only the folders of its days are listed, and what lies in no folder of a year.
    """
    prefix = cdc_prefix(contract)
    files = (_landed(prefix, entry) for entry in _cdc_objects(store, prefix, window.days))
    return [file for file in files if file and file.day in window]


def landed_parts(store: ObjectStore, contract: Contract) -> list[LandedFile]:
    """The files of a table's full loads, whenever they landed."""
    prefix = full_load_prefix(contract)
    return [file for entry in store.list(prefix) if (file := _landed(prefix, entry, full_load=True))]


def landed_at(store: ObjectStore, contract: Contract, key: str) -> LandedFile | None:
    """The file that lies at a key now, or None."""
    full_load = key.startswith(full_load_prefix(contract))
    prefix = full_load_prefix(contract) if full_load else cdc_prefix(contract)
    found = (_landed(prefix, entry, full_load=full_load) for entry in store.list(key) if entry.key == key)
    return next(found, None)


def _cdc_objects(store: ObjectStore, prefix: str, days: list[date] | None) -> Iterator[StoredObject]:
    if days is None:
        yield from store.list(prefix)
        return
    yield from store.list_level(prefix)
    for folder in store.folders(prefix):
        if not _YEAR.fullmatch(folder):
            yield from store.list(f"{prefix}{folder}/")
    for day in days:
        yield from store.list(f"{prefix}{day:%Y/%m/%d}/")


def _landed(prefix: str, entry: StoredObject, *, full_load: bool = False) -> LandedFile | None:
    rest = entry.key[len(prefix) :]
    if any(part.startswith(("_", ".")) for part in rest.split("/")):
        return None
    return LandedFile(
        entry.key, entry.etag, entry.size, _day(rest, entry), rest.rpartition("/")[0] if full_load else None
    )


def _day(rest: str, entry: StoredObject) -> date:
    if dated := _DATED.search(rest):
        try:
            return date(*(int(part) for part in dated.groups()))
        except ValueError:
            pass  # 2024/13/45 is no date: such a folder counts by its upload day
    return entry.modified.astimezone(UTC).date()
