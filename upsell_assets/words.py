"""How assets, days and moments are written for people."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Collection

    from dagster import AssetKey


def dotted(key: AssetKey) -> str:
    """An asset's name as its table is called."""
    return ".".join(key.path)


def moment(at: datetime | float) -> str:
    """A moment (UTC, or Unix seconds), to the second."""
    at = datetime.fromtimestamp(at, UTC) if isinstance(at, float) else at
    return f"{at:%Y-%m-%d %H:%M:%S} UTC"


def span(days: Collection[str]) -> str:
    """Days: the one, or how many from the first to the last; "" for none."""
    return (
        "" if not days else next(iter(days)) if len(days) == 1 else f"{len(days)} days from {min(days)} to {max(days)}"
    )
