"""What texts of a dump mean, apart from files and the database."""

from __future__ import annotations

from datetime import datetime

import pytest

from upsell_assets.source.dump_values import Instants, Kind, parse_instant


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("2024-02-01", datetime.fromisoformat("2024-02-01 00:00:00")),
        ("2024-02-01 10:20", datetime.fromisoformat("2024-02-01 10:20:00")),
        ("2024-02-01T10:20:30.5Z", datetime.fromisoformat("2024-02-01 10:20:30.500000")),
        ("2024-02-01 00:00:00 +0000 UTC", datetime.fromisoformat("2024-02-01 00:00:00")),
        ("2024-02-01 00:00:00.123456789-03", datetime.fromisoformat("2024-02-01 03:00:00.123456")),
        ("2024-02-01 00:00:00+05:30", datetime.fromisoformat("2024-01-31 18:30:00")),
    ],
)
def test_dates_become_naive_utc(text: str, expected: datetime) -> None:
    assert parse_instant(text) == expected


@pytest.mark.parametrize("text", ["yesterday", "2024-02-30", "2024-00-00", "0000-00-01", "0001-01-01 00:00:00+05"])
def test_what_is_no_date_is_refused_and_not_counted_as_zero(text: str) -> None:
    instants = Instants()

    with pytest.raises(ValueError, match="is not an ISO date"):
        instants(text)
    assert instants.zeros == 0


@pytest.mark.parametrize(
    ("texts", "expected"),
    [
        ([], "text"),
        (["0", "-7", "9223372036854775807"], "bigint"),
        (["9223372036854775808"], "text"),  # beyond a bigint, and a double would round it
        (["1", "007"], "text"),
        (["-0"], "double precision"),
        (["1", "2.50", "-1e-05"], "double precision"),
        (["0.30000000000000004"], "double precision"),
        (["0.1234567890123456789"], "text"),  # more digits than a double has
        (["1,5"], "text"),
        (["1e400"], "text"),
        (["nan"], "text"),
        (["٣"], "text"),  # a digit, though not one of PostgreSQL's
        (["2024-02-01", "2024-02-01 00:00:00 +0000 UTC", "0000-00-00 00:00:00"], "timestamp"),
        (["1", "2024-02-01"], "text"),
        (["2024-02-01", "1"], "text"),
        (["2024-02-30"], "text"),
    ],
)
def test_an_undeclared_column_has_the_first_type_that_keeps_all_its_values(texts: list[str], expected: str) -> None:
    kind = Kind()

    for text in texts:
        kind.take(text)

    assert kind.type == expected
