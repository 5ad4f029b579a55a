"""Files of an AWS DMS S3 target in the plain shape: columns, operation, `modified_date`, `change_seq`.

Here: what DMS adds to a table's columns, and where. Not here: which objects there are (`landing`), whether rows keep
to the contract (`files`) and whether an endpoint's settings are safe (`dms_settings`).
"""

from __future__ import annotations

from collections.abc import Iterator

import pyarrow as pa

from upsell_assets.contracts import Contract
from upsell_assets.contracts.files import DmsFiles
from upsell_assets.errors import FileRejectedError
from upsell_assets.raw.formats import read_csv, read_parquet


def read(body: bytes, files: DmsFiles, contract: Contract, *, full_load: bool) -> pa.Table:
    """The rows as DMS wrote them; of a CSV without a header the contract knows the columns.

    Raises:
        FileRejectedError: the bytes are not what the contract says.
    """
    if files.format == "parquet":
        return read_parquet(body)
    names = None if files.header else _columns(files, contract, full_load=full_load)
    return read_csv(body, names, delimiter=files.delimiter, null_value=files.null_value)


def plain(found: pa.Table, files: DmsFiles, *, full_load: bool) -> tuple[pa.Table, list[str]]:
    """The same rows in the plain shape, and what was decided.

    The timestamp of a change is that of its commit. That of a row of a full load is when it was transferred, later
    than it was read: taken for its place in the order, it would hide the changes in between. It is left out; the
    load has a position of its own.

    Raises:
        FileRejectedError: a file of changes has no timestamp column.
    """
    added = {files.timestamp.lower(): "modified_date"}
    if files.change_seq:
        added[files.change_seq.lower()] = "change_seq"
    there = {name: added[name.lower()] for name in found.column_names if name.lower() in added}
    if full_load:
        return found.drop_columns([*there]), [f"{name}: added by DMS, left out of the full load" for name in there]
    if "modified_date" not in there.values():
        raise FileRejectedError(
            f"timestamp column {files.timestamp!r} is missing; found {', '.join(found.column_names)}. Set "
            f"TimestampColumnName={files.timestamp} on the DMS endpoint, or files.timestamp in the contract"
        )
    rows = found.rename_columns([there.get(name, name) for name in found.column_names])
    return rows, [f"{name} read as {plain_name}" for name, plain_name in there.items()]


def _columns(files: DmsFiles, contract: Contract, *, full_load: bool) -> list[str]:
    columns = list(files.columns or _usual_columns(files, contract))
    return columns[1:] if full_load and not files.op_in_full_load else columns


def _usual_columns(files: DmsFiles, contract: Contract) -> Iterator[str]:
    yield from (contract.operations.column, files.timestamp, *contract.columns)
    if files.change_seq:
        yield files.change_seq
