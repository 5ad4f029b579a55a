"""Types of contracts beside each other: which one holds the values of several, and what a file's type is called.

Here: names and what follows from them alone. Not here: values, which `raw.files` casts one by one.
"""

from __future__ import annotations

from collections.abc import Sequence

import pyarrow as pa

from upsell_assets.contracts import arrow_type

_INTEGERS = ("tinyint", "smallint", "int", "bigint")
_LADDERS = (_INTEGERS, ("float", "double"), ("date", "timestamp"))
_DIGITS = dict(zip(_INTEGERS, (3, 5, 10, 19), strict=True))
_NAMES = {arrow_type(name): name for name in ("boolean", *_INTEGERS, "float", "double", "date")}
_NAMES |= {pa.uint8(): "smallint", pa.uint16(): "int", pa.uint32(): "bigint", pa.uint64(): "decimal(20,0)"}
_NAMES |= {pa.float16(): "float", pa.date64(): "date"}
_TEXT = {pa.string(), pa.large_string(), pa.string_view()}
_BINARY = {pa.binary(), pa.large_binary()}


def type_name(kind: pa.DataType) -> str | None:
    """The contract's name for a type of Arrow that holds all its values; None: the lake has no such type."""
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if pa.types.is_decimal(kind):
        return f"decimal({kind.precision},{kind.scale})" if 0 <= kind.scale <= kind.precision <= 38 else None
    if pa.types.is_timestamp(kind):
        return "timestamp"
    if kind in _TEXT:
        return "string"
    if kind in _BINARY or pa.types.is_fixed_size_binary(kind):
        return "binary"
    return _NAMES.get(kind)


def wider(one: str, other: str) -> str | None:
    """The type that holds every value of both; None: only their text might, or nothing."""
    if one == other:
        return one
    for ladder in _LADDERS:
        if one in ladder and other in ladder:
            return max(one, other, key=ladder.index)
    decimals = [_as_decimal(name) for name in (one, other)]
    if None in decimals or not any(name.startswith("decimal") for name in (one, other)):
        return None
    whole, after = (max(parts) for parts in zip(*filter(None, decimals), strict=True))
    return f"decimal({whole + after},{after})" if whole + after <= 38 else None


def _as_decimal(name: str) -> tuple[int, int] | None:
    """Digits before and after the point."""
    if name in _DIGITS:
        return _DIGITS[name], 0
    if name.startswith("decimal"):
        kind = arrow_type(name)
        return kind.precision - kind.scale, kind.scale
    return None


def fits(found: str, declared: str) -> bool:
    """Whether every value of one type has its place in the other, by the rules of raw."""
    return (declared == "string" and has_text(found)) or wider(found, declared) == declared


def has_text(name: str) -> bool:
    """Whether raw takes values of this type as text (one text per value: not so of floats)."""
    return name not in ("float", "double", "boolean", "binary")


def unify(names: Sequence[str]) -> tuple[str, str]:
    """One type for a column that had these, oldest first, and the question that remains, if any."""
    unified: str | None = names[0]
    for name in names[1:]:
        unified = unified and wider(unified, name)
    if unified:
        return unified, ""
    found = ", ".join(dict.fromkeys(names))
    if all(map(has_text, names)):
        return "string", f"? {found} in the sample: as text all are kept"
    return names[-1], f"? {found} in the sample: files whose values do not cast are quarantined"
