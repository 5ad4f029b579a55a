"""The messages of PostgreSQL's `pgoutput` plugin (protocol version 1), decoded.

Here: bytes to messages, nothing else. Not here: what a change is called in the lake (`stream`) or its types
(`values`). Values stay the text that PostgreSQL sent, as bytes. Format: PostgreSQL's manual, "Logical Replication
Message Formats".
"""

from __future__ import annotations

import struct
from enum import Enum
from typing import Final, NamedTuple

_TO_UNIX_US = 946_684_800_000_000  # PostgreSQL counts microseconds from 2000-01-01


class Marker(Enum):
    """What stands in a row in place of a value."""

    UNCHANGED = "a TOASTed value that the update did not touch, and that was therefore not sent"


UNCHANGED: Final = Marker.UNCHANGED

Value = bytes | None | Marker
Row = list[Value]


class Column(NamedTuple):
    """A source column; the type is a `pg_type` oid with its modifier (-1: none)."""

    name: str
    type_oid: int
    type_modifier: int


class Relation(NamedTuple):
    """A source table as it was when the changes that follow were made."""

    oid: int
    schema: str
    table: str
    columns: tuple[Column, ...]


class Begin(NamedTuple):
    """A committed transaction follows; `commit_lsn` is where its commit record begins, the time is Unix µs, UTC."""

    commit_lsn: int
    commit_time: int


class Commit(NamedTuple):
    """The transaction is complete; every later commit record begins at or after `end_lsn`."""

    end_lsn: int


class Insert(NamedTuple):
    """A new row."""

    relation: Relation
    new: Row


class Update(NamedTuple):
    """A row as it became, and as it was.

    `old` is None where the key stayed and the table does not log old rows. Without `old_is_whole` only the replica
    identity's columns of `old` say anything, the others are None.
    """

    relation: Relation
    old: Row | None
    new: Row
    old_is_whole: bool


class Delete(NamedTuple):
    """A row that is gone; without a full replica identity only the key's columns of `old` are not None."""

    relation: Relation
    old: Row


class Truncate(NamedTuple):
    """Tables that were emptied, in one step."""

    relations: tuple[Relation, ...]


Message = Begin | Commit | Insert | Update | Delete | Truncate


class Decoder:
    """Turns the messages of one decoding session, in order, into `Message`s; it remembers the relations named."""

    def __init__(self) -> None:
        self._relations: dict[int, Relation] = {}

    def decode(self, data: bytes) -> Message | None:
        """One message; None for those that carry no change (relations, types, origins).

        Raises:
            ValueError: the bytes are not what protocol version 1 sends.
        """
        match data[:1]:
            case b"I":
                new, _ = _row(data, 6)
                return Insert(self._relation(data), new)
            case b"U":
                return self._update(data)
            case b"D":
                old, _ = _row(data, 6)
                return Delete(self._relation(data), old)
            case b"B":
                commit_lsn, time = struct.unpack_from("!Qq", data, 1)
                return Begin(commit_lsn, time + _TO_UNIX_US)
            case b"C":
                return Commit(struct.unpack_from("!Q", data, 10)[0])
            case b"R":
                relation = _relation(data)
                self._relations[relation.oid] = relation
                return None
            case b"T":
                count = struct.unpack_from("!I", data, 1)[0]
                return Truncate(tuple(self._relations[oid] for oid in struct.unpack_from(f"!{count}I", data, 6)))
            case b"Y" | b"O":
                return None
            case kind:
                raise ValueError(f"pgoutput sent a message of kind {kind!r}, which protocol version 1 does not have")

    def _relation(self, data: bytes) -> Relation:
        return self._relations[int.from_bytes(data[1:5], "big")]

    def _update(self, data: bytes) -> Update:
        kind, position = data[5:6], 6
        old = None
        if kind != b"N":
            old, position = _row(data, position)
            position += 1
        new, _ = _row(data, position)
        return Update(self._relation(data), old, new, kind == b"O")


def _row(data: bytes, position: int) -> tuple[Row, int]:
    count = int.from_bytes(data[position : position + 2], "big")
    position += 2
    row: Row = []
    for _ in range(count):
        kind = data[position]
        if kind == 0x74:  # "t": text, with its length before it
            start = position + 5
            position = start + int.from_bytes(data[position + 1 : start], "big")
            row.append(data[start:position])
        elif kind == 0x6E:  # "n": null
            position += 1
            row.append(None)
        elif kind == 0x75:  # "u": unchanged
            position += 1
            row.append(UNCHANGED)
        else:
            raise ValueError(f"pgoutput sent a value of kind {kind:#x}; only text was asked for")
    return row, position


def _relation(data: bytes) -> Relation:
    oid = struct.unpack_from("!I", data, 1)[0]
    schema, position = _text(data, 5)
    table, position = _text(data, position)
    count = struct.unpack_from("!H", data, position + 1)[0]  # after the replica identity
    position += 3
    columns = []
    for _ in range(count):
        name, position = _text(data, position + 1)  # after the flags
        columns.append(Column(name, *struct.unpack_from("!Ii", data, position)))
        position += 8
    return Relation(oid, schema or "pg_catalog", table, tuple(columns))


def _text(data: bytes, start: int) -> tuple[str, int]:
    end = data.index(0, start)
    return data[start:end].decode(), end + 1
