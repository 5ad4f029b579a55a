"""One raw file held against its contract: accepted and read as change rows, or rejected with a reason.

Here: headers, types, operations, keys and order columns of a file, and what was decided where they are not as the
contract has them. Not here: what came before. Whether a file is accepted depends on the file and the contract only,
so that the order of arrival cannot decide it. Files of other producers come here in the plain shape (`dms`, `debezium`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

import pyarrow as pa
import pyarrow.compute as pc

from upsell_assets.contracts import Contract, arrow_type
from upsell_assets.contracts.files import DebeziumFiles, DmsFiles
from upsell_assets.errors import FileRejectedError
from upsell_assets.raw import debezium, dms
from upsell_assets.raw.formats import read_parquet
from upsell_assets.raw.landing import LandedFile

OP, MODIFIED, SEQUENCE, FILE, ROW = "_op", "_modified_date", "_change_seq", "_file", "_row"
_INSTANT = pa.timestamp("us", tz="UTC")
_SPELLED = {arrow_type(name): name for name in ("boolean", "tinyint", "smallint", "int", "bigint", "float", "double")}
_SPELLED |= {arrow_type(name): name for name in ("date", "timestamp")}


@dataclass(frozen=True)
class Position:
    """A place in the order of a table's changes; what the contract does not order by may be None."""

    modified_date: datetime | None = None
    change_seq: str | int | None = None

    def __str__(self) -> str:
        """The position as the ledger spells it."""
        return f"{self.modified_date.isoformat() if self.modified_date else ''}/{self.change_seq or ''}"


@dataclass(frozen=True)
class Accepted:
    """A file's change rows, and what was decided of columns that are not as the contract has them."""

    changes: pa.Table
    decisions: tuple[str, ...] = ()


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


def read_changes(body: bytes, file: LandedFile, contract: Contract, position: Position | None = None) -> Accepted:
    """The change rows of one file (see `change_schema`; undeclared columns follow).

    Args:
        body: the object's bytes, in the format of the contract's producer.
        file: where it lies; it becomes the rows' `_file`.
        contract: what its table must be.
        position: the place of all rows of a full load; without one, rows carry their own.

    Raises:
        FileRejectedError: the file breaks the contract; the text is the reason for quarantine.
    """
    _check_age(file, contract, position)
    found, shaped = plain_shape(read_rows(body, file, contract), file, contract)
    columns = _by_lower_name(found)
    rows = {name: _take(found, columns, name, contract) for name in contract.columns}
    _check_keys(rows, contract)
    rows[OP] = _operation(found, columns, contract, full_load=file.load is not None)
    rows |= _order(found, columns, contract, position, full_load=file.load is not None)
    rows[FILE] = pa.repeat(pa.scalar(file.key), found.num_rows)
    rows[ROW] = pa.array(range(found.num_rows), pa.int64())
    changes = pa.table(rows, schema=change_schema(contract))
    read = {name: name for name in contract.columns}
    read |= {} if file.load is not None else {contract.operations.column: OP}
    read |= {} if position else {name[1:]: name for name in (MODIFIED, SEQUENCE)}
    decisions = [*shaped, *_decisions(found.schema, columns, changes.schema, read)]
    for name, values in _undeclared(found, columns, contract).items():
        changes = changes.append_column(name, values)
        decisions.append(f"{name}: not declared, added as {_spelled(values.type)}")
    return Accepted(changes, tuple(decisions))


def read_rows(body: bytes, file: LandedFile, contract: Contract) -> pa.Table:
    """The rows of a file as its producer wrote them.

    Raises:
        FileRejectedError: the bytes are not readable as the format that the contract says.
    """
    producer = contract.files
    if isinstance(producer, DmsFiles):
        return dms.read(body, producer, contract, full_load=file.load is not None)
    if isinstance(producer, DebeziumFiles) and file.load is None:
        return debezium.read(body, producer)
    return read_parquet(body)


def _check_age(file: LandedFile, contract: Contract, position: Position | None) -> None:
    """A part of DMS's load cannot be older than the load: a reload may have fewer files than the one before."""
    began = position.modified_date if position and isinstance(contract.files, DmsFiles) else None
    if began and file.day < began.date():
        raise FileRejectedError(
            f"uploaded on {file.day}, before the full load began (full_load.as_of: {began.isoformat()}): it is of a load "
            "before. Remove it from the bucket, or correct as_of"
        )


