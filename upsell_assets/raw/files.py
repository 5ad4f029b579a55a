"""One raw file held against its contract: accepted and read as change rows, or rejected with a reason.

Here: headers, types, operations, keys and order columns of a file. Not here: what came before. Whether a file
is accepted depends on the file and the contract only, so that the order of arrival cannot decide it.
"""

from __future__ import annotations

import io
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from upsell_assets.contracts import Contract, arrow_type
from upsell_assets.errors import FileRejectedError
from upsell_assets.raw.landing import LandedFile

OP, MODIFIED, SEQUENCE, FILE, ROW = "_op", "_modified_date", "_change_seq", "_file", "_row"
_INSTANT = pa.timestamp("us", tz="UTC")


@dataclass(frozen=True)
class Position:
    """A place in the order of a table's changes; what the contract does not order by may be None."""

    modified_date: datetime | None = None
    change_seq: str | int | None = None


def change_schema(contract: Contract) -> pa.Schema:
    """A table's change rows: the contract's columns, then operation, order and origin."""
    return pa.schema(
        [pa.field(name, arrow_type(kind)) for name, kind in contract.columns.items()]
        + [pa.field(OP, pa.string()), *order_fields(contract)]
    )


def order_fields(contract: Contract) -> list[pa.Field]:
    """The internal columns that order two changes of a key and name their origin."""
    return [
        pa.field(MODIFIED, _INSTANT),
        pa.field(SEQUENCE, arrow_type(contract.change_seq_type)),
        pa.field(FILE, pa.string()),
        pa.field(ROW, pa.int64()),
    ]


def read_changes(body: bytes, file: LandedFile, contract: Contract, position: Position | None = None) -> pa.Table:
    """The change rows of one file (see `change_schema`; undeclared columns follow).

    Args:
        body: the object's bytes, parquet.
        file: where it lies; it becomes the rows' `_file`.
        contract: what its table must be.
        position: the place of all rows of a full load; without one, rows carry their own.

    Raises:
        FileRejectedError: the file breaks the contract; the text is the reason for quarantine.
    """
    try:
        found = pq.read_table(io.BytesIO(body))
    except (pa.ArrowInvalid, OSError) as error:
        raise FileRejectedError(f"not readable as parquet ({str(error).splitlines()[0]})") from error
    columns = _by_lower_name(found)
    operation = _operation(found, columns, contract, full_load=file.load is not None)
    data = {name: _take(found, columns, name, contract) for name in contract.columns}
    _check_keys(data, contract)
    order = _order(found, columns, contract, position)
    extra = _undeclared(found, columns, contract)
    count = found.num_rows
    rows = pa.table(
        {
            **data,
            OP: operation,
            MODIFIED: order[MODIFIED],
            SEQUENCE: order[SEQUENCE],
            FILE: pa.repeat(pa.scalar(file.key), count),
            ROW: pa.array(range(count), pa.int64()),
        },
        schema=change_schema(contract),
    )
    for name, values in extra.items():
        rows = rows.append_column(name, values)
    return rows


def _by_lower_name(found: pa.Table) -> dict[str, str]:
    columns: dict[str, str] = {}
    for name in found.column_names:
        if name.lower() in columns:
            raise FileRejectedError(f"columns {columns[name.lower()]!r} and {name!r} differ only in case")
        columns[name.lower()] = name
    return columns


def _take(found: pa.Table, columns: dict[str, str], name: str, contract: Contract) -> pa.ChunkedArray | pa.Array:
    target = arrow_type(contract.columns[name])
    source = columns.get(name.lower())
    if source is None:
        if name in contract.key:
            raise FileRejectedError(f"key column {name!r} is missing; found {', '.join(found.column_names)}")
        return pa.nulls(found.num_rows, target)
    return cast_lossless(found[source], target, name)


def cast_lossless(values: pa.ChunkedArray, target: pa.DataType, name: str) -> pa.ChunkedArray:
    """Cast a column without losing anything.

    Raises:
        FileRejectedError: some value would change, or the types have nothing to do with each other.
    """
    source = values.type
    if pa.types.is_dictionary(source):
        values = values.cast(source.value_type)
        source = values.type
    if source == target or values.null_count == len(values):
        return values.cast(target) if source != pa.null() else pa.chunked_array([pa.nulls(len(values), target)])
    try:
        if pa.types.is_string(target):
            return _as_text(values, name)
        if _is_text(source):
            return _from_text(values, target, name)
        if pa.types.is_timestamp(target) and pa.types.is_timestamp(source) and source.tz is None:
            return pc.assume_timezone(values.cast(pa.timestamp("us")), "UTC")
        if _kind(source) == _kind(target) or {_kind(source), _kind(target)} == {"number", "boolean"}:
            return values.cast(target, safe=True)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise FileRejectedError(
            f"column {name!r} is {source} and does not cast to {target} without loss ({str(error).splitlines()[0]})"
        ) from error
    raise FileRejectedError(f"column {name!r} is {source}, the contract says {target}")


