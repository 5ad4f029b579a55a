"""What our sensors have in common: how often they look, and the instance that they ask.

A sensor that finds nothing should cost next to nothing: it looks every few seconds, for ever. Not here: what each looks at.
"""

from __future__ import annotations

import dagster as dg
from dagster._core.instance.ref import InstanceRef

TURN_SECONDS = 5
"""Dagster's daemon takes a turn of all sensors so often, and lets those look whose interval is over."""

_opened: tuple[InstanceRef, dg.DagsterInstance] | None = None


def interval(seconds: int) -> int:
    """The interval of a sensor that is to look every so many seconds.

    A tick begins some milliseconds after its turn: of an interval of one turn every second turn would be let pass.
    """
    return max(1, seconds - 1)


def instance_of(context: dg.SensorEvaluationContext) -> dg.DagsterInstance:
    """The instance of a tick, kept from one to the next: a context's own reads all migrations of its storage anew."""
    global _opened
    ref = context.instance_ref
    if ref is None:
        return context.instance
    opened = _opened
    if opened is None or opened[0] != ref:
        opened = _opened = ref, dg.DagsterInstance.from_ref(ref)
    return opened[1]
