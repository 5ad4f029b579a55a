"""What Dagster's daemons do, one step at a time and in this process: tick sensors, evaluate conditions, run."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field
from datetime import datetime
from itertools import groupby
from typing import Any

import dagster as dg
from dagster import AssetKey

Requested = dict[AssetKey, set[str | None]]


@dataclass
class Daemon:
    """A code location on an instance of its own; `requests` keeps what each tick asked for.

    `checks` has the latest evaluation of each check, by check and table.
    """

    defs: dg.Definitions
    instance: dg.DagsterInstance
    requests: list[Requested] = field(default_factory=list)
    checks: dict[tuple[str, str], dg.AssetCheckEvaluation] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.graph = self.defs.resolve_asset_graph()
        self._cursor: Any = None
        self._cursors: dict[str, str | None] = defaultdict(lambda: None)

    def sense(self, name: str) -> list[dg.AssetMaterialization]:
        """Tick a sensor and record what it reports, as the sensor daemon does."""
        [sensor] = [sensor for sensor in self.defs.sensors or () if sensor.name == name]
        context = dg.build_sensor_context(self.instance, cursor=self._cursors[name])
        data = sensor.evaluate_tick(context)
        self._cursors[name] = data.cursor
        for event in data.asset_events:
            self.instance.report_runless_asset_event(event)
        return [event for event in data.asset_events if isinstance(event, dg.AssetMaterialization)]

    def evaluate(self, at: datetime | None = None) -> Requested:
        """What the conditions ask for, now or at a given time, in two ticks.

        What is there for the first time counts from the second tick on; nothing is asked for twice.
        """
        asked: Requested = {}
        for _ in range(2):
            result = dg.evaluate_automation_conditions(
                self.defs, self.instance, evaluation_time=at, cursor=self._cursor
            )
            self._cursor = result.cursor
            for key in self.graph.materializable_asset_keys:
                if days := set(result.get_requested_partitions(key)):
                    assert days.isdisjoint(asked.get(key, ())), f"{key} is asked for twice"
                    asked.setdefault(key, set()).update(days)
        self.requests.append(asked)
        return asked

    def run(self, asked: Requested) -> None:
        """Run what was asked for: assets of the same partitions together, a range of days in one run."""
        together: dict[tuple[str | None, ...], list[AssetKey]] = defaultdict(list)
        for key in self.graph.toposorted_asset_keys:
            if key in asked:
                for days in self._ranges(key, asked[key]):
                    together[days].append(key)
        for days, keys in together.items():
            assert self.materialize(keys, *days).success

    def settle(self, at_most: int = 20) -> None:
        """Tick until nothing is asked for."""
        for _ in range(at_most):
            asked = self.evaluate()
            if not asked:
                return
            self.run(asked)
        raise AssertionError(f"still asked for after {at_most} ticks: {asked}")

    def materialize(
        self, keys: list[AssetKey], first: str | None = None, last: str | None = None, *, raise_on_error: bool = True
    ) -> dg.ExecuteInProcessResult:
        """One run of some assets, for a day or for a range of days."""
        single = first if last in (None, first) else None
        span = (
            {} if single else {"dagster/asset_partition_range_start": first, "dagster/asset_partition_range_end": last}
        )
        # As the daemon asks: with the checks that are part of an asset, without those that run by the clock.
        of_assets = {part for key in keys for part in self.graph.get_execution_set_asset_and_check_keys(key)}
        checks = {part for part in of_assets if isinstance(part, dg.AssetCheckKey)}
        job = self.defs.resolve_implicit_global_asset_job_def()
        done = job.get_subset(asset_selection={*keys}, asset_check_selection=checks).execute_in_process(
            instance=self.instance,
            partition_key=single,
            tags={name: day for name, day in span.items() if day},
            raise_on_error=raise_on_error,
        )
        self.checks |= {
            (check.check_name, check.asset_key.path[-1]): check for check in done.get_asset_check_evaluations()
        }
        return done

    def _ranges(self, key: AssetKey, partitions: set[str | None]) -> list[tuple[str | None, ...]]:
        calendar = self.graph.get(key).partitions_def
        if calendar is None:
            return [()]
        numbers = {day: number for number, day in enumerate(calendar.get_partition_keys())}
        days = sorted(day for day in partitions if day)
        runs = groupby(enumerate(days), lambda item: numbers[item[1]] - item[0])
        spans = [[day for _, day in run] for _, run in runs]
        if self.graph.get(key).backfill_policy is None:
            return [(day, day) for day in days]
        return [(span[0], span[-1]) for span in spans]
