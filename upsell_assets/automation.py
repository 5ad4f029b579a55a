"""When assets run by themselves: a small vocabulary of conditions, each with the reason for it.

Here: conditions. Not here: who reports what landed or what was touched (`sensors`, `silver.assets`).

- `news`: a dependency was updated since we were last asked to run. Reset by the request alone, not by our own
  materialization: what arrives while we run would be forgotten otherwise. And not even by the request where a
  dependency was updated between its tick and the next: the run that was asked for may have looked before.
- `ready`: every dependency has something. Who comes first at a cold start would otherwise run twice.
- `cold`: we were never made, and are ready. `news` says nothing at the first evaluation.
- a failed partition is not asked for again at once, but by the clock, or by news.
- `sound`: no dependency has a blocking check that failed. Dagster's `blocking` stops what stands behind an asset in the
  same run only, and we run in runs of our own. Failed, not "has passed": what was made before it had a check may feed us.
- `free`: neither we nor a dependency is being made now. Silver tells what it touches before it commits; who runs
  in between would read the old rows and believe them new.
"""

from __future__ import annotations

import dagster as dg

SENSOR = "automation"
"""The sensor that runs what the conditions ask for."""

RETRY_CRON = "*/10 * * * *"

Condition = dg.AutomationCondition[dg.AssetKey]
AnyCondition = dg.AutomationCondition[dg.AssetKey | dg.AssetCheckKey]


def on_change(of: dg.AssetKey | None = None) -> Condition:
    """Run when a dependency changed (with `of`, only that one), partition by partition."""
    updated = dg.AutomationCondition.any_deps_updated()
    ready = dg.AutomationCondition.all_deps_match(~dg.AutomationCondition.missing())
    if of is not None:
        updated = updated.allow(dg.AssetSelection.assets(of))
    answered = dg.AutomationCondition.newly_requested() & ~updated
    news = updated.since(answered).with_label("news")
    return ((news & ready) | _cold() | _again()) & _sound() & _free()


def once_ready() -> Condition:
    """Run once per partition, when every dependency has it; a later change of a dependency asks for nothing."""
    return (_cold() | _again()) & _sound() & _free()


def weekly(cron: str, zone: str) -> Condition:
    """Run once every dependency has something, and then by the clock."""
    tick = dg.AutomationCondition.cron_tick_passed(cron, zone).since(dg.AutomationCondition.newly_requested())
    return (tick.with_label("tick") | _cold() | _again()) & _sound() & _free()


def _cold() -> AnyCondition:
    ready = dg.AutomationCondition.all_deps_match(~dg.AutomationCondition.missing())
    condition = dg.AutomationCondition.missing() & ready & ~dg.AutomationCondition.execution_failed()
    return condition.with_label("cold")


def _again() -> Condition:
    tick = dg.AutomationCondition.cron_tick_passed(RETRY_CRON).since(dg.AutomationCondition.newly_requested())
    return (dg.AutomationCondition.execution_failed() & tick).with_label("again")


def _sound() -> AnyCondition:
    held = ~dg.AutomationCondition.check_failed()
    condition = dg.AutomationCondition.all_deps_match(dg.AutomationCondition.all_checks_match(held, blocking_only=True))
    return condition.with_label("sound")


def _free() -> AnyCondition:
    condition = ~dg.AutomationCondition.in_progress() & ~dg.AutomationCondition.any_deps_in_progress()
    return condition.with_label("free")
