"""The upkeep of a lake in a folder, at a moment and with a horizon that a test chooses, and what lies on its disk.

`upkeep` itself asks a bucket which tables there are; here the same steps are taken over the folders.
"""

from __future__ import annotations

from datetime import datetime, timedelta
from pathlib import Path
from urllib.parse import unquote

from bronze_steps import CONTRACTS

from upsell_assets.bronze.upkeep import tidy
from upsell_assets.lake.tables import Lake
from upsell_assets.lake.vacuum import Deleted, vacuum
from upsell_assets.silver import changed
from upsell_assets.upkeep import days_read, tombstones_read

FORGETFUL = {name: contract.model_copy(update={"tombstone_days": 1}) for name, contract in CONTRACTS.items()}
NOTHING_IN_FLIGHT = timedelta(0)


def tables(lake: Lake) -> list[str]:
    root = Path(lake.root)
    return sorted(".".join(log.parent.relative_to(root).parts) for log in root.glob("*/*/*/_delta_log"))


def look_after(lake: Lake, now: datetime, keep: timedelta = NOTHING_IN_FLIGHT) -> dict[str, Deleted]:
    """All that upkeep does; tombstones and changed days expire as soon as everybody has read them."""
    for contract in FORGETFUL.values():
        read = tombstones_read(lake, FORGETFUL, contract)
        tidy(lake, contract, read, clock=lambda: now + timedelta(1))
    if lake.exists(changed.NAME):
        changed.expire(lake, days_read(lake))
    return {name: vacuum(lake, name, keep) for name in tables(lake)}


def on_disk(lake: Lake, name: str) -> set[str]:
    folder = Path(lake.uri(name))
    return {str(path) for path in folder.rglob("*.parquet") if "_delta_log" not in path.parts}


def named(lake: Lake, name: str) -> set[str]:
    """The files of the newest version."""
    return {unquote(str(uri).removeprefix("file://")) for uri in lake.open(name).file_uris()}