def plain_shape(found: pa.Table, file: LandedFile, contract: Contract) -> tuple[pa.Table, list[str]]:
    """The rows with the names that all that follows knows, and what was decided on the way.

    Raises:
        FileRejectedError: they have no such shape.
    """
    producer = contract.files
    if isinstance(producer, DmsFiles):
        return dms.plain(found, producer, full_load=file.load is not None)
    if isinstance(producer, DebeziumFiles) and file.load is None:
        return debezium.plain(found, producer, contract)
    return found, []


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
    if values.null_count == len(values):
        return pa.chunked_array([pa.nulls(len(values), target)])
    if pa.types.is_dictionary(values.type):
        values = values.cast(values.type.value_type)
    source = values.type
    if source == target:
        return values
    try:
        if _kind(target) == "text":
            return _as_text(values, name)
        if _kind(source) == "text":
            return _from_text(values, target, name)
        if _kind(source) == _kind(target) or {_kind(source), _kind(target)} == {"number", "boolean"}:
            return _back_and_forth(values, target)
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
    if pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind):
        return "text"
    if pa.types.is_binary(kind) or pa.types.is_large_binary(kind) or pa.types.is_fixed_size_binary(kind):
        return "binary"
    return "boolean" if pa.types.is_boolean(kind) else str(kind)


def _back_and_forth(values: pa.ChunkedArray, target: pa.DataType) -> pa.ChunkedArray:
    if pa.types.is_integer(target):
        return values.cast(target)
    if pa.types.is_integer(values.type) and pa.types.is_decimal(target):
        values = values.cast(pa.decimal128(38, target.scale))
    cast = values.cast(target)
    # Arrow's safe cast, exact for integers, lets 2 become true, and 0.1 a shorter float.
    if not _same(cast.cast(values.type), values):
        raise pa.ArrowInvalid("values would change")
    return cast


def _same(left: pa.ChunkedArray, right: pa.ChunkedArray) -> bool:
    same = pc.equal(left, right)
    if pa.types.is_floating(left.type):
        same = pc.or_(same, pc.and_(pc.is_nan(left), pc.is_nan(right)))
    return bool(pc.all(same).as_py())


