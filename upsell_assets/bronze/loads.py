"""Full loads on their way into bronze: which are open, what of them is taken in, and when one ends.

Not here: what a load is (`raw.loads`) and what its end does to the table (`merge`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from upsell_assets.bronze.merge import Merged, end_load
from upsell_assets.clock import Clock
from upsell_assets.contracts import Contract
from upsell_assets.errors import FileRejectedError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import Position
from upsell_assets.raw.landing import LandedFile, full_load_prefix
from upsell_assets.raw.ledger import KnownFiles, Record
from upsell_assets.raw.loads import MANIFEST, FullLoad, declared_load, flat_load

Placed = tuple[LandedFile, Position | None]
"""A file, and the position that its full load gives to its rows; None: they carry their own."""


@dataclass
class OpenLoads:
    """What there is to do for full loads.

    Attributes:
        loads: those that have not ended, or of which something new landed, each with what stands for it in the
            ledger: its manifest, or the flat folder.
        parts: their files that landed, placed.
        waiting: keys of files that no manifest names yet; they are not read.
        rejected: manifests that are not valid.
    """

    loads: list[tuple[FullLoad, LandedFile]] = field(default_factory=list)
    parts: list[Placed] = field(default_factory=list)
    waiting: list[str] = field(default_factory=list)
    rejected: list[Record] = field(default_factory=list)


def open_loads(
    store: ObjectStore,
    contract: Contract,
    *,
    parts: list[LandedFile],
    manifests: list[LandedFile],
    known: KnownFiles,
) -> OpenLoads:
    """Look which loads are open; manifests of ended ones are not read again."""
    found = OpenLoads()
    unknown = [part for part in parts if (part.key, part.etag) not in known]
    for manifest in manifests:
        state = known[manifest.key, manifest.etag].state if (manifest.key, manifest.etag) in known else None
        folder = manifest.key[: -len(MANIFEST)]
        news = any(part.key.startswith(folder) for part in unknown)
        if state == "quarantined" or (state == "accepted" and not news):
            continue
        try:
            load = declared_load(store.read(manifest.key, etag=manifest.etag), manifest, contract)
            found.loads.append((load, manifest))
        except FileRejectedError as error:
            found.rejected.append(Record(manifest, "quarantined", reason=str(error)))
        except FileNotFoundError:
            continue  # replaced since it was listed: the next listing has its new version
    flat = [part for part in parts if part.load == ""]
    if flat and not any(manifest.load == "" for manifest in manifests):
        load = flat_load(contract, flat)
        folder = full_load_prefix(contract)
        found.loads.append((load, LandedFile(folder, load.token, 0, max(part.day for part in flat), load.name)))
    load_of = {key: load for load, _ in found.loads for key in load.files}
    found.parts = [(part, load_of[part.key].position) for part in parts if part.key in load_of]
    found.waiting = [part.key for part in unknown if part.key not in load_of]
    return found


def end_loads(
    lake: Lake, contract: Contract, opened: OpenLoads, known: KnownFiles, clock: Clock
) -> Iterator[tuple[FullLoad, Record, Merged | None]]:
    """End the loads of which every file is in, and say what is to be written down; one that has ended stays as it is.

    None: it had ended, and a crash kept it out of the ledger.
    """
    landed = {part.key: part.etag for part, _ in opened.parts}
    for load, declared in opened.loads:
        before = known.get((declared.key, declared.etag))
        if load.position is None or not load.ended or (before and before.state == "accepted"):
            continue
        if _is_in(load, landed, known):
            merged = end_load(lake, contract, load.position, load.token, clock)
            yield load, Record(declared, "accepted"), merged


def _is_in(load: FullLoad, landed: dict[str, str], known: KnownFiles) -> bool:
    """Whether each file was taken in at the load's position, in the version named or in one that replaced it."""

    def taken(key: str, etag: str | None) -> bool:
        record = known.get((key, etag or ""))
        return record is not None and record.state == "accepted" and record.position == str(load.position)

    return all(
        taken(key, etag) or ((key, etag) in known and taken(key, landed.get(key))) for key, etag in load.files.items()
    )
