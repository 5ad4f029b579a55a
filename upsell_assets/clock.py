"""The clock of whatever writes down or asks when something happens; tests hand over another one."""

from collections.abc import Callable
from datetime import UTC, datetime

Clock = Callable[[], datetime]


def utc_now() -> datetime:
    """This instant, in UTC."""
    return datetime.now(UTC)
