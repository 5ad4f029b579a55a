"""Full loads: named sets of files with a declared end and one position in the order.

Here: which loads a table has, where each stands in the order and which files it needs. Own captures and other
producers declare the end by a manifest, `_manifest.json`, written beside the files; its folder is the load's name,
and until it is there the files of the folder wait. The flat folder needs none: its files are a load at the
contract's `full_load.as_of`, ended once `full_load.files` of them are in; without `as_of` they never end a load,
and their rows must carry their own order. Not here: what a load does to the table (`bronze`).
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa

from upsell_assets.contracts import Contract, arrow_type
from upsell_assets.errors import FileRejectedError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.raw.files import Position, as_utc
from upsell_assets.raw.landing import EVER, LandedFile, Window, full_load_prefix

MANIFEST = "_manifest.json"


@dataclass(frozen=True)
class FullLoad:
    """One load.

    Attributes:
        name: its folder; '' for the flat one.
        token: what names exactly this set of files at this position.
        position: of all its rows; None: they carry their own.
        files: key -> etag.
        ended: whether the set is final.
    """

    name: str
    token: str
    position: Position | None
    files: dict[str, str]
    ended: bool


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
            entry.key[len(prefix) : -len(MANIFEST)].rstrip("/"),
        )
        for entry in found
    ]
    return [file for file in files if file.day in window]


def manifest_token(manifest: LandedFile) -> str:
    """The token of the load that a manifest declares, known before it is read."""
    return f"full_load:{manifest.load}:{manifest.etag}"


def declared_load(body: bytes, manifest: LandedFile, contract: Contract) -> FullLoad:
    """The load that a manifest declares.

    Raises:
        FileRejectedError: the manifest is not valid; the text is the reason for quarantine.
    """
    kind = arrow_type(contract.change_seq_type)
    try:
        content = json.loads(body)
        at = content["position"]
        moment = at.get("modified_date")
        position = Position(as_utc(datetime.fromisoformat(moment)) if moment else None, at.get("change_seq"))
        pa.scalar(position.change_seq, kind)
        files = {str(entry["key"]): str(entry["etag"]) for entry in content["files"]}
    except (ValueError, KeyError, TypeError, AttributeError, pa.ArrowException) as error:
        raise FileRejectedError(
            f"no manifest of a full load ({error!r}); it needs position {{modified_date (ISO) or change_seq ({kind})}} "
            "and files [{key, etag}]"
        ) from error
    if getattr(position, leading := contract.order[0]) is None:
        raise FileRejectedError(f"the manifest's position has no {leading}, which orders the changes")
    folder = manifest.key[: -len(MANIFEST)]
    if stray := [key for key in files if not key.startswith(folder)]:
        raise FileRejectedError(f"the manifest names {stray[0]}, which is not in its folder {folder}")
    return FullLoad(manifest.load or "", manifest_token(manifest), position, files, ended=True)


def flat_load(contract: Contract, parts: list[LandedFile]) -> FullLoad:
    """The load that the files of the flat folder are, without a manifest."""
    rule = contract.full_load
    files = {part.key: part.etag for part in parts}
    position = None if rule.as_of is None else Position(modified_date=as_utc(rule.as_of))
    ended = position is not None and rule.files is not None and len(files) >= rule.files
    digest = hashlib.sha256(repr((str(position), sorted(files.items()))).encode()).hexdigest()[:16]
    return FullLoad("", f"full_load::{digest}", position, files, ended)
