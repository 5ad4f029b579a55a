"""The sensor that runs what the conditions ask for, and looks at them only where something happened.

To look at all conditions takes a second of processor time. Dagster's own sensor does so at each tick, whether or not
anything happened; and it asks for more while what it asked for waits its turn, so that on a busy machine each capture is
followed by a set of runs of its own. Here: when to look, and what is kept between looks. Not here: the conditions
(`automation`).
"""

from __future__ import annotations

import os
from datetime import datetime, timedelta
from typing import Any

import dagster as dg
from dagster._core.definitions.declarative_automation.automation_condition_evaluator import (
    AUTOMATION_TICK_SETTLE_SECONDS_ENV_VAR,
)
from dagster._core.definitions.sensor_definition import SensorExecutionData
from dagster._core.storage.tags import SENSOR_NAME_TAG

from upsell_assets.clock import Clock, utc_now
from upsell_assets.runs import UNDER_WAY
from upsell_assets.ticks import instance_of

LOOKS = 3
"""Looks after something happened: a condition may ask for something the tick after, and forget a request in the next."""

CLOCK_MINUTES = 10
"""Conditions that go by the clock (crons, days that begin) go by these steps of it, from the full hour on."""

NOTHING = "nothing happened"
"""What a tick says that was skipped because there was nothing to look for."""

SETTLE_SECONDS = 0.25
"""Between what counts as seen by a look, and the look: transactions under way end. Dagster has it as an environment variable
only. Without it what comes in during a look is seen by that look and by the next, and asked for twice."""

LONGEST_WAIT = timedelta(minutes=2)
"""For what was asked for before: a run that waits for longer waits for its table, and holds back nobody else."""


class AutomationSensor(dg.AutomationConditionSensorDefinition):
    """Evaluated in the code server, so that conditions are those of the code that runs."""

    def __init__(self, name: str, *, clock: Clock = utc_now, **options: Any) -> None:
        super().__init__(name, use_user_code_server=True, default_status=dg.DefaultSensorStatus.RUNNING, **options)
        os.environ.setdefault(AUTOMATION_TICK_SETTLE_SECONDS_ENV_VAR, str(SETTLE_SECONDS))
        self._clock = clock
        self._seen: tuple[int | None, int] | None = None
        self._step: datetime | None = None
        self._left = LOOKS

    def evaluate_tick(self, context: dg.SensorEvaluationContext) -> SensorExecutionData:
        """Look at the conditions, or skip the tick.

        It is skipped where nothing happened since they were looked at, and no step of the clock began; and while runs
        that were asked for before are queued: what happens meanwhile is then answered by one set of runs. What was seen
        is forgotten with the process, which then looks again. A cursor that Dagster lost is given back first.
        """
        instance, now = instance_of(context), self._clock()
        if context.cursor is None and (kept := self._kept(instance, context)) is not None:
            return SensorExecutionData(skip_message="taken up again after an interrupted look", cursor=kept)
        seen, step = _seen(instance), _step(now)
        if seen != self._seen:
            self._left = LOOKS
        elif step != self._step:
            self._left = max(self._left, 1)
        if not self._left:
            return SensorExecutionData(skip_message=NOTHING, cursor=context.cursor)
        if self._queued(instance, now):
            return SensorExecutionData(skip_message="what was asked for before is queued", cursor=context.cursor)
        done = super().evaluate_tick(context)
        if context.cursor is not None and done.cursor is not None:
            self._keep(instance, context, done.cursor)
        self._seen, self._step, self._left = seen, step, self._left - 1
        return done

    def _keep(self, instance: dg.DagsterInstance, context: dg.SensorEvaluationContext, cursor: str) -> None:
        """Keep what the conditions remember, before Dagster is told which runs they ask for.

        A daemon that is killed while it submits the runs of a tick submits the rest once it is back, but has lost the
        cursor: what waited to be asked for would be forgotten. The very first look has nothing to forget.
        """
        instance.daemon_cursor_storage.set_cursor_values({self._place(context): cursor})

    def _kept(self, instance: dg.DagsterInstance, context: dg.SensorEvaluationContext) -> str | None:
        place = self._place(context)
        return instance.daemon_cursor_storage.get_cursor_values({place}).get(place)

    def _place(self, context: dg.SensorEvaluationContext) -> str:
        origin = context.code_location_origin
        return "/".join(["upsell", origin.location_name if origin else "", context.repository_name or "", self.name])

    def _queued(self, instance: dg.DagsterInstance, now: datetime) -> bool:
        """Whether runs that this sensor asked for of late wait to be started."""
        waiting = dg.RunsFilter(
            statuses=[dg.DagsterRunStatus.QUEUED],
            tags={SENSOR_NAME_TAG: self.name},
            created_after=now - LONGEST_WAIT,
        )
        return instance.get_runs_count(waiting) > 0


def _step(now: datetime) -> datetime:
    return now.replace(minute=now.minute - now.minute % CLOCK_MINUTES, second=0, microsecond=0)


def _seen(instance: dg.DagsterInstance) -> tuple[int | None, int]:
    """What changes whenever something happens: the newest event, and the runs under way."""
    events = instance.event_log_storage.get_maximum_record_id()
    return events, instance.get_runs_count(dg.RunsFilter(statuses=UNDER_WAY))
