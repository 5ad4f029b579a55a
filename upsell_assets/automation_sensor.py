"""The sensor that runs what the conditions ask for, and looks at them only where something happened.

To look at all conditions takes a second of processor time. Dagster's own sensor does so at each tick, whether or not
anything happened. Here: when to look. Not here: the conditions (`automation`).
"""

from __future__ import annotations

from datetime import datetime
from typing import Any

import dagster as dg
from dagster._core.definitions.sensor_definition import SensorExecutionData

from upsell_assets.clock import Clock, utc_now
from upsell_assets.runs import UNDER_WAY
from upsell_assets.ticks import instance_of

LOOKS = 3
"""Looks after something happened: a condition may ask for something the tick after, and forget a request in the next."""

CLOCK_MINUTES = 10
"""Conditions that go by the clock (crons, days that begin) go by these steps of it, from the full hour on."""


class AutomationSensor(dg.AutomationConditionSensorDefinition):
    """Evaluated in the code server, so that conditions are those of the code that runs."""

    def __init__(self, name: str, *, clock: Clock = utc_now, **options: Any) -> None:
        super().__init__(name, use_user_code_server=True, default_status=dg.DefaultSensorStatus.RUNNING, **options)
        self._clock = clock
        self._seen: tuple[int | None, int] | None = None
        self._step: datetime | None = None
        self._left = LOOKS

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> SensorExecutionData:
        """Look at the conditions, or skip the tick: nothing happened since they were looked at, and no step of the clock began.

        What was seen is forgotten with the process, which then looks again.
        """
        seen, step = _seen(instance_of(context)), _step(self._clock())
        if seen != self._seen:
            self._left = LOOKS
        elif step != self._step:
            self._left = max(self._left, 1)
        if not self._left:
            return SensorExecutionData(skip_message="nothing happened", cursor=context.cursor)
        done = super().evaluate_tick(context)
        self._seen, self._step, self._left = seen, step, self._left - 1
        return done


def _step(now: datetime) -> datetime:
    return now.replace(minute=now.minute - now.minute % CLOCK_MINUTES, second=0, microsecond=0)


def _seen(instance: dg.DagsterInstance) -> tuple[int | None, int]:
    """What changes whenever something happens: the newest event, and the runs under way."""
    events = instance.event_log_storage.get_maximum_record_id()
    return events, instance.get_runs_count(dg.RunsFilter(statuses=UNDER_WAY))
