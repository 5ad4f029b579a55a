"""One lake, opened from the settings: what assets, sensors and commands share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from upsell_assets.contracts import Contract, load_contracts
from upsell_assets.errors import ContractError
from upsell_assets.lake.engines import Engine, open_engine
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.settings import Settings

RAW = "raw"
LAYERS = ("bronze", "silver", "feature_store", "gold")


@dataclass(frozen=True)
class Lakehouse:
    """Settings, contracts, object store, tables and engine; each is opened when it is first used.

    Attributes:
        settings: where everything is.
        name: what tells the jobs and sensors of this lake from those of another one in the same code location; "" where
            there is no other.
        only: the tables of the contracts that count; empty: all.
    """

    settings: Settings
    name: str = ""
    only: tuple[str, ...] = ()

    def named(self, what: str) -> str:
        """The name of a job, sensor, schedule or pool of this lake."""
        return f"{self.name}_{what}" if self.name else what

    @cached_property
    def contracts(self) -> dict[str, Contract]:
        """The contracts by table name.

        Raises:
            ContractError: a contract is not valid, or there is none of a table that is asked for.
        """
        contracts = load_contracts(self.settings.contracts)
        if missing := sorted(set(self.only) - contracts.keys()):
            raise ContractError(
                f"contracts: {', '.join(missing)} is not among the tables of {self.settings.contracts}, which are "
                f"{', '.join(contracts)}. Write its contract, or correct the name."
            )
        return {table: contract for table, contract in contracts.items() if not self.only or table in self.only}

    @property
    def captured(self) -> dict[str, Contract]:
        """The contracts of the tables that our own capture writes to raw; other producers write the rest."""
        return {table: contract for table, contract in self.contracts.items() if contract.files.layout == "own"}

    @cached_property
    def store(self) -> ObjectStore:
        """The bucket."""
        return ObjectStore.from_settings(self.settings)

    @cached_property
    def lake(self) -> Lake:
        """The Delta tables in the bucket."""
        return self.engine.lake

    @cached_property
    def engine(self) -> Engine:
        """The active engine."""
        return open_engine(self.settings, self.store)

    def tables(self, *, internal: bool = False) -> list[str]:
        """The tables that there are, by their three-part names; with `internal` also those that the lake keeps for itself."""
        found = [
            f"{layer}.{schema}.{table}"
            for layer in ((RAW, *LAYERS) if internal else LAYERS)
            for schema in self.store.folders(f"{layer}/")
            for table in self.store.folders(f"{layer}/{schema}/")
            if internal or not table.startswith("_")
        ]
        # Not every folder is a table there: raw has the files that landed, too.
        return [name for name in found if self.lake.exists(name)] if internal else found
