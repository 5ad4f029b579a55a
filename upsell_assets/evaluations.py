"""What the conditions said when Dagster looked at them: which labels were true, and what stood in the way.

Here: reading the trees of evaluations that the daemon keeps. Dagster keeps one where something changed, so that the
newest is what still holds. Not here: the conditions (`automation`), and what runs and events add to them (`why`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from dagster import AssetKey, DagsterInstance
from dagster._core.definitions.declarative_automation.serialized_objects import AutomationConditionEvaluation
from dagster._utils.schedules import schedule_execution_time_iterator

Node = AutomationConditionEvaluation[Any]

REASONS = {
    "news": "a dependency was updated since it was last asked for",
    "cold": "it had never been made, and all that it depends on was there",
    "code": "its code is another one than it was made by",
    "again": "it had failed, and the time to try again had come",
    "tick": "its time by the clock had come",
}
"""The labels that ask for a run. Others that no one has told this module of are said as they are."""

GUARDS = {"ready", "sound", "free"}
"""The labels that hold a run back while they are false."""

_MATCHES = "EntityMatchesCondition"
_ALL_DEPS = "AllDepsCondition"
_CRON = re.compile(r"cron_schedule=(?P<cron>.+?), cron_timezone=(?P<zone>.+?)\)")
_LOOKS_BACK = 50


@dataclass(frozen=True)
class Look:
    """One evaluation of one asset's condition.

    Attributes:
        number: the evaluation's id, the same for all assets of one tick.
        at: when it was, UTC.
        tree: what was found, node by node.
    """

    number: int
    at: datetime
    tree: Node

    def asked(self, partition: str | None) -> bool:
        """Whether it asked for a run."""
        return holds(self.tree, partition)


@dataclass(frozen=True)
class Obstacle:
    """What keeps an asset from being made.

    Attributes:
        kind: `making` (itself or a dependency), `unsound` (a blocking check), `missing` (a dependency was never made),
            `failed` (it waits for the clock), `clock` (its time has not come), `guard` (a label of others), `nothing`
            (nothing asks for it) or `asked` (it was asked for).
        on: the assets that it is about; of `nothing` those that are watched.
        label: the label, of a guard.
        cron: when it is tried again, as (cron, time zone).
    """

    kind: str
    on: tuple[AssetKey, ...] = ()
    label: str = ""
    cron: tuple[str, str] | None = None


def looks(instance: DagsterInstance, key: AssetKey, limit: int = 1, before: int | None = None) -> list[Look]:
    """The newest kept evaluations of an asset's condition (with `before`, of those before a number), newest first."""
    storage = instance.schedule_storage
    records = storage.get_auto_materialize_asset_evaluations(key, limit, before) if storage else []
    return [
        Look(record.evaluation_id, datetime.fromtimestamp(record.timestamp, UTC), evaluation)
        for record in records
        for evaluation in [record.get_evaluation_with_run_ids().evaluation]
    ]


def holds(node: Node, partition: str | None) -> bool:
    """Whether a node was true for a partition; without one, for any."""
    value = node.true_subset.value
    if isinstance(value, bool):
        return value
    return not value.is_empty if partition is None else partition in value


def pending(look: Look) -> set[str]:
    """The partitions for which something asks, whether it is held back or not; `cold` and `again` speak for themselves."""
    found: set[str] = set()
    for node in _labelled(look.tree):
        value = node.true_subset.value
        if node.condition_snapshot.label not in {*GUARDS, "cold", "again"} and not isinstance(value, bool):
            found |= set(value.get_partition_keys())
    return found


def reasons(look: Look, partition: str | None) -> list[str]:
    """The labels that asked for the run."""
    found = (node.condition_snapshot.label for node in _labelled(look.tree) if holds(node, partition))
    return [label for label in dict.fromkeys(found) if label and label not in GUARDS]


def updated(instance: DagsterInstance, look: Look, partition: str | None) -> list[AssetKey]:
    """The dependencies whose update was the news, in this evaluation or in those since the last that asked."""
    seen = look
    for earlier in [look, *looks(instance, look.tree.key, _LOOKS_BACK, look.number)]:
        if earlier is not look and earlier.asked(partition):
            break
        seen = earlier
        if found := [_dependency(node) for node in _news(seen.tree) if holds(node, partition)]:
            return list(dict.fromkeys(found))
    return []


