"""Files in quarantine: which they are, and all that is known of one.

Here: how a file is found by the end of its key, and what is said of it. Not here: why a file is rejected (`files`)
and how it is taken in once more (`bronze.ingest.retry`).
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import pyarrow as pa

from upsell_assets.contracts import Contract
from upsell_assets.errors import FileRejectedError, PermanentError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.files import plain_shape, read_rows
from upsell_assets.raw.landing import LandedFile, landed_at
from upsell_assets.raw.ledger import Ledger, Record
from upsell_assets.raw.loads import MANIFEST, manifests

HEAD_ROWS = 5
_LISTED = 5


@dataclass(frozen=True)
class Inspection:
    """A file as the ledger and the object store have it.

    Attributes:
        contract: its table's.
        records: every record of every version, oldest first.
        present: what lies at the key now; None: nothing.
        content: its rows, where it is readable; as its producer wrote them where they have no plain shape.
        unreadable: why it is not.
    """

    contract: Contract
    records: list[Record]
    present: LandedFile | None
    content: pa.Table | None
    unreadable: str | None

    @property
    def key(self) -> str:
        """The key of the object."""
        return self.records[-1].file.key

    @property
    def presence(self) -> str:
        """One line on what lies at the key now."""
        if self.present is None:
            return "the object is gone"
        known = [r for r in self.records if r.file.etag == self.present.etag]
        version = f"the object is there, etag {self.present.etag}"
        if not known:
            return f"{version}: a newer version that was not looked at yet"
        return f"{version}: {known[-1].state}" + (f"; {self.unreadable}" if self.unreadable else "")

    @property
    def columns(self) -> list[tuple[str, str | None, str | None]]:
        """Name, type in the file and type (or meaning) in the contract of each column; None: it is not there."""
        found = {} if self.content is None else {field.name: str(field.type) for field in self.content.schema}
        declared = {name.lower(): kind for name, kind in self.contract.columns.items()}
        declared |= dict.fromkeys(("modified_date", "change_seq"), "order")
        declared[self.contract.operations.column.lower()] = "operation"
        lowered = {name.lower() for name in found}
        missing = [(name, None, kind) for name, kind in self.contract.columns.items() if name.lower() not in lowered]
        return [*((name, kind, declared.get(name.lower())) for name, kind in found.items()), *missing]

    @property
    def head(self) -> pa.Table | None:
        """The first rows."""
        return None if self.content is None else self.content.slice(0, HEAD_ROWS)

    def as_json(self) -> dict[str, Any]:
        """The same as plain values, moments as ISO text."""
        return {
            "table": self.contract.name,
            "key": self.key,
            "present": self.present and {"etag": self.present.etag, "size": self.present.size},
            "unreadable": self.unreadable,
            "records": [record_as_json(record) for record in self.records],
            "columns": None
            if self.content is None
            else [{"name": name, "file": found, "contract": declared} for name, found, declared in self.columns],
            "rows": None if self.content is None else self.content.num_rows,
            "head": None if self.head is None else self.head.to_pylist(),
        }


def record_as_json(record: Record) -> dict[str, Any]:
    """A record as plain values, moments as ISO text."""
    return {
        "key": record.file.key,
        "etag": record.file.etag,
        "landed": record.file.day.isoformat(),
        "size": record.file.size,
        "at": record.recorded_at and record.recorded_at.isoformat(),
        "state": record.state,
        "rows": record.rows,
        "reason": record.reason,
        "load": record.file.load,
        "position": record.position,
        "decisions": list(record.decisions),
    }


def quarantined(lakehouse: Lakehouse) -> list[tuple[Contract, Record]]:
    """The files in quarantine, by table and key."""
    return [
        (contract, record)
        for contract in lakehouse.contracts.values()
        for record in Ledger(lakehouse.lake, contract).quarantined()
    ]


def inspect(lakehouse: Lakehouse, name: str) -> Inspection:
    """All that is known of a file.

    Raises:
        PermanentError: the ledger knows no file of that name, or several.
    """
    contract, records = _find(lakehouse, name)
    present, content, unreadable = _lying_at(lakehouse, contract, records[-1].file.key), None, None
    if present and not present.key.endswith(f"/{MANIFEST}"):
        try:
            content = read_rows(lakehouse.store.read(present.key, etag=present.etag), present, contract)
            with suppress(FileRejectedError):
                content, _ = plain_shape(content, present, contract)
        except FileRejectedError as error:
            unreadable = str(error)
        except FileNotFoundError:
            present = None
    return Inspection(contract, records, present, content, unreadable)


def to_retry(lakehouse: Lakehouse, names: Iterable[str]) -> dict[str, list[LandedFile]]:
    """What lies at the paths of files in quarantine, by the table's name in the contracts.

    Raises:
        PermanentError: a name is that of no file, of several, or of one that is not in quarantine or is gone.
    """
    found: dict[str, list[LandedFile]] = {}
    for name in dict.fromkeys(names):
        contract, records = _find(lakehouse, name)
        newest = records[-1]
        key = newest.file.key
        if newest.state == "accepted":
            raise PermanentError(f"{key}: is not in quarantine; it was taken in ({newest.rows:,} rows).")
        present = _lying_at(lakehouse, contract, key)
        if present is None:
            raise PermanentError(f"{key}: is gone from the bucket. Put the repaired file there, and retry.")
        found.setdefault(contract.table, []).append(present)
    return found


def _find(lakehouse: Lakehouse, name: str) -> tuple[Contract, list[Record]]:
    """The table and the records of the one file whose key is the name, or ends with it."""
    found: dict[str, tuple[Contract, list[Record]]] = {}
    for contract in lakehouse.contracts.values():
        for record in Ledger(lakehouse.lake, contract).history(name):
            found.setdefault(record.file.key, (contract, []))[1].append(record)
    keys = [key for key in found if key == name] or [key for key in found if key.endswith(f"/{name}")] or list(found)
    if not keys:
        raise PermanentError(
            f"{name}: the ledger has no such file. `upsell quarantine list` shows those it holds back."
        )
    if len(keys) > 1:
        more = f" and {len(keys) - _LISTED} more" if len(keys) > _LISTED else ""
        raise PermanentError(
            f"{name}: several files end so: {', '.join(sorted(keys)[:_LISTED])}{more}. Give more of it."
        )
    return found[keys[0]]


def _lying_at(lakehouse: Lakehouse, contract: Contract, key: str) -> LandedFile | None:
    if key.endswith(f"/{MANIFEST}"):
        return next((file for file in manifests(lakehouse.store, contract) if file.key == key), None)
    return landed_at(lakehouse.store, contract, key)
