"""Which raw files there are: keys of the object store read as table, landing day and load.

Layouts: `raw/<schema>/cdc/<table>/[yyyy/mm/dd/]...` and `raw/<schema>/full_load/<table>/[<load>/]...`. Objects
whose name begins with `_` or `.` are markers, not data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, timedelta

from upsell_assets.contracts import Contract
from upsell_assets.lake.store import ObjectStore, StoredObject

_DATED = re.compile(r"(?:^|/)(\d{4})/(\d{2})/(\d{2})/")


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
    """The files of a table that landed in the window, by key.

    Of a closed window only the folders of its days are listed, and what has no dated folder: the flat layout, and
    the full loads.
    """
    found = [_landed(cdc_prefix(contract), entry) for entry in _cdc_objects(store, contract, window.days)]
    prefix = full_load_prefix(contract)
    found += [_landed(prefix, entry, full_load=True) for entry in store.list(prefix)]
    return sorted((file for file in found if file and file.day in window), key=lambda file: file.key)


def _cdc_objects(store: ObjectStore, contract: Contract, days: list[date] | None) -> Iterator[StoredObject]:
    prefix = cdc_prefix(contract)
    if days is None:
        yield from store.list(prefix)
        return
    yield from store.list_level(prefix)
    for day in days:
        yield from store.list(f"{prefix}{day:%Y/%m/%d}/")


def _landed(prefix: str, entry: StoredObject, *, full_load: bool = False) -> LandedFile | None:
    rest = entry.key[len(prefix) :]
    folder, _, name = rest.rpartition("/")
    if name.startswith(("_", ".")):
        return None
    return LandedFile(entry.key, entry.etag, entry.size, _day(rest, entry), folder if full_load else None)


def _day(rest: str, entry: StoredObject) -> date:
    if dated := _DATED.search(rest):
        try:
            return date(*(int(part) for part in dated.groups()))
        except ValueError:
            pass  # 2024/13/45 is no date: such a folder counts by its upload day
    return entry.modified.astimezone(UTC).date()
