"""The law of bronze in plain Python, written from the specification alone, to be checked by eye.

A history is a set of changes and of full loads. `oracle` folds it into what bronze must hold, whatever the order
in which the parts of the history arrive: live rows, and effective tombstones.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

Key = tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """One change row; `seq` None: the producer gave none. Rows of a full load name it."""

    key: Key
    op: str
    modified: datetime | None = None
    seq: Any = None
    file: str = ""
    row: int = 0
    values: tuple[tuple[str, Any], ...] = ()
    load: str | None = None


@dataclass(frozen=True)
class Load:
    """A full load: rows that all stand at one position; its end makes that position the floor."""

    name: str
    modified: datetime | None
    seq: Any
    ended: bool
    rows: tuple[Change, ...] = ()


@dataclass
class Expected:
    """What bronze must hold: key -> values of the live row and key -> its place, key -> place of the delete."""

    live: dict[Key, dict[str, Any]] = field(default_factory=dict)
    places: dict[Key, tuple[Any, ...]] = field(default_factory=dict)
    tombstones: dict[Key, tuple[Any, ...]] = field(default_factory=dict)


@dataclass(frozen=True)
class Law:
    """The law for one contract: its order columns, and the folder of its full loads."""

    order: tuple[str, ...]
    load_folder: str

    def position(self, at: Change | Load) -> tuple[Any, ...]:
        """The place in the contract's order; a missing change_seq is below any present one."""
        terms = {"modified_date": (at.modified,), "change_seq": (False,) if at.seq is None else (True, at.seq)}
        return tuple(term for column in self.order for term in terms[column])

    def place(self, change: Change) -> tuple[Any, ...]:
        """The position, then the rank there, then file and row where change_seq is missing.

        A row of a full load shows what the changes at its position came to, so that it stands above them.
        """
        if "change_seq" in self.order and change.seq is not None:
            return (*self.position(change), change.load is not None)
        return (*self.position(change), change.load is not None, change.file, change.row)

    def full_order(self, change: Change) -> tuple[Any, ...]:
        """Of changes at one place a delete wins, else the greatest row by its text."""
        return (*self.place(change), change.op == "D", "" if change.op == "D" else canonical_text(change))

    def oracle(self, changes: Iterable[Change], loads: Iterable[Load] = ()) -> Expected:
        """Fold a history."""
        floor = max((load for load in loads if load.ended), key=self.position, default=None)
        heard: dict[Key, list[Change]] = defaultdict(list)
        for change in [*changes, *(row for load in loads for row in load.rows)]:
            heard[change.key].append(change)
        expected = Expected()
        for key, all_of_key in heard.items():
            counting = [change for change in all_of_key if self._counts(change, floor)]
            if not counting:
                assert floor is not None
                expected.tombstones[key] = self.place(self.end_of(floor, key))
                continue
            newest = max(counting, key=self.full_order)
            if newest.op == "D":
                expected.tombstones[key] = self.place(newest)
            else:
                expected.live[key] = {name: value for name, value in newest.values if value is not None}
                expected.places[key] = self.place(newest)
        return expected

    def _counts(self, change: Change, floor: Load | None) -> bool:
        """Whether a change lies above the floor, or is a row of the load that made it."""
        return floor is None or change.load == floor.name or self.position(change) > self.position(floor)

    def end_of(self, load: Load, key: Key) -> Change:
        """The delete that the end of a load means for a key that is not in it."""
        return Change(key, "D", load.modified, load.seq, self.load_folder, 0, load=load.name)


def canonical_text(change: Change) -> str:
    """Key and values by name, nulls left out, quoted."""
    named = sorted((name.lower(), value) for name, value in change.values if value is not None)
    return "".join(f"{quoted(name)}:{quoted(str(value))}" for name, value in named)


def quoted(text: str) -> str:
    """Text in single quotes, those inside doubled."""
    return "'" + text.replace("'", "''") + "'"
