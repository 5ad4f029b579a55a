"""What the lake holds and how far behind it is, read from logs and listings: no data file is opened.

Here: facts per table. Not here: how they are shown (`cli.lake`) and what Dagster thinks of them (`outlook`).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from datetime import UTC, date, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from upsell_assets.bronze.tables import table_name
from upsell_assets.contracts import Contract
from upsell_assets.errors import UpsellError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.landing import landed
from upsell_assets.raw.ledger import Ledger
from upsell_assets.silver.refresh import versions_behind
from upsell_assets.silver.tables import SilverTable, silver_tables

ROOT = Path(__file__).parent
_NEWEST = ("dtRef", "dtTransacao", "dtInicio", "_modified_date")
"""Columns that tell how new a table's rows are, the first that it has."""


@dataclass(frozen=True)
class TableStatus:
    """One table; `rows` and `version` are None where it has not been made.

    `newest` is the newest event, change or dtRef (UTC, or a local day); `lag` counts what waits to be taken in:
    files for bronze, versions of its sources for silver. `quarantined` counts files.
    """

    table: str
    rows: int | None
    version: int | None
    newest: datetime | date | None
    lag: int | None
    quarantined: int

    def as_json(self) -> dict[str, object]:
        """The same with times as ISO text."""
        return asdict(self) | {"newest": self.newest.isoformat() if self.newest else None}


def table_statuses(lakehouse: Lakehouse) -> Iterator[TableStatus]:
    """Every table that the contracts and SQL files declare, in the order of the data's way."""
    for contract in lakehouse.contracts.values():
        waiting, quarantined = _files(lakehouse, contract)
        yield _status(lakehouse, table_name(contract), waiting, quarantined)
    silver = silver_tables(lakehouse.contracts)
    for table in silver:
        yield _status(lakehouse, table.name, _behind(lakehouse, table))
    if silver:
        for layer in ("feature_store", "gold"):
            for path in sorted((ROOT / layer).glob("[!_]*.sql")):
                yield _status(lakehouse, f"{layer}.upsell.{path.stem}")
        yield _status(lakehouse, "feature_store.upsell.models")


def waiting_files(lakehouse: Lakehouse, contract: Contract) -> int:
    """How many raw files of a table are neither taken in nor in quarantine."""
    return _files(lakehouse, contract)[0]


def capture_lag(lakehouse: Lakehouse) -> dict[str, object] | None:
    """How far raw is behind the database; None where no database is captured, `error` where it cannot be asked."""
    from upsell_assets.capture.assets import open_capture

    capture = open_capture(lakehouse)
    if capture is None:
        return None
    try:
        lag = capture.lag()
    except UpsellError as error:
        return {"error": str(error)}
    return {"bytes": lag.bytes, "seconds": round(lag.seconds, 1), "retained_bytes": lag.retained}


def _files(lakehouse: Lakehouse, contract: Contract) -> tuple[int, int]:
    ledger, files = Ledger(lakehouse.lake, contract), landed(lakehouse.store, contract)
    known = ledger.known(files)
    done = {version for version, (state, _) in known.items() if state != "retry"}
    waiting = sum((file.key, file.etag) not in done for file in files)
    return waiting, len(ledger.quarantined())


def _behind(lakehouse: Lakehouse, table: SilverTable) -> int | None:
    try:
        return versions_behind(lakehouse.lake, table)
    except UpsellError:
        return None


def _status(lakehouse: Lakehouse, name: str, lag: int | None = None, quarantined: int = 0) -> TableStatus:
    if (table := lakehouse.lake.find(name)) is None:
        return TableStatus(name, None, None, None, lag, quarantined)
    actions = pa.table(table.get_add_actions(flatten=True))
    return TableStatus(
        name,
        int(pc.sum(actions["num_records"]).as_py() or 0),
        table.version(),
        newest_of(table, actions),
        lag,
        quarantined,
    )


def newest_of(table: DeltaTable, actions: pa.Table) -> datetime | date | None:
    """How new a table's rows are, from its add actions (flat): an instant (UTC), a dtRef, or None where nothing tells."""
    columns = {field.name for field in table.schema().fields}
    for name in _NEWEST:
        if name in columns:
            for statistic in (f"partition.{name}", f"max.{name}"):
                if statistic in actions.column_names:
                    found = pc.max(actions[statistic]).as_py()
                    return found.astimezone(UTC) if isinstance(found, datetime) else found
    return None