def _as_text(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """Text of a value, which depends on that value alone: files may be split anywhere."""
    source = values.type
    if pa.types.is_timestamp(source):
        instant = values.cast(pa.timestamp("ms" if source.unit == "s" else source.unit))  # UTC's wall clock
        # Milliseconds, and more digits only where there are some: such texts sort as the times do.
        return pc.replace_substring_regex(instant.cast(pa.string()), r"(\.\d{3}(?:\d{3})*?)(?:000)+$", r"\1")
    if _kind(source) in ("text", "number", "time") and not pa.types.is_floating(source):
        return values.cast(pa.string())
    raise FileRejectedError(f"column {name!r} is {source}, the contract says string")


def _from_text(values: pa.ChunkedArray, target: pa.DataType, name: str) -> pa.ChunkedArray:
    if pa.types.is_timestamp(target):
        try:
            return values.cast(pa.timestamp(target.unit)).cast(target)
        except pa.ArrowInvalid:
            return values.cast(target)  # with offsets
    parsed = values.cast(target)
    if (pa.types.is_integer(target) or pa.types.is_boolean(target)) and not _same(parsed.cast(values.type), values):
        raise FileRejectedError(f"column {name!r} has text such as '007', which is not a plain {target}")
    return parsed


def _operation(found: pa.Table, columns: dict[str, str], contract: Contract, *, full_load: bool) -> pa.ChunkedArray:
    if full_load:
        return pa.chunked_array([pa.repeat(pa.scalar("I"), found.num_rows)])
    words = contract.operations
    name = columns.get(words.column.lower())
    if name is None:
        raise FileRejectedError(f"operation column {words.column!r} is missing; found {', '.join(found.column_names)}")
    letters = {
        word.upper(): letter
        for letter, spelled in (("I", words.insert), ("U", words.update), ("D", words.delete))
        for word in spelled
    }
    said = pc.utf8_upper(pc.utf8_trim_whitespace(cast_lossless(found[name], pa.string(), name)))
    meant = pc.index_in(said, pa.array(letters.keys(), pa.string()))
    if meant.null_count:
        row = pc.index(pc.is_null(meant), pa.scalar(True)).as_py()
        raise FileRejectedError(
            f"operation {found[name][row].as_py()!r} in row {row} is none of {', '.join(sorted(letters))}"
        )
    return pc.take(pa.array(letters.values(), pa.string()), meant)


def _check_keys(data: dict[str, pa.ChunkedArray | pa.Array], contract: Contract) -> None:
    for name in contract.key:
        if missing := data[name].null_count:
            first = pc.index(pc.is_null(data[name]), pa.scalar(True)).as_py()
            raise FileRejectedError(f"{missing} rows have a null {name} (first: row {first})")


def _order(
    found: pa.Table, columns: dict[str, str], contract: Contract, position: Position | None, *, full_load: bool
) -> dict[str, pa.ChunkedArray | pa.Array]:
    kinds = {MODIFIED: _INSTANT, SEQUENCE: arrow_type(contract.change_seq_type)}
    order: dict[str, pa.ChunkedArray | pa.Array] = {}
    for column, kind in kinds.items():
        name = column[1:]
        fixed = getattr(position, name) if position else None
        if fixed is not None or (position and name in contract.order):
            order[column] = pa.repeat(pa.scalar(fixed, kind), found.num_rows)
        elif name in columns:
            order[column] = cast_lossless(found[columns[name]], kind, name)
        else:
            order[column] = pa.nulls(found.num_rows, kind)
    leading = contract.order[0]
    missing = order[f"_{leading}"].null_count
    if position and missing:
        raise FileRejectedError(
            f"the full load's position has no {leading}, which orders the changes; give it one in a manifest"
        )
    if missing == found.num_rows > 0:
        remedy = f"; give the full load a position: {_position_of(contract)}" if full_load else ""
        raise FileRejectedError(f"order column {leading!r} is missing{remedy}")
    if missing:
        raise FileRejectedError(f"{missing} rows have a null {leading}, which orders the changes")
    return order


def _position_of(contract: Contract) -> str:
    """Where a full load's position comes from."""
    if isinstance(contract.files, DmsFiles):
        return "full_load.as_of in the contract, the moment (UTC) at which the DMS task began"
    return "full_load.as_of in the contract, or a manifest"


def _undeclared(found: pa.Table, columns: dict[str, str], contract: Contract) -> dict[str, pa.ChunkedArray]:
    known = {name.lower() for name in contract.columns}
    known |= {contract.operations.column.lower(), "modified_date", "change_seq"}
    names = [name for lowered, name in columns.items() if lowered not in known]
    if names and contract.drift == "freeze":
        raise FileRejectedError(f"columns {', '.join(names)} are not declared, and the contract's drift is freeze")
    for name in names:
        if name.startswith("_"):
            raise FileRejectedError(f"column {name!r} begins with '_', which the lake keeps for itself")
        if not re.fullmatch(r"\w+", name):
            raise FileRejectedError(
                f"column {name!r} is not declared, and its name has more than letters, digits and '_'"
            )
    return {name: _plain(found[name], name) for name in names if not pa.types.is_null(found[name].type)}


def _plain(values: pa.ChunkedArray, name: str) -> pa.ChunkedArray:
    """An undeclared column, as one of the few types that the lake gives such columns."""
    kind = values.type.value_type if pa.types.is_dictionary(values.type) else values.type
    if (target := _plain_type(kind)) is None:
        raise FileRejectedError(f"column {name!r} is not declared, and {kind} is no type of the lake's columns")
    return cast_lossless(values, target, name)


def _plain_type(kind: pa.DataType) -> pa.DataType | None:
    if pa.types.is_integer(kind):
        return pa.int64()
    if pa.types.is_floating(kind):
        return pa.float64()
    if pa.types.is_decimal(kind):
        return pa.decimal128(kind.precision, kind.scale) if kind.precision <= 38 else None
    if pa.types.is_timestamp(kind):
        return _INSTANT
    if pa.types.is_date(kind):
        return pa.date32()
    return {"text": pa.string(), "binary": pa.binary(), "boolean": pa.bool_()}.get(_kind(kind))


def _decisions(found: pa.Schema, columns: dict[str, str], taken: pa.Schema, read: dict[str, str]) -> Iterator[str]:
    """What was decided, column by column; that columns stand in another order is no decision.

    `read` maps the headers of the contract to the columns of the change rows that were read from them.
    """
    for header, name in read.items():
        source = columns.get(header.lower())
        if source is None:
            if header == name:
                yield f"{name}: missing, null"
            continue
        if source != header:
            yield f"{source} read as {header}"
        before, after = found.field(source).type, taken.field(name).type
        if pa.types.is_dictionary(before):
            before = before.value_type
        if before != after and not (_kind(before) == _kind(after) in ("text", "binary") or pa.types.is_null(before)):
            yield f"{header}: {_spelled(before)} cast to {_spelled(after)}"


def _spelled(kind: pa.DataType) -> str:
    """A type as contracts spell it, where they can."""
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})"
    return _SPELLED.get(kind, str(kind))


def as_utc(value: datetime) -> datetime:
    """A moment with its zone; without one it is UTC."""
    return value.replace(tzinfo=UTC) if value.tzinfo is None else value.astimezone(UTC)
