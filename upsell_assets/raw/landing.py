"""Which raw files there are: keys of the object store read as table, landing day and load.

Layouts: `raw/<schema>/cdc/<table>/[yyyy/mm/dd/]...` and `raw/<schema>/full_load/<table>/[<load>/]...`, or as the
contract's `files` says: DMS writes `<path>/LOAD*` and, beside it, `<path>/[<day>/]...`; Debezium's changes lie in
`<path>/[<day>/]...`. What has `_` or `.` before its name, or before that of a folder on the way, is a marker or not
finished: no data.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, date, timedelta
from functools import lru_cache

from upsell_assets.contracts import Contract
from upsell_assets.contracts.files import DmsFiles, OwnFiles
from upsell_assets.lake.store import ObjectStore, StoredObject

_DIGITS = {"YYYY": r"(?P<year>\d{4})", "MM": r"(?P<month>\d{2})", "DD": r"(?P<day>\d{2})", "HH": r"\d{2}"}


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
    if isinstance(contract.files, OwnFiles):
        return f"raw/{contract.schema_name}/cdc/{contract.table}/"
    return f"{contract.files.path}/"


def full_load_prefix(contract: Contract) -> str:
    """How the keys of a table's full loads begin, and no others; the folder of the loads, where they have one."""
    if isinstance(contract.files, DmsFiles):
        return f"{contract.files.path}/LOAD"
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

    Of a closed window only the folders of its days are listed, and what lies in no folder that can be of a day.
    """
    files = (_landed(contract, entry) for entry in _cdc_objects(store, contract, window.days))
    return [file for file in files if file and file.load is None and file.day in window]


def landed_parts(store: ObjectStore, contract: Contract) -> list[LandedFile]:
    """The files of a table's full loads, whenever they landed."""
    return [file for entry in store.list(full_load_prefix(contract)) if (file := _landed(contract, entry))]


def landed_at(store: ObjectStore, contract: Contract, key: str) -> LandedFile | None:
    """The file that lies at a key now, or None."""
    return next((_landed(contract, entry) for entry in store.list(key) if entry.key == key), None)


@dataclass(frozen=True)
class _DayFolders:
    """A contract's folders of days: the first of them, all of them, and how those of one day begin."""

    first: re.Pattern[str]
    whole: re.Pattern[str]
    begin: str

    def of(self, day: date) -> str:
        return self.begin.format(YYYY=f"{day:%Y}", MM=f"{day:%m}", DD=f"{day:%d}")


@lru_cache
def _day_folders(pattern: str) -> _DayFolders:
    expression = re.escape(pattern)
    for token, digits in _DIGITS.items():
        expression = expression.replace(token, digits)
    # The hour is the last of them: the folders of a day begin alike.
    begin = pattern.partition("HH")[0] + ("" if "HH" in pattern else "/")
    for token in ("YYYY", "MM", "DD"):
        begin = begin.replace(token, f"{{{token}}}")
    return _DayFolders(re.compile(expression.split("/")[0]), re.compile(f"(?:^|/){expression}/"), begin)


def _cdc_objects(store: ObjectStore, contract: Contract, days: list[date] | None) -> Iterator[StoredObject]:
    prefix, pattern = cdc_prefix(contract), contract.files.day_folder
    if days is None or pattern is None:
        yield from store.list(prefix)
        return
    folders = _day_folders(pattern)
    yield from store.list_level(prefix)
    for folder in store.folders(prefix):
        if not folders.first.fullmatch(folder):
            yield from store.list(f"{prefix}{folder}/")
    for day in days:
        # A file beside the folders may begin as they do: it is in the list of the level.
        yield from (entry for entry in store.list(prefix + folders.of(day)) if "/" in entry.key[len(prefix) :])


def is_marker(rest: str) -> bool:
    """Whether what lies at this path below a table's folder is no data."""
    return any(part.startswith(("_", ".")) for part in rest.split("/"))


def _landed(contract: Contract, entry: StoredObject) -> LandedFile | None:
    loads = full_load_prefix(contract)
    loaded = entry.key.startswith(loads)
    # The loads of DMS have no folder of their own.
    base = loads if loaded and loads.endswith("/") else cdc_prefix(contract)
    rest = entry.key[len(base) :]
    if is_marker(rest):
        return None
    return LandedFile(
        entry.key, entry.etag, entry.size, _day(contract, rest, entry), rest.rpartition("/")[0] if loaded else None
    )


def _day(contract: Contract, rest: str, entry: StoredObject) -> date:
    pattern = contract.files.day_folder
    if pattern and (dated := _day_folders(pattern).whole.search(rest)):
        try:
            return date(**{unit: int(digits) for unit, digits in dated.groupdict().items()})
        except ValueError:
            pass  # 2024/13/45 is no date: such a folder counts by its upload day
    return entry.modified.astimezone(UTC).date()
