"""The floors of bronze: the positions of ended full loads, one small Delta table beside each live table.

What lies at or below the newest floor is settled: whatever comes late there is ignored (see `law`). A floor is
written before its load is swept, and read after the live table was opened, so that no merge slips in between.
"""

from __future__ import annotations

from datetime import datetime

import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from upsell_assets.contracts import Contract
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import MODIFIED, SEQUENCE, Position, order_fields

RECORDED = "_recorded_at"
"""When the lake saw the load end (UTC)."""


def floors_name(contract: Contract) -> str:
    """The table of a source table's floors."""
    return f"bronze.{contract.schema_name}._{contract.table}_floors"


def floors_schema(contract: Contract) -> pa.Schema:
    """Floors: a position, and when it was written down."""
    return pa.schema([*order_fields(contract)[:2], pa.field(RECORDED, pa.timestamp("us", tz="UTC"))])


def open_floors(lake: Lake, contract: Contract) -> DeltaTable:
    """A table's floors; empty where no load has ended yet."""
    return lake.open_or_create(floors_name(contract), floors_schema(contract))


def write_floor(lake: Lake, contract: Contract, position: Position, at: datetime) -> None:
    """Add a floor, which the lake knows since a moment; a repeat changes nothing."""
    row = {MODIFIED: position.modified_date, SEQUENCE: position.change_seq, RECORDED: at}
    # Appends never conflict with each other: the library's own retries are right here.
    write_deltalake(open_floors(lake, contract), pa.Table.from_pylist([row], floors_schema(contract)), mode="append")


def read_floors(lake: Lake, contract: Contract) -> pa.Table:
    """All floors of a table, in no order."""
    return lake.rows(open_floors(lake, contract)).to_table()
