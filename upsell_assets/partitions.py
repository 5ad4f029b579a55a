"""The two calendars of the lake: landing days (UTC) of raw and bronze, and dtRefs (local days) of what follows.

Both begin with a setting and include today. Files that landed before the first landing day count to the first
partition, so that none is left out.
"""

from __future__ import annotations

from datetime import date
from zoneinfo import ZoneInfo

import dagster as dg

from upsell_assets.settings import LOCAL_ZONE, Settings

DEFAULT_START = date(2020, 1, 1)


def landing_days(settings: Settings) -> dg.DailyPartitionsDefinition:
    """One partition per UTC day on which files landed."""
    start = settings.first_landing_day or settings.first_day or DEFAULT_START
    return dg.DailyPartitionsDefinition(start.isoformat(), end_offset=1, timezone="UTC")


def dtrefs(settings: Settings, zone: ZoneInfo = LOCAL_ZONE) -> dg.DailyPartitionsDefinition:
    """One partition per local day of reference."""
    start = settings.first_day or DEFAULT_START
    return dg.DailyPartitionsDefinition(start.isoformat(), end_offset=1, timezone=zone.key)


def first_day(calendar: dg.DailyPartitionsDefinition) -> date:
    """The day of the first partition."""
    return calendar.start.date()


def landing_partition(day: date, calendar: dg.DailyPartitionsDefinition) -> str:
    """The partition that a file of this landing day counts to."""
    return max(day, first_day(calendar)).isoformat()
