"""PostgreSQL's text values as Arrow columns, for snapshot and stream alike.

Here: which columns a raw file has, of which types, and the conversion. Not here: reading or writing them. A declared
column is written with its contract's type where every value of the source type fits in it, else with the source's own
type: whether that can be cast is for raw to decide, which sees file and contract only. Columns that the contract does
not declare are carried through. The conversion expects `SESSION`.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import repeat
from operator import itemgetter

import pyarrow as pa
import pyarrow.compute as pc

from upsell_assets.capture.pgoutput import Column
from upsell_assets.contracts import Contract, arrow_type, undeclarable
from upsell_assets.errors import PermanentError

SESSION = (
    "SET client_encoding TO 'UTF8'; SET DateStyle TO 'ISO, YMD'; SET TimeZone TO 'UTC'; SET IntervalStyle TO "
    "'postgres'; SET bytea_output TO 'hex'; SET extra_float_digits TO 1; SET row_security TO off; "
    "SET statement_timeout TO 0; SET idle_in_transaction_session_timeout TO 0"
)
"""How values are written as text (they depend on the session), that rows hidden by a policy are an error and not a
gap, and that no time limit of the role ends a long read."""

ADDED = ("modified_date", "change_seq")
"""What capture adds to a row, beside the operation: commit time (naive UTC) and position."""

_BYTEA, _TIMESTAMP, _TIMESTAMPTZ, _NUMERIC = 17, 1114, 1184, 1700
_TYPES = {16: "boolean", 20: "bigint", 21: "smallint", 23: "int", 700: "float", 701: "double", 1082: "date"}
_TYPES |= {_BYTEA: "binary", _TIMESTAMP: "timestamp", _TIMESTAMPTZ: "timestamp"}

_REGULAR_TIMESTAMP = r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d(\.\d+)?$"

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Field:
    """One column of a raw file, and the source column (by its place) that it is made of."""

    name: str
    type: pa.DataType
    index: int
    source: Column


class Layout:
    """The columns of a table's raw files while its source table has these columns."""

    def __init__(self, contract: Contract, columns: Sequence[Column]) -> None:
        """Match source columns with the contract's, by name without case.

        Raises:
            PermanentError: the source table lacks a column of the key.
        """
        self.contract = contract
        self.columns = tuple(columns)
        self.fields = _fields(contract, self.columns)
        places = {field.name: field.index for field in self.fields}
        if missing := [column for column in contract.key if column not in places]:
            raise PermanentError(
                f"{contract.name}: the source table has no key column {', '.join(missing)} (it has "
                f"{', '.join(column.name for column in columns)}). Correct the contract's key."
            )
        self.key_of = itemgetter(*(places[column] for column in contract.key))
        self.schema = pa.schema(
            [pa.field(field.name, field.type) for field in self.fields]
            + [
                pa.field(contract.operations.column, pa.string()),
                pa.field("modified_date", pa.timestamp("us")),
                pa.field("change_seq", pa.string()),
            ]
        )

    def batch(
        self, texts: Sequence[pa.Array], operations: pa.Array, times: pa.Array, positions: pa.Array
    ) -> pa.RecordBatch:
        """Rows of a raw file.

        Args:
            texts: one string array per source column, in the source's order.
            operations: the contract's words for insert, update, delete.
            times: commit times, int64, Unix µs, UTC.
            positions: `change_seq`.
        """
        values = [to_arrow(texts[field.index], field, self.contract.name) for field in self.fields]
        return pa.record_batch([*values, operations, times.cast(pa.timestamp("us")), positions], schema=self.schema)

    def load_batch(self, texts: Sequence[pa.Array], time: int, position: str) -> pa.RecordBatch:
        """Rows of a full load: all inserted at one moment and one position."""
        count = len(texts[0])
        insert = self.contract.operations.insert[0]
        return self.batch(
            texts,
            pa.array(repeat(insert, count), pa.string(), size=count),
            pa.array(repeat(time, count), pa.int64(), size=count),
            pa.array(repeat(position, count), pa.string(), size=count),
        )


def _fields(contract: Contract, columns: Sequence[Column]) -> tuple[Field, ...]:
    declared = {name.lower(): name for name in contract.columns}
    exact = {column.name for column in columns}
    reserved = {contract.operations.column.lower(), *ADDED}
    taken: set[str] = set()
    fields, left_out = [], []
    for index, column in enumerate(columns):
        name = declared.get(column.name.lower(), column.name)
        # Of columns that differ only in case one can be kept: the one spelled as declared, else the first.
        another_is_meant = name != column.name and name in exact
        if another_is_meant or name.lower() in {*taken, *reserved} or undeclarable(name):
            left_out.append(column.name)
            continue
        declared_type = contract.columns.get(name)
        kept_as = _declared_type(declared_type, column) if declared_type else arrow_type(source_type(column))
        fields.append(Field(name, kept_as, index, column))
        taken.add(name.lower())
    if left_out:
        _log.warning("%s: source columns %s are left out: the lake cannot have these names.", contract.name, left_out)
    return tuple(fields)


