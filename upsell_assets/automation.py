"""When assets run by themselves: a small vocabulary of conditions, each with the reason for it.

Here: conditions. Not here: who reports what landed or what was touched (`sensors`, `silver.assets`).

- `news`: a dependency was updated since we were last asked to run. Reset by the request alone, not by our own
  materialization: what arrives while we run would be forgotten otherwise. And not even by the request where a
  dependency was updated between its tick and the next: the run that was asked for may have looked before.
- `ready`: every dependency has something, and had it when we last looked. Who comes first at a cold start would otherwise
  run twice: whether something is there is looked up at this moment, what was updated is told up to the tick's beginning,
  and what came in between would be news at the next tick.
- `cold`: we were never made, and are ready. `news` says nothing at the first evaluation. Asked for once: a run may end
  between the moments at which one evaluation looks whether we are missing and whether we are being made.
- `code`: our code is another one than when we were last looked at, and we were made by the old one. A partition that
  was never made is made by the new code anyway, once somebody asks for it.
- `again`: what failed, or was asked for and never came, is not asked for again at once, but by the clock, or by news.
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
"""This and other crons of conditions are no finer than the steps in which `automation_sensor` looks at the clock."""

Condition = dg.AutomationCondition[dg.AssetKey]
AnyCondition = dg.AutomationCondition[dg.AssetKey | dg.AssetCheckKey]


def on_change(of: dg.AssetKey | None = None) -> Condition:
    """Run when a dependency changed (with `of`, only that one), partition by partition."""
    updated, ready = dg.AutomationCondition.any_deps_updated(), _ready()
    if of is not None:
        updated = updated.allow(dg.AssetSelection.assets(of))
    answered = dg.AutomationCondition.newly_requested() & ~updated
    news = updated.since(answered).with_label("news")
    return ((news & ready) | (_code() & ready) | _cold() | _again()) & _sound() & _free()


def once_ready() -> Condition:
    """Run once per partition, when every dependency has it; a later change of a dependency asks for nothing."""
    return (_cold() | _again()) & _sound() & _free()


def weekly(cron: str, zone: str) -> Condition:
    """Run once every dependency has something, and then by the clock."""
    tick = dg.AutomationCondition.cron_tick_passed(cron, zone).since(dg.AutomationCondition.newly_requested())
    return (tick.with_label("tick") | _cold() | _again()) & _sound() & _free()


def _ready() -> AnyCondition:
    there = ~dg.AutomationCondition.missing()
    return dg.AutomationCondition.all_deps_match(there & ~there.newly_true()).with_label("ready")


def _wanted() -> AnyCondition:
    return dg.AutomationCondition.missing() & _ready()


def _cold() -> AnyCondition:
    begins = (_wanted() & ~dg.AutomationCondition.execution_failed()).newly_true()
    return begins.since(dg.AutomationCondition.newly_requested()).with_label("cold")


def _code() -> Condition:
    changed = dg.AutomationCondition.code_version_changed().since(dg.AutomationCondition.newly_requested())
    return (changed & ~dg.AutomationCondition.missing()).with_label("code")


def _again() -> Condition:
    tick = dg.AutomationCondition.cron_tick_passed(RETRY_CRON).since(dg.AutomationCondition.newly_requested())
    return ((dg.AutomationCondition.execution_failed() | _wanted()) & tick).with_label("again")


def _sound() -> AnyCondition:
    held = ~dg.AutomationCondition.check_failed()
    condition = dg.AutomationCondition.all_deps_match(dg.AutomationCondition.all_checks_match(held, blocking_only=True))
    return condition.with_label("sound")


def _free() -> AnyCondition:
    condition = ~dg.AutomationCondition.in_progress() & ~dg.AutomationCondition.any_deps_in_progress()
    return condition.with_label("free")
