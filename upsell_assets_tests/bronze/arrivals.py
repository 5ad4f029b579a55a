"""Histories on their way into real Delta tables: what arrives is merged, and what the tables then hold."""

from __future__ import annotations

from histories import End, Step, arrow, held, position
from oracle import Change, Expected

from upsell_assets.bronze.merge import Merged, end_load, merge, table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.tables import Lake


def take(lake: Lake, of: Contract, *changes: Change) -> Merged:
    return merge(lake, of, arrow(of, changes))


def arrive(lake: Lake, of: Contract, step: Step) -> None:
    if isinstance(step, End):
        end_load(lake, of, position(step.load), step.load.name)
    else:
        take(lake, of, *step)


def holds(lake: Lake, of: Contract) -> Expected:
    live, tombstones = (lake.open(name(of)).to_pyarrow_table() for name in (table_name, tombstones_name))
    return held(of, live, tombstones)