def _kind(kind: pa.DataType) -> str:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind):
        return "number"
    if pa.types.is_timestamp(kind) or pa.types.is_date(kind):
        return "time"
    return "boolean" if pa.types.is_boolean(kind) else str(kind)


def _is_text(kind: pa.DataType) -> bool:
    return bool(pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind))


def _as_text(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    source = values.type
    if pa.types.is_timestamp(source):
        instant = values.cast(pa.timestamp(source.unit))  # of an instant, its UTC wall clock
        try:
            return instant.cast(pa.timestamp("ms")).cast(pa.string())
        except pa.ArrowInvalid:
            return instant.cast(pa.timestamp("us")).cast(pa.string())
    if _is_text(source) or pa.types.is_integer(source) or pa.types.is_date(source) or pa.types.is_decimal(source):
        return values.cast(pa.string())
    raise FileRejectedError(f"column {name!r} is {source}, the contract says string")


def _from_text(values: pa.ChunkedArray, target: pa.DataType, name: str) -> pa.ChunkedArray:
    if pa.types.is_timestamp(target):
        return pc.assume_timezone(values.cast(pa.timestamp("us")), "UTC")
    parsed = values.cast(target)
    if pa.types.is_integer(target) and not pc.all(pc.equal(parsed.cast(values.type), values)).as_py():
        raise FileRejectedError(f"column {name!r} has text such as '007', which is not a plain {target}")
    return parsed


def _operation(found: pa.Table, columns: dict[str, str], contract: Contract, *, full_load: bool) -> pa.Array:
    if full_load:
        return pa.repeat(pa.scalar("I"), found.num_rows)
    words = contract.operations
    name = columns.get(words.column.lower())
    if name is None:
        raise FileRejectedError(f"operation column {words.column!r} is missing; found {', '.join(found.column_names)}")
    known = {
        word.upper(): letter
        for letter, spelled in (("I", words.insert), ("U", words.update), ("D", words.delete))
        for word in spelled
    }
    seen = [None if value is None else str(value).strip().upper() for value in found[name].to_pylist()]
    unknown = sorted({str(value) for value in seen if value not in known})
    if unknown:
        row = next(row for row, value in enumerate(seen) if value not in known)
        raise FileRejectedError(f"operation {unknown[0]!r} in row {row} is none of {', '.join(sorted(known))}")
    return pa.array([known[value] for value in seen if value is not None], pa.string())


def _check_keys(data: dict[str, pa.ChunkedArray | pa.Array], contract: Contract) -> None:
    for name in contract.key:
        if missing := data[name].null_count:
            first = pc.index(pc.is_null(data[name]), pa.scalar(True)).as_py()
            raise FileRejectedError(f"{missing} rows have a null {name} (first: row {first})")


def _order(
    found: pa.Table, columns: dict[str, str], contract: Contract, position: Position | None
) -> dict[str, pa.ChunkedArray | pa.Array]:
    kinds = {MODIFIED: _INSTANT, SEQUENCE: arrow_type(contract.change_seq_type)}
    order: dict[str, pa.ChunkedArray | pa.Array] = {}
    for column, kind in kinds.items():
        name = column[1:]
        leading = contract.order[0] == name
        if position is not None and (fixed := getattr(position, name)) is not None:
            order[column] = pa.repeat(pa.scalar(fixed, kind), found.num_rows)
        elif name.lower() in columns:
            order[column] = cast_lossless(found[columns[name.lower()]], kind, name)
        else:
            order[column] = pa.nulls(found.num_rows, kind)
        if leading and (missing := order[column].null_count):
            raise FileRejectedError(
                f"order column {name!r} is missing"
                if missing == found.num_rows
                else f"{missing} rows have a null {name}, which orders the changes"
            )
    return order


def _undeclared(found: pa.Table, columns: dict[str, str], contract: Contract) -> dict[str, pa.ChunkedArray]:
    known = {name.lower() for name in contract.columns}
    known |= {contract.operations.column.lower(), "modified_date", "change_seq"}
    names = [name for lowered, name in columns.items() if lowered not in known]
    if names and contract.drift == "freeze":
        raise FileRejectedError(f"columns {', '.join(names)} are not declared, and the contract's drift is freeze")
    if reserved := [name for name in names if name.startswith("_")]:
        raise FileRejectedError(f"column {reserved[0]!r} begins with '_', which the lake keeps for itself")
    return {name: _plain(found[name], name) for name in names}


def _plain(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    kind = values.type
    if pa.types.is_timestamp(kind):
        return cast_lossless(values, _INSTANT, name)
    if pa.types.is_unsigned_integer(kind):
        return cast_lossless(values, pa.int64(), name)
    if _is_text(kind) or pa.types.is_null(kind) or pa.types.is_nested(kind) or pa.types.is_dictionary(kind):
        return cast_lossless(values, pa.string(), name)
    return values


def as_utc(value: datetime) -> datetime:
    """A moment with its zone; without one it is UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
