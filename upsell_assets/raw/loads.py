"""Full loads: named sets of files with a declared end and one position in the order.

Here: which loads a table has, where each stands in the order and which files it needs. Own captures and other
producers declare the end by a manifest, `_manifest.json`, written last beside the files; the flat folder of a
producer without one is a load at the contract's `full_load.as_of`, ended once `full_load.files` files are in.
Not here: what a load does to the table (`bronze`).
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from datetime import UTC, datetime

from upsell_assets.contracts import Contract
from upsell_assets.errors import ContractError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.raw.files import Position, as_utc
from upsell_assets.raw.landing import EVER, LandedFile, Window, full_load_prefix

MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class FullLoad:
    """One load; `files` maps each key to its etag, `ended` says whether that set is final."""

    name: str
    position: Position
    files: dict[str, str]
    ended: bool


def full_loads(store: ObjectStore, contract: Contract, landed: list[LandedFile]) -> list[FullLoad]:
    """The loads of a table: those with a manifest, and those of which files were found.

    Raises:
        ContractError: a manifest is not valid.
    """
    loads = [_declared(store, contract, manifest) for manifest in manifests(store, contract)]
    declared = {load.name for load in loads}
    folders: dict[str, dict[str, str]] = {}
    for file in landed:
        if file.load is not None and file.load not in declared:
            folders.setdefault(file.load, {})[file.key] = file.etag
    return loads + [_undeclared(contract, name, files) for name, files in sorted(folders.items())]


def manifests(store: ObjectStore, contract: Contract, window: Window = EVER) -> list[LandedFile]:
    """The manifests that landed in the window (by their upload day); `load` names the folder."""
    prefix = full_load_prefix(contract)
    found = [entry for entry in store.list(prefix) if entry.key.endswith(f"/{MANIFEST}")]
    files = [
        LandedFile(
            entry.key,
            entry.etag,
            entry.size,
            entry.modified.astimezone(UTC).date(),
            entry.key[len(prefix) : -len(MANIFEST) - 1],
        )
        for entry in found
    ]
    return [file for file in files if file.day in window]


def _declared(store: ObjectStore, contract: Contract, manifest: LandedFile) -> FullLoad:
    key = manifest.key
    try:
        content = json.loads(store.read(key))
        at = content["position"]
        moment = at.get("modified_date")
        position = Position(as_utc(datetime.fromisoformat(moment)) if moment else None, at.get("change_seq"))
        files = {entry["key"]: entry["etag"] for entry in content["files"]}
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ContractError(
            f"{contract.name}: {store.uri(key)} is no manifest of a full load ({error!r}). "
            "It needs position {change_seq or modified_date} and files [{key, etag}]."
        ) from error
    return FullLoad(manifest.load or "", position, files, ended=True)


def _undeclared(contract: Contract, name: str, files: dict[str, str]) -> FullLoad:
    rule = contract.full_load
    if name == "" and rule.as_of is not None:
        position = Position(modified_date=as_utc(rule.as_of))
        return FullLoad(name, position, files, ended=rule.files is not None and len(files) >= rule.files)
    return FullLoad(name, Position(), files, ended=False)
