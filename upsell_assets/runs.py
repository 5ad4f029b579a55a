"""Runs in Dagster's books: which of them are under way, and what each is for.

Not here: what starts runs (`automation`, sensors) or whether a failed one was made good (`outlook`).
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import date, timedelta

import dagster as dg
from dagster._core.storage.tags import (
    ASSET_PARTITION_RANGE_END_TAG,
    ASSET_PARTITION_RANGE_START_TAG,
    PARTITION_NAME_TAG,
)

UNDER_WAY = [
    dg.DagsterRunStatus.QUEUED,
    dg.DagsterRunStatus.NOT_STARTED,
    dg.DagsterRunStatus.STARTING,
    dg.DagsterRunStatus.STARTED,
    dg.DagsterRunStatus.CANCELING,
]


def under_way(instance: dg.DagsterInstance, job: str) -> bool:
    """Whether a run of a job is queued or runs."""
    return bool(instance.get_runs_count(dg.RunsFilter(job_name=job, statuses=UNDER_WAY)))


def partitions_of(tags: Mapping[str, str]) -> set[str]:
    """The days that a run is for, from its tags: one, a range, or none."""
    first = tags.get(ASSET_PARTITION_RANGE_START_TAG) or tags.get(PARTITION_NAME_TAG)
    if first is None:
        return set()
    last = tags.get(ASSET_PARTITION_RANGE_END_TAG, first)
    start, end = date.fromisoformat(first), date.fromisoformat(last)
    return {(start + timedelta(number)).isoformat() for number in range((end - start).days + 1)}
