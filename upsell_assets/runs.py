"""Runs in Dagster's books: which of them are under way.

Not here: what starts runs (`automation`, sensors) or whether a failed one was made good (`outlook`).
"""

from __future__ import annotations

import dagster as dg

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
