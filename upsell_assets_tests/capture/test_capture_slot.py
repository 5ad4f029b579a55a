"""What a server keeps of its log for a slot: without end, or until it gives the slot up."""

from __future__ import annotations

import pytest
from capture_place import TABLES, Place

from upsell_assets.errors import SlotLostError

pytestmark = pytest.mark.services


@pytest.mark.parametrize("place_with_little_log", ["-1"], indirect=True)
def test_a_log_that_is_kept_without_end_is_said_to_be_a_danger(
    place_with_little_log: Place, caplog: pytest.LogCaptureFixture
) -> None:
    place_with_little_log.capture().ensure_full_load()

    assert "max_slot_wal_keep_size is not set" in caplog.text
    assert "until its disk is full" in caplog.text
    assert place_with_little_log.capture().lag().left is None


@pytest.mark.parametrize("place_with_little_log", ["32MB"], indirect=True)
def test_a_slot_that_the_server_gave_up_is_lost_and_the_log_that_is_left_is_told_before(
    place_with_little_log: Place,
) -> None:
    place, owner = place_with_little_log, place_with_little_log.owner
    owner.execute("INSERT INTO customers VALUES ('a', 1, NULL), ('b', 2, 0)")
    place.capture().ensure_full_load()
    first = place.capture().lag()

    owner.execute("INSERT INTO customers SELECT 'n' || i, i, 1 FROM generate_series(1, 1000) i")
    second = place.capture().lag()
    assert second.retained >= second.bytes > 50_000
    assert first.left is not None
    assert second.left is not None
    assert second.left < first.left
    for number in range(6):
        owner.execute("INSERT INTO customers VALUES (%s, 1, 1)", [f"segment {number}"])
        owner.execute("SELECT pg_switch_wal()")
        owner.execute("CHECKPOINT")
    with pytest.raises(SlotLostError, match=r"its log was removed.*upsell capture --resync all"):
        place.capture().drain()

    place.capture().resync()

    for table in TABLES:
        assert place.fold(table) == place.source(table)
