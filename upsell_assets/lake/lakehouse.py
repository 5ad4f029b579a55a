"""One lake, opened from the settings: what assets, sensors and commands share."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

from upsell_assets.contracts import Contract, load_contracts
from upsell_assets.lake.engines import Engine, open_engine
from upsell_assets.lake.store import ObjectStore
from upsell_assets.lake.tables import Lake
from upsell_assets.settings import Settings

LAYERS = ("bronze", "silver", "feature_store", "gold")


@dataclass(frozen=True)
class Lakehouse:
    """Settings, contracts, object store, tables and engine; each is opened when it is first used."""

    settings: Settings

    @cached_property
    def contracts(self) -> dict[str, Contract]:
        """The contracts by table name."""
        return load_contracts(self.settings.contracts)

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
        return Lake.of(self.store)

    @cached_property
    def engine(self) -> Engine:
        """The active engine."""
        return open_engine(self.settings, self.store)

    def tables(self) -> list[str]:
        """The tables that there are, by their three-part names, without the lake's internal ones."""
        return [
            f"{layer}.{schema}.{table}"
            for layer in LAYERS
            for schema in self.store.folders(f"{layer}/")
            for table in self.store.folders(f"{layer}/{schema}/")
            if not table.startswith("_")
        ]
