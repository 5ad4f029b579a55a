"""Which rows and columns a model learns from: the grid of dtRefs, the sample, the features, the fingerprint.

Here: pure functions over the training set, a table with one row per (dtRef, idCliente) that holds the four
feature tables joined and the label. Not here: the joins themselves (SQL), nor anything that is fitted (`training`).
All choices hang on a seed and on the keys, never on the order of rows: the same rows give the same set.
"""

from __future__ import annotations

import hashlib
from datetime import date, timedelta
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from upsell_assets.errors import PermanentError

DTREF = "dtRef"
CUSTOMER = "idCliente"
LABEL = "flChurn"
KEYS = (DTREF, CUSTOMER)


def grid(first: date, last: date, kind: Literal["monday", "month"]) -> list[date]:
    """The dtRefs of a training set in [first, last]: every Monday, or the first of each month."""
    days = (first + timedelta(days=n) for n in range((last - first).days + 1))
    if kind == "monday":
        return [day for day in days if day.weekday() == 0]
    return [day for day in days if day.day == 1]


def sample(rows: pa.Table, per_customer: int, seed: int) -> pa.Table:
    """At most `per_customer` rows of each customer, in the order of their keys.

    Args:
        rows: has dtRef and idCliente; each pair stands once.
        per_customer: at least 1.
        seed: another seed takes other rows; the order of `rows` changes nothing.
    """
    if rows.num_rows == 0:
        return rows
    keys = zip(rows[CUSTOMER].to_pylist(), rows[DTREF].to_pylist(), strict=True)
    lot = np.fromiter((_hash(f"{seed}:{customer}:{dtref}") for customer, dtref in keys), np.uint64, rows.num_rows)
    owner = pc.rank(rows[CUSTOMER], tiebreaker="dense").to_numpy()
    drawn = np.lexsort((lot, owner))
    owners = owner[drawn]
    place = np.arange(rows.num_rows) - np.searchsorted(owners, owners)
    return in_order(rows.take(drawn[place < per_customer]))


def held_out_customers(customers: pa.ChunkedArray, share: float, seed: int) -> npt.NDArray[np.bool_]:
    """Which rows belong to the customers (about `share` of them) that training never sees."""
    distinct = pc.unique(customers)
    held = [_hash(f"{seed}:{customer}") < share * 2**64 for customer in distinct.to_pylist()]
    mask: npt.NDArray[np.bool_] = np.array(held, dtype=bool)[pc.index_in(customers, distinct).to_numpy()]
    return mask


def features(table: pa.Table) -> dict[str, str]:
    """Name and Arrow type of every feature, in the table's order: what is numeric, and no key, label or internal."""
    return {
        field.name: str(field.type)
        for field in table.schema
        if _numeric(field.type) and field.name not in (*KEYS, LABEL) and not field.name.startswith("_")
    }


def matrix(table: pa.Table, names: list[str]) -> npt.NDArray[np.float64]:
    """The named features as (rows, features) float64; null becomes NaN.

    Raises:
        PermanentError: a feature is not in the table, or is not numeric; all such are named.
    """
    absent = [name for name in names if name not in table.column_names]
    if absent:
        raise PermanentError(
            f"features: the model needs {', '.join(absent)}, which the table does not have. Compute the feature "
            "tables anew, or train a model on those that there are."
        )
    typed = {name: table.schema.field(name).type for name in names}
    odd = [f"{name} ({found})" for name, found in typed.items() if not (_numeric(found) or pa.types.is_null(found))]
    if odd:
        raise PermanentError(f"features: expected numbers, found {', '.join(odd)}. Correct the feature tables.")
    values = np.empty((table.num_rows, len(names)))
    for place, name in enumerate(names):
        values[:, place] = table[name].cast(pa.float64()).to_numpy()
    return values


def in_order(table: pa.Table) -> pa.Table:
    """The rows in the order of dtRef, then idCliente."""
    return table.sort_by([(key, "ascending") for key in KEYS])


def fingerprint(table: pa.Table) -> str:
    """SHA-256 of what the table holds, whatever the order of its rows and columns and however it is chunked.

    Hashed are the columns by name (keys first), with the rows in order: name, type and number of rows; one bit per row
    that says whether it is null; then the values that are not. Models keep this hash: its form must not change.
    """
    digest = hashlib.sha256()
    names = [*KEYS, *sorted(set(table.column_names) - set(KEYS))]
    ordered = table.select(names).sort_by([(name, "ascending") for name in names])
    for name in names:
        column = ordered[name]
        digest.update(f"{name} {column.type} {len(column)}\n".encode())
        digest.update(np.packbits(column.is_null().to_numpy()).tobytes())
        digest.update(_bytes(column.drop_null()))
    return digest.hexdigest()


def _bytes(column: pa.ChunkedArray) -> bytes:
    """The values, encoded so that two columns agree exactly if all their values do."""
    if pa.types.is_floating(column.type):
        values: npt.NDArray[Any] = column.cast(pa.float64()).to_numpy()
        return (values + 0.0).astype("<f8").tobytes()  # + 0.0: minus zero equals zero
    if pa.types.is_integer(column.type):
        integers: npt.NDArray[Any] = column.to_numpy()
        return integers.astype("<i8").tobytes()
    return "".join(f"{len(text)}:{text}" for text in map(str, column.to_pylist())).encode()


def _numeric(kind: pa.DataType) -> bool:
    return bool(pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_decimal(kind))


def _hash(text: str) -> int:
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
