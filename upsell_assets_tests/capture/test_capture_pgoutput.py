"""The wire format, from bytes written out by hand after PostgreSQL's manual."""

from __future__ import annotations

import struct
from datetime import UTC, datetime

import pytest

from upsell_assets.capture.landing import change_seq, lsn_text, utc
from upsell_assets.capture.pgoutput import (
    UNCHANGED,
    Begin,
    Column,
    Commit,
    Decoder,
    Delete,
    Insert,
    Message,
    Relation,
    Truncate,
    Update,
)

ITEMS = Relation(7, "shop", "Items", (Column("id", 25, -1), Column("name", 1043, 24)))
RELATION = (
    b"R" + struct.pack("!I", 7) + b"shop\0Items\0f" + struct.pack("!H", 2)
    + b"\1id\0" + struct.pack("!Ii", 25, -1) + b"\0name\0" + struct.pack("!Ii", 1043, 24)
)  # fmt: skip


def _row(*values: bytes | None, unchanged: bool = False) -> bytes:
    parts = [b"n" if value is None else b"t" + struct.pack("!I", len(value)) + value for value in values]
    parts += [b"u"] * unchanged
    return struct.pack("!H", len(parts)) + b"".join(parts)


def _decode(data: bytes) -> Message | None:
    decoder = Decoder()
    assert decoder.decode(RELATION) is None
    return decoder.decode(data)


OID = struct.pack("!I", 7)


def test_insert_carries_text_nulls_and_empty_text() -> None:
    assert _decode(b"I" + OID + b"N" + _row("ç".encode(), None)) == Insert(ITEMS, ["ç".encode(), None])
    assert _decode(b"I" + OID + b"N" + _row(b"", b"")) == Insert(ITEMS, [b"", b""])


def test_update_without_an_old_row() -> None:
    assert _decode(b"U" + OID + b"N" + _row(b"1", b"x")) == Update(ITEMS, None, [b"1", b"x"], False)


@pytest.mark.parametrize(("kind", "whole"), [(b"O", True), (b"K", False)])
def test_update_tells_a_whole_old_row_from_a_key(kind: bytes, whole: bool) -> None:
    message = b"U" + OID + kind + _row(b"1", None) + b"N" + _row(b"2", unchanged=True)

    assert _decode(message) == Update(ITEMS, [b"1", None], [b"2", UNCHANGED], whole)


@pytest.mark.parametrize("kind", [b"O", b"K"])
def test_delete_carries_the_old_row(kind: bytes) -> None:
    assert _decode(b"D" + OID + kind + _row(b"1", None)) == Delete(ITEMS, [b"1", None])


def test_truncate_names_its_relations() -> None:
    assert _decode(b"T" + struct.pack("!IBI", 1, 0, 7)) == Truncate((ITEMS,))


def test_begin_and_commit_carry_positions_and_unix_time() -> None:
    seconds = 24 * 60 * 60  # PostgreSQL's epoch is the first day of 2000

    begin = Decoder().decode(b"B" + struct.pack("!QqI", 0x1_0000_00AB, seconds * 1_000_000 + 7, 99))

    assert isinstance(begin, Begin)
    assert begin.commit_lsn == 0x1_0000_00AB
    assert utc(begin.commit_time) == datetime(2000, 1, 2, 0, 0, 0, 7, tzinfo=UTC)
    assert Decoder().decode(b"C" + struct.pack("!BQQq", 0, 10, 20, 0)) == Commit(20)


def test_relation_named_again_replaces_the_former() -> None:
    decoder = Decoder()
    decoder.decode(RELATION)
    decoder.decode(b"R" + OID + b"\0items\0d" + struct.pack("!H", 1) + b"\1id\0" + struct.pack("!Ii", 20, -1))

    insert = decoder.decode(b"I" + OID + b"N" + _row(b"1"))

    assert insert == Insert(Relation(7, "pg_catalog", "items", (Column("id", 20, -1),)), [b"1"])


def test_types_and_origins_carry_no_change() -> None:
    assert Decoder().decode(b"Y" + OID + b"shop\0mood\0") is None
    assert Decoder().decode(b"O" + struct.pack("!Q", 1) + b"here\0") is None


def test_what_the_protocol_does_not_have_is_refused() -> None:
    with pytest.raises(ValueError, match="message of kind b'S'"):
        Decoder().decode(b"S\0\0\0\1\1")
    with pytest.raises(ValueError, match="value of kind 0x62"):
        _decode(b"I" + OID + b"N" + struct.pack("!H", 1) + b"b" + struct.pack("!I", 1) + b"x")


def test_positions_sort_as_text_like_the_numbers_they_are_made_of() -> None:
    pairs = [(9, 3), (10, 0), (10, 1), (10, 2), (10, 10), (0xFFFFFFFF, 1), (1 << 32, 0), (1 << 60, 999_999_999)]

    texts = [change_seq(*pair) for pair in pairs]

    assert texts == sorted(texts)
    assert len({len(text) for text in texts}) == 1
    assert lsn_text(0x1_0000_00AB) == "1/AB"