def source_type(column: Column) -> str:
    """The contract's name for a source type; what has none (json, arrays, wide numbers, domains) is text."""
    if column.type_oid == _NUMERIC and column.type_modifier >= 4:
        precision, scale = _precision_and_scale(column)
        return f"decimal({precision},{scale})" if precision <= 38 and 0 <= scale <= precision else "string"
    return _TYPES.get(column.type_oid, "string")


def _precision_and_scale(column: Column) -> tuple[int, int]:
    packed = column.type_modifier - 4
    return packed >> 16 & 0xFFFF, ((packed & 0x7FF) ^ 1024) - 1024  # the scale has 11 bits and a sign


def is_exact(declared: str, column: Column) -> bool:
    """Whether capture writes the column with its declared type: every value of the source type fits in it."""
    return bool(_declared_type(declared, column) == arrow_type(declared))


_WIDENINGS = {("tinyint", "smallint", "int", "bigint"), ("float", "double")}


def _declared_type(declared: str, column: Column) -> pa.DataType:
    source = source_type(column)
    if declared == "string":
        return pa.string()
    if any(source in row and declared in row[row.index(source) :] for row in _WIDENINGS):
        return arrow_type(declared)
    if source.startswith("decimal") and declared.startswith("decimal"):
        wide, own = arrow_type(declared), arrow_type(source)
        if wide.scale >= own.scale and wide.precision - wide.scale >= own.precision - own.scale:
            return wide
    return arrow_type(source)


def to_arrow(texts: pa.Array, field: Field, table: str) -> pa.Array:
    """Text as PostgreSQL writes it, as the field's type.

    Values that the type does not have (infinite dates, years before Christ, NaN of a decimal) become null, and the
    log says how many.
    """
    if pa.types.is_string(field.type):
        return _iso(texts, field.source) if field.source.type_oid in (_TIMESTAMP, _TIMESTAMPTZ) else texts
    if pa.types.is_boolean(field.type):
        return pc.equal(texts, "t")
    if pa.types.is_binary(field.type):
        return pa.array([None if v is None else bytes.fromhex(v[2:]) for v in texts.to_pylist()], pa.binary())
    if pa.types.is_timestamp(field.type):
        texts = _without_offset(texts)
    try:
        return _cast(texts, field.type)
    except pa.ArrowInvalid:
        return _cast_one_by_one(texts, field, table)


def _cast(texts: pa.Array, wanted: pa.DataType) -> pa.Array:
    if pa.types.is_timestamp(wanted):
        return texts.cast(pa.timestamp("us")).cast(wanted)
    return texts.cast(wanted)


def _cast_one_by_one(texts: pa.Array, field: Field, table: str) -> pa.Array:
    parts, lost = [], 0
    for index in range(len(texts)):
        try:
            parts.append(_cast(texts.slice(index, 1), field.type))
        except pa.ArrowInvalid:
            lost += 1
            parts.append(pa.nulls(1, field.type))
    _log.warning("%s.%s: %d values have no place in %s and became null.", table, field.name, lost, field.type)
    return pa.concat_arrays(parts)


def _without_offset(texts: pa.Array) -> pa.Array:
    return pc.replace_substring_regex(texts, r"\+00( BC)?$", r"\1")  # the session's zone is UTC


def _iso(texts: pa.Array, column: Column) -> pa.Array:
    """Timestamps as text of one width per column, so that the text sorts: with milliseconds, or all six digits."""
    unit, digits = ("ms", 3) if 0 <= column.type_modifier <= 3 else ("us", 6)
    if column.type_oid == _TIMESTAMPTZ:
        texts = _without_offset(texts)
    try:
        return texts.cast(pa.timestamp(unit)).cast(pa.string())
    except pa.ArrowInvalid:
        return _padded(texts, digits)


def _padded(texts: pa.Array, digits: int) -> pa.Array:
    """The same where some have no such type (infinite, before Christ, beyond the year 9999): those stay as they are."""
    pointed = pc.if_else(pc.equal(pc.utf8_length(texts), 19), pc.binary_join_element_wise(texts, ".", ""), texts)
    padded = pc.utf8_rpad(pointed, width=20 + digits, padding="0")
    return pc.if_else(pc.match_substring_regex(texts, _REGULAR_TIMESTAMP), padded, texts)
