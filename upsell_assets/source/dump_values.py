"""What the texts of a dump mean: dates, and the type of a column that nobody declared.

Here: judgements on single values, without files or a database. Not here: declared columns other than dates, whose
values the database judges.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import LiteralString

_DATE = re.compile(
    r"(?P<day>\d{4}-\d\d-\d\d)(?:[ T](?P<clock>\d\d:\d\d(?::\d\d(?:[.,]\d+)?)?))?"
    r" ?(?P<offset>Z|[+-]\d\d(?::?\d\d)?)?(?: ?UTC)?"
)
_ZERO_DAY = "0000-00-00"
_INTEGER = re.compile(r"0|-?[1-9]\d{0,18}", re.ASCII)
_NUMBER = re.compile(r"-?(?:0|[1-9]\d*)(?:\.\d+)?(?:[eE][+-]?\d{1,3})?", re.ASCII)


def parse_instant(text: str) -> datetime:
    """Read an ISO date and time, with or without fractions, offset or the word UTC, as naive UTC.

    Raises:
        ValueError: it is no such text, or no such day.
        OverflowError: in UTC it is outside the years 1 to 9999.
    """
    match = _DATE.fullmatch(text.strip())
    if match is None:
        raise ValueError(text)
    clock = (match["clock"] or "00:00").replace(",", ".")
    instant = datetime.fromisoformat(f"{match['day']}T{clock}{match['offset'] or '+00:00'}")
    return instant.astimezone(UTC).replace(tzinfo=None)


class Instants:
    """The texts of a date column as naive UTC; MySQL's zero dates, which are no day, become null and are counted."""

    def __init__(self) -> None:
        self.zeros = 0

    def __call__(self, text: str) -> datetime | None:
        """Read one text.

        Raises:
            ValueError: it is no date; the message says so.
        """
        try:
            return parse_instant(text)
        except (ValueError, OverflowError):
            if not _is_zero_date(text):
                raise ValueError(f"{text!r} is not an ISO date") from None
        self.zeros += 1
        return None


def _is_zero_date(text: str) -> bool:
    match = _DATE.fullmatch(text.strip())
    return match is not None and match["day"] == _ZERO_DAY


class Kind:
    """The type of an undeclared column: the first that keeps each of its values as it is, else text.

    The types are bigint, double precision and timestamp. A code like 007 or a number of more digits than a double has
    would not come back as it was, and makes the column text; so does a column without any value.
    """

    def __init__(self) -> None:
        self._candidates = list(_KINDS)
        self._seen = False

    def take(self, text: str) -> None:
        """Judge by one more value, which is not null."""
        self._seen = True
        if self._candidates:
            self._candidates = [kind for kind in self._candidates if _KINDS[kind](text)]

    @property
    def type(self) -> LiteralString:
        """PostgreSQL's name of the type, after all values."""
        return self._candidates[0] if self._seen and self._candidates else "text"


def _is_integer(text: str) -> bool:
    return _INTEGER.fullmatch(text) is not None and -(2**63) <= int(text) < 2**63


def _is_number(text: str) -> bool:
    if _NUMBER.fullmatch(text) is None:
        return False
    number = float(text)
    return math.isfinite(number) and Decimal(repr(number)) == Decimal(text)


def _is_instant(text: str) -> bool:
    try:
        parse_instant(text)
    except (ValueError, OverflowError):
        return _is_zero_date(text)
    return True


_KINDS: dict[LiteralString, Callable[[str], bool]] = {
    "bigint": _is_integer,
    "double precision": _is_number,
    "timestamp": _is_instant,
}
