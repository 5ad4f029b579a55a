"""What `dg scaffold defs` writes: a `defs.yaml` that says what there is to say, and an example that loads as it is."""

from __future__ import annotations

from pathlib import Path

from dagster.components import Scaffolder, ScaffoldRequest
from pydantic import BaseModel, Field

from upsell_assets.errors import PermanentError

TABLES = """\
type: {type}

attributes:
  contracts: contracts
  # What is left out is as the UPSELL_* variables say:
  # s3_bucket: {schema}-lake
  # s3_endpoint: https://s3.example.com
  #
  # To capture a PostgreSQL; without it others write the files of raw:
  # source_dsn_env: {variable}_DSN        # the environment variable, not the DSN
  # source_schema: public
  # capture_name: {capture}             # the publication and the replication slot
"""
CONTRACT = """\
# An example. `upsell contract init --from-database --schema {schema} --into {folder}` writes those of your tables.
schema: {schema}
table: orders
key: [order_id]
columns:
  order_id: bigint
  placed_at: timestamp
  amount: double
order: [modified_date]
"""
QUERIES = """\
type: {type}

attributes:
  folder: gold                # gold/daily_orders.sql becomes gold.{schema}.daily_orders
  lake_schema: {schema}
  # recent_days: 35           # a change asks for so many of the newest dtRefs only; left out: all
  # first_day: 2024-01-01
  # time_zone: America/Sao_Paulo
"""
QUERY = """\
-- An example. Orders of the local day dtRef: one row a dtRef with an order.
SELECT
    -- the local day
    r.dtRef,
    -- orders placed on it
    COUNT(*) AS orders
FROM dtrefs AS r
INNER JOIN bronze.{schema}.orders AS o
    ON CAST(FROM_UTC_TIMESTAMP(o.placed_at, 'America/Sao_Paulo') AS DATE) = r.dtRef
GROUP BY r.dtRef
"""


class SchemaParams(BaseModel):
    """What `dg scaffold` asks."""

    lake_schema: str = Field(
        "shop", description="Schema of the tables in the lake.", pattern=r"^[A-Za-z][A-Za-z0-9_]*$"
    )


class _SchemaScaffolder(Scaffolder[SchemaParams]):
    @classmethod
    def get_scaffold_params(cls) -> type[SchemaParams]:
        """The schema."""
        return SchemaParams


class LakeTablesScaffolder(_SchemaScaffolder):
    """A `defs.yaml` with an example of a contract."""

    def scaffold(self, request: ScaffoldRequest[SchemaParams]) -> None:
        """Write both."""
        schema = request.params.lake_schema
        _write_defs(
            request,
            TABLES.format(type=request.type_name, schema=schema, variable=schema.upper(), capture=schema.lower()),
        )
        folder = _beside(request) / "contracts"
        shown = folder.relative_to(request.project_root) if request.project_root else folder
        _write_new(folder / "orders.yaml", CONTRACT.format(schema=schema, folder=shown))


class SqlTablesScaffolder(_SchemaScaffolder):
    """A `defs.yaml` with an example of a query."""

    def scaffold(self, request: ScaffoldRequest[SchemaParams]) -> None:
        """Write both."""
        schema = request.params.lake_schema
        _write_defs(request, QUERIES.format(type=request.type_name, schema=schema))
        _write_new(_beside(request) / "gold" / "daily_orders.sql", QUERY.format(schema=schema))


def _write_defs(request: ScaffoldRequest[SchemaParams], text: str) -> None:
    if request.scaffold_format != "yaml":
        raise PermanentError(f"{request.type_name} is declared in YAML. Leave out --format {request.scaffold_format}.")
    if request.append:
        with request.target_path.open("a", encoding="utf-8") as file:
            file.write(f"---\n{text}")
    else:
        (request.target_path / "defs.yaml").write_text(text, encoding="utf-8")


def _beside(request: ScaffoldRequest[SchemaParams]) -> Path:
    return request.target_path.parent if request.append else request.target_path


def _write_new(path: Path, text: str) -> None:
    """Write an example, unless there is something already."""
    path.parent.mkdir(exist_ok=True)
    if not any(path.parent.iterdir()):
        path.write_text(text, encoding="utf-8")
