"""The tables of bronze: their names, and what columns they have.

For each contract the live rows, the tombstones beside them, and (where the contract asks for it) every change.
"""

from __future__ import annotations

import pyarrow as pa

from upsell_assets.bronze.layout import layout_fields
from upsell_assets.contracts import Contract
from upsell_assets.raw.files import change_schema, order_fields

ARRIVALS_SINCE = "arrivals since"
"""Application transaction of a table of changes: the moment (microseconds, UTC) since which it keeps times of arrival,
and all changes. What it holds without a time stands for all that was there before; 0: there was nothing."""

GENERATION = "generation"
"""Application transaction of a live table that was written anew: what is made from it must be, too."""

INGESTED, VERSION = "_ingested_at", "_version"
WRITTEN = [pa.field(INGESTED, pa.timestamp("us", tz="UTC")), pa.field(VERSION, pa.int64())]
"""What the writing of a row adds to it: the time (UTC), and the version of the table that the commit made."""


def table_name(contract: Contract) -> str:
    """The live table."""
    return f"bronze.{contract.name}"


def tombstones_name(contract: Contract) -> str:
    """The table of what was deleted: keys and order only."""
    return f"bronze.{contract.schema_name}._{contract.table}_tombstones"


def changes_name(contract: Contract) -> str:
    """Every accepted change of a table whose contract keeps the history."""
    return f"bronze.{contract.schema_name}._{contract.table}_changes"


def late_name(contract: Contract) -> str:
    """Changes that came after the tombstones that would judge them had expired."""
    return f"bronze.{contract.schema_name}._{contract.table}_too_late"


def changes_schema(contract: Contract) -> pa.Schema:
    """Accepted changes as they were read, when the lake took them in (null: before it kept that), and the commit's version."""
    return pa.schema([*change_schema(contract), *WRITTEN])


def live_schema(contract: Contract) -> pa.Schema:
    """A live table: the contract's columns, operation, order and origin, what the writing adds, and its layout."""
    return pa.schema([*change_schema(contract), *WRITTEN, *layout_fields(contract)])


def tombstone_schema(contract: Contract) -> pa.Schema:
    """Tombstones: key, order, and the version of the commit."""
    keys = [change_schema(contract).field(name) for name in contract.key]
    return pa.schema([*keys, *order_fields(contract), WRITTEN[1]])
