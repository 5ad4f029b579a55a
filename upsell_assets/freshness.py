"""When tables should have been made anew, as Dagster's freshness policies: shown on each asset, judged by the daemon.

They cost a run nothing. Here: the policies. Not here: how far a table's rows are behind (`status`, `pictures`), or how
far capture is behind the database (the check `captured_in_time`).
"""

from __future__ import annotations

from datetime import timedelta

import dagster as dg

from upsell_assets.settings import LOCAL_ZONE, Settings

DEADLINE = "0 6 * * *"


def follows_source(settings: Settings) -> dg.FreshnessPolicy:
    """Raw, bronze and silver: a source that says nothing for so long has fallen silent, or nobody listens."""
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(hours=settings.freshness_hours))


def each_day() -> dg.FreshnessPolicy:
    """Features, reports and scores: a dtRef begins at local midnight, and is there by six in the morning."""
    return dg.FreshnessPolicy.cron(DEADLINE, lower_bound_delta=timedelta(hours=6), timezone=LOCAL_ZONE.key)


def each_week() -> dg.FreshnessPolicy:
    """The model: trained on Mondays; a day late is too late."""
    return dg.FreshnessPolicy.time_window(fail_window=timedelta(days=8))