def obstacle(look: Look, partition: str | None) -> Obstacle:
    """What kept this evaluation from asking for a run, the first in the order in which conditions are judged."""
    tree = look.tree
    if look.asked(partition):
        return Obstacle("asked")
    wishes, *guards = tree.child_evaluations or [tree]
    if guards and holds(wishes, partition):
        return next(_held_back(guard, partition) for guard in guards if not holds(guard, partition))
    labels = {node.condition_snapshot.label: node for node in _labelled(tree)}
    if (again := labels.get("again")) and _own(again, tree, "execution_failed", partition):
        return Obstacle("failed", cron=_cron(again))
    cold = labels.get("cold")
    for reason, node in labels.items():
        never_made = node is cold and _own(node, tree, "missing", partition)
        if (never_made or (reason in REASONS and holds(node, partition))) and (
            absent := _absent(tree if not never_made else node, partition)
        ):
            return Obstacle("missing", absent)
    return idle(look)


def _own(node: Node, tree: Node, name: str, partition: str | None) -> bool:
    """Whether a built-in condition of the asset itself, not of a dependency, was true below a node."""
    return any(
        holds(below, partition)
        for below in node.iter_nodes()
        if below.condition_snapshot.name == name and below.key == tree.key
    )


def idle(look: Look) -> Obstacle:
    """That nothing asks for the asset: what it waits for, the clock or news."""
    for node in _labelled(look.tree):
        if node.condition_snapshot.label == "tick":
            return Obstacle("clock", cron=_cron(node))
    return Obstacle("nothing", tuple(dict.fromkeys(_dependency(node) for node in _news(look.tree))))


def next_time(cron: tuple[str, str], now: datetime) -> datetime:
    """The next time of a cron expression in its zone, UTC."""
    return next(schedule_execution_time_iterator(now.timestamp(), *cron)).astimezone(UTC)


def _labelled(tree: Node) -> Iterator[Node]:
    # Labels of Dagster's own, such as any_deps_updated, lie below ours.
    for node in tree.child_evaluations:
        if node.condition_snapshot.label:
            yield node
        else:
            yield from _labelled(node)


def _news(tree: Node) -> Iterator[Node]:
    """Of each dependency that is watched: whether it was updated."""
    for node in _labelled(tree):
        if node.condition_snapshot.label == "news" and node.child_evaluations:
            yield from _dependencies(node.child_evaluations[0])


def _dependencies(tree: Node) -> Iterator[Node]:
    return (node for node in tree.iter_nodes() if node.condition_snapshot.class_name == _MATCHES)


def _dependency(node: Node) -> AssetKey:
    key = node.child_evaluations[0].key
    return key if isinstance(key, AssetKey) else key.asset_key


def _held_back(guard: Node, partition: str | None) -> Obstacle:
    label = guard.condition_snapshot.label or guard.condition_snapshot.name or ""
    if label == "free":
        making = [_dependency(node) for node in _dependencies(guard) if holds(node, partition)]
        return Obstacle("making", tuple(dict.fromkeys(making)))
    if label == "sound":
        failed = [_dependency(node) for node in guard.child_evaluations if not holds(node, partition)]
        return Obstacle("unsound", tuple(dict.fromkeys(failed)))
    return Obstacle("guard", label=label)


def _absent(tree: Node, partition: str | None) -> tuple[AssetKey, ...]:
    """Dependencies that were never made, as the first `ready` says that somebody asked."""
    for node in tree.iter_nodes():
        said = [child for child in node.child_evaluations if child.condition_snapshot.class_name == _MATCHES]
        ready = node.condition_snapshot.class_name == _ALL_DEPS and node.condition_snapshot.label in (None, "ready")
        absent = [_dependency(child) for child in said if not holds(child, partition)]
        if ready and absent and _is_candidate(node, partition):
            return tuple(dict.fromkeys(absent))
    return ()


def _is_candidate(node: Node, partition: str | None) -> bool:
    value = getattr(node.candidate_subset, "value", True)  # a sentinel stands for all
    if isinstance(value, bool):
        return value
    return not value.is_empty if partition is None else partition in value


def _cron(tree: Node) -> tuple[str, str] | None:
    names = (node.condition_snapshot.name or "" for node in tree.iter_nodes())
    found = next((match for name in names if (match := _CRON.search(name))), None)
    return (found["cron"], found["zone"]) if found else None
