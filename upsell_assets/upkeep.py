"""Upkeep of every table of the lake: small files become few, rows and files that nobody needs any more go.

How long versions of tables stay readable is a setting, `UPSELL_KEEP_DAYS`. Rows expire no further than their slowest
reader has read: the versions that silver and the daily aggregates were made from stand in their own logs. Everything
gives way to whoever writes a table meanwhile, and may be interrupted at any moment.

Here: which table gets what. Not here: how (`bronze.upkeep`, `silver.changed`, `raw.ledger`, `lake.vacuum`), nor when
(`upkeep_job`, `upsell tidy`). Silver, features, reports and aggregates are not compacted: whoever writes them keeps their
files few, in a layout of its own.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial

from upsell_assets.aggregates import AGGREGATES
from upsell_assets.bronze.floors import floors_name
from upsell_assets.bronze.tables import changes_name, late_name, table_name, tombstones_name
from upsell_assets.bronze.upkeep import Tidied, tidy
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.commits import retry_conflicts
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.tables import Lake
from upsell_assets.lake.vacuum import Deleted, is_kept, set_horizon, vacuum
from upsell_assets.raw.landing import cdc_prefix, full_load_prefix
from upsell_assets.raw.ledger import Ledger
from upsell_assets.silver import changed
from upsell_assets.silver.events import LINES, TRANSACTIONS
from upsell_assets.silver.tables import silver_tables


@dataclass(frozen=True)
class Reclaimed:
    """What the upkeep of a table did, or would do."""

    table: str
    tidied: Tidied
    deleted: Deleted

    def __bool__(self) -> bool:
        return bool(self.tidied != Tidied() or self.deleted != Deleted())

    def __str__(self) -> str:
        return (
            f"{self.table}: {self.tidied.replaced:,} files written anew, {self.tidied.expired:,} rows expired, "
            f"{self.deleted.files:,} files and {self.deleted.log_files:,} of the log deleted, {self.deleted.bytes:,} bytes"
        )


def bronze_names(contract: Contract) -> tuple[str, ...]:
    """All tables of bronze that a contract has, whether they are there or not."""
    return (
        table_name(contract),
        tombstones_name(contract),
        changes_name(contract),
        late_name(contract),
        floors_name(contract),
    )


def chosen(lakehouse: Lakehouse, names: Collection[str]) -> list[str]:
    """The tables that are meant: by their three-part names, or by a contract's; all, where none is named.

    Raises:
        PermanentError: there is no such table.
    """
    there = lakehouse.tables(internal=True)
    found: list[str] = []
    for name in names:
        contract = lakehouse.contracts.get(name)
        meant = [table for table in bronze_names(contract) if table in there] if contract else [name]
        if unknown := [table for table in meant if table not in there]:
            raise PermanentError(
                f"tidy: no table {unknown[0]}. Name one by its three parts, or a contract: "
                f"{', '.join(lakehouse.contracts)}. There are: {', '.join(there) or 'none'}."
            )
        found += meant
    return [*dict.fromkeys(found)] if names else there


def upkeep(lakehouse: Lakehouse, names: Collection[str], *, dry_run: bool = False) -> Iterator[Reclaimed]:
    """Look after these tables, and say of each what was done.

    Args:
        lakehouse: the lake.
        names: three-part names of tables that are there.
        dry_run: only tell what would be done; what compaction and expiry themselves leave behind is not in it.

    Raises:
        RetryableError: other writers kept committing in between. What was done is done.
    """
    keep = timedelta(lakehouse.settings.keep_days)
    tidied = _tidy(lakehouse, names, keep, dry_run=dry_run)
    for name in names:
        if not dry_run:
            retry_conflicts(name, partial(_tell_horizon, lakehouse.lake, name, keep))
        yield Reclaimed(name, tidied.get(name, Tidied()), vacuum(lakehouse.lake, name, keep, dry_run=dry_run))


def _tidy(lakehouse: Lakehouse, names: Collection[str], keep: timedelta, *, dry_run: bool) -> dict[str, Tidied]:
    lake, done = lakehouse.lake, dict[str, Tidied]()
    for contract in lakehouse.contracts.values():
        if table_name(contract) in names:
            done |= tidy(lake, contract, tombstones_read(lake, lakehouse.contracts, contract), dry_run=dry_run)
        ledger = Ledger(lake, contract)
        if ledger.name in names:
            forgotten = ledger.forget(_there(lakehouse, contract), datetime.now(UTC) - keep, dry_run=dry_run)
            done[ledger.name] = Tidied(0, done.get(ledger.name, Tidied()).expired + forgotten)
    if changed.NAME in names:
        done[changed.NAME] = Tidied(0, changed.expire(lake, days_read(lake), dry_run=dry_run))
    return done


def days_read(lake: Lake) -> dict[str, int]:
    """The version of each table of silver up to which all daily aggregates have taken in what changed."""
    return changed.read_until(lake, {name: aggregate.sql.tables for name, aggregate in AGGREGATES.items()})


def tombstones_read(lake: Lake, contracts: Mapping[str, Contract], contract: Contract) -> int | None:
    """The version of a table's tombstones that silver has taken in; None: it takes none, or begins with everything."""
    graves = tombstones_name(contract)
    readers = {
        table.name: [graves]
        for table in silver_tables(contracts)
        if table.contract is contract and not table.from_changes
    }
    return changed.read_until(lake, readers).get(graves)


def _there(lakehouse: Lakehouse, contract: Contract) -> set[tuple[str, str]]:
    """Key and etag of whatever lies in a table's folders of raw."""
    prefixes = (cdc_prefix(contract), full_load_prefix(contract))
    return {(entry.key, entry.etag) for prefix in prefixes for entry in lakehouse.store.list(prefix)}


def _tell_horizon(lake: Lake, name: str, keep: timedelta) -> None:
    """Let the table itself say the horizon, where it does not."""
    table = lake.open(name)
    # A commit to the floors of a table has silver's history made anew, and no file of them is ever replaced.
    if is_kept(table, keep) or name.endswith("_floors"):
        return
    if name in (TRANSACTIONS, LINES):
        # Else nobody would know what this version changed, and the daily aggregates would be made anew.
        changed.note(lake, name, table.version() + 1, ())
    set_horizon(table, keep)
