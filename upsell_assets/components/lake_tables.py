"""`LakeTables`: a database's tables, from contracts to bronze."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import dagster as dg
from pydantic import AfterValidator, Field, model_validator

from upsell_assets.assembly import automation_sensor, tables_defs
from upsell_assets.bronze.tables import table_name
from upsell_assets.components.lake import DAY, VARIABLE, LakeModel, existing_day, name_of, secret
from upsell_assets.components.scaffold import LakeTablesScaffolder
from upsell_assets.errors import PermanentError
from upsell_assets.lake.lakehouse import Lakehouse


@dg.scaffold_with(LakeTablesScaffolder)
class LakeTables(LakeModel, dg.Component):
    """Lakes the tables of a database: raw files, as they land or as they are captured, become bronze tables on S3.

    One contract (YAML) a table says its key and columns. There is an asset for the raw files and one for the bronze
    table of each, with checks, a sensor that reports what landed, one that runs what is due, and with a source database
    the job that captures it.
    """

    contracts: str = Field(
        "contracts",
        description="Folder of contracts, one YAML file a table, beside defs.yaml. `upsell contract init` writes them.",
        min_length=1,
    )
    tables: list[str] | None = Field(None, description="The tables that count; left out: all that have a contract.")
    source_dsn_env: str | None = Field(
        None,
        description="Environment variable that holds the DSN of a PostgreSQL to capture; left out: others write raw.",
        pattern=VARIABLE,
    )
    source_schema: str | None = Field(None, description="Database schema of the source tables; left out: public.")
    capture_name: str | None = Field(
        None,
        description="Name of the publication and of the replication slot, needed with source_dsn_env; no other capture "
        "of the same database server may have it.",
        pattern=r"^[a-z_][a-z0-9_]{0,62}$",
    )
    first_landing_day: Annotated[str | None, AfterValidator(existing_day)] = Field(
        None,
        description="First landing day (UTC) with a partition, yyyy-mm-dd; earlier files count to it. Left out: as "
        "first_day.",
        pattern=DAY,
    )

    @model_validator(mode="after")
    def _capture_is_named(self) -> LakeTables:
        if self.source_dsn_env and not self.capture_name:
            raise ValueError(
                "capture_name: a capture needs a name for its publication and its replication slot, such as the schema's"
            )
        return self

    @classmethod
    def get_spec(cls) -> dg.ComponentTypeSpec:
        """What lists of components show."""
        return dg.ComponentTypeSpec(
            owners=["team:upsell"], tags=["lakehouse", "delta"], produces=["asset", "asset_check", "sensor", "job"]
        )

    def build_defs(self, context: dg.ComponentLoadContext) -> dg.Definitions:
        """Raw, bronze, and capture where there is a source.

        Raises:
            PermanentError: an attribute, a contract or an environment variable is not what it must be.
        """
        lakehouse = self.open(context.path, name_of(context))
        bronze = [table_name(contract).split(".") for contract in lakehouse.contracts.values()]
        return dg.Definitions.merge(
            tables_defs(lakehouse),
            dg.Definitions(sensors=[automation_sensor(lakehouse, dg.AssetSelection.assets(*bronze))]),
        )

    def open(self, folder: Path, name: str = "") -> Lakehouse:
        """The lake of a `defs.yaml` in this folder."""
        contracts = folder / self.contracts
        if not any(contracts.glob("*.yaml")):
            raise PermanentError(
                f"{folder}/defs.yaml: contracts: no *.yaml in {contracts}. Write a file per table, for example with "
                "`upsell contract init --from-database --into FOLDER`, or correct the folder's name."
            )
        more = {"source_schema": self.source_schema, "capture_name": self.capture_name}
        lakehouse = Lakehouse(
            self.settings(
                contracts=contracts,
                source_dsn=secret("source_dsn_env", self.source_dsn_env),
                **{name: value for name, value in more.items() if value is not None},
                **({"first_landing_day": self.first_landing_day} if self.first_landing_day else {}),
            ),
            name,
            tuple(self.tables or ()),
        )
        if lakehouse.settings.source_dsn and not lakehouse.captured:
            raise PermanentError(
                f"{folder}/defs.yaml: source_dsn_env names a database, but by their contracts other producers write the "
                "files of all tables. Leave it out, or correct `files` in the contracts."
            )
        return lakehouse
