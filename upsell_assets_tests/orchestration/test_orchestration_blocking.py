"""A table that is not what it must be does not feed the next: within its run, and in the runs that follow."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import dagster as dg
import pytest
from dagster import AssetKey

from upsell_assets.automation import on_change

DAYS = dg.DailyPartitionsDefinition("2024-02-01", end_date="2024-02-06")


class Tables:
    """A source, a table with a blocking and a warning check, and what is made of it, by our conditions."""

    def __init__(self, instance: dg.DagsterInstance) -> None:
        self.instance = instance
        self.cursor: Any = None
        self.sound, self.usual = True, True

        specs = [
            dg.AssetCheckSpec("sound", asset="table", blocking=True),
            dg.AssetCheckSpec("usual", asset="table"),
        ]

        @dg.asset(deps=["source"], automation_condition=on_change(), check_specs=specs)
        def table() -> dg.MaterializeResult:
            warning = dg.AssetCheckSeverity.WARN
            return dg.MaterializeResult(
                check_results=[
                    dg.AssetCheckResult(check_name="sound", passed=self.sound),
                    dg.AssetCheckResult(check_name="usual", passed=self.usual, severity=warning),
                ]
            )

        @dg.asset(deps=[table], automation_condition=on_change())
        def after() -> None:
            """Reads the table."""

        @dg.asset(deps=[table], partitions_def=DAYS, automation_condition=on_change())
        def daily() -> None:
            """Reads the table, a day at a time."""

        self.assets = [dg.AssetSpec("source"), table, after, daily]

    def changes(self, name: str = "source") -> None:
        self.instance.report_runless_asset_event(dg.AssetMaterialization(name))

    def tick(self) -> set[str]:
        """What two looks ask for: what is there for the first time counts from the second on."""
        asked: set[str] = set()
        for _ in range(2):
            result = dg.evaluate_automation_conditions(self.assets, self.instance, cursor=self.cursor)
            self.cursor = result.cursor
            asked |= {name for name in ("table", "after", "daily") if result.get_requested_partitions(AssetKey(name))}
        return asked

    def run(self, *names: str) -> bool:
        job = dg.Definitions(self.assets).resolve_implicit_global_asset_job_def()
        return job.execute_in_process(
            instance=self.instance, asset_selection=[AssetKey(name) for name in names], raise_on_error=False
        ).success


@pytest.fixture
def tables() -> Iterator[Tables]:
    with dg.DagsterInstance.ephemeral() as instance:
        tables = Tables(instance)
        tables.tick()
        tables.changes()
        assert "table" in tables.tick()
        yield tables


def test_what_reads_a_table_runs_once_its_blocking_check_has_passed(tables: Tables) -> None:
    assert tables.run("table")

    assert tables.tick() == {"after", "daily"}


def test_what_reads_a_table_in_a_run_of_its_own_waits_while_the_blocking_check_fails(tables: Tables) -> None:
    tables.sound = False
    assert not tables.run("table")
    assert tables.tick() == set()

    tables.sound = True
    assert tables.run("table")
    assert tables.tick() == {"after", "daily"}


def test_a_warning_holds_nothing_back(tables: Tables) -> None:
    tables.usual = False
    assert tables.run("table")

    assert tables.tick() == {"after", "daily"}


def test_a_table_that_was_made_before_it_had_a_check_feeds_the_next(tables: Tables) -> None:
    tables.changes("table")

    assert {"after", "daily"} <= tables.tick()


def test_a_failure_that_the_audit_reports_holds_back_until_the_table_passes(tables: Tables) -> None:
    assert tables.run("table")
    made = time.time()
    while int(time.time()) == int(made):  # Dagster keeps the second in which a check was told
        time.sleep(0.01)
    failed = dg.AssetCheckEvaluation(AssetKey("table"), "sound", passed=False, blocking=True)
    tables.instance.report_runless_asset_event(failed)
    assert tables.tick() == set()

    assert tables.run("table")
    assert tables.tick() == {"after", "daily"}
