"""What Dagster shows of a table: rows, version, schema with descriptions, address, and where columns come from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, TypeAlias

import dagster as dg
import pyarrow as pa
from deltalake import DeltaTable

from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.sql import SqlFile, lineage
from upsell_assets.lake.tables import UnknownTableError

COLUMN_LINEAGE = "dagster/column_lineage"
"""Dagster's own key. An asset's definition has it (`lineage.metadata`), and each materialization repeats it."""

Metadata: TypeAlias = dict[str, str | int | dg.TableSchema | dg.TableColumnLineage]

if TYPE_CHECKING:
    Made: TypeAlias = dg.MaterializeResult[None]
else:
    Made = dg.MaterializeResult  # which Dagster does not recognize with a parameter


def definition_metadata(lakehouse: Lakehouse, name: str) -> dict[str, str]:
    """What is known of a table before it is made; under Storage Dagster shows only this."""
    return {"dagster/table_name": name, "dagster/uri": lakehouse.store.uri(name.replace(".", "/"))}


def table_metadata(
    lakehouse: Lakehouse, table: DeltaTable, definition: Mapping[str, object], sql: SqlFile | None = None
) -> Metadata:
    """What is known of a table once it is committed: all its rows, version, columns and where they come from.

    Args:
        lakehouse: where the tables are that the query reads.
        table: as it was committed.
        definition: the asset's definition metadata. Where it has the lineage of the columns, that is repeated; else what it
            was made from was not known when definitions were loaded, and the lake is asked.
        sql: the file that it was made by.
    """
    described = {column: str(comment) for column, comment in sql.columns.items()} if sql else {}
    metadata: Metadata = {
        "dagster/row_count": row_count(table),
        "delta_version": table.version(),
        "dagster/column_schema": _columns(pa.schema(table.schema().to_arrow()), described),
    }
    known = definition.get(COLUMN_LINEAGE)
    if isinstance(known, dg.TableColumnLineageMetadataValue):
        known = known.column_lineage
    if isinstance(known, dg.TableColumnLineage):
        metadata[COLUMN_LINEAGE] = known
    elif sql is not None:
        metadata[COLUMN_LINEAGE] = column_lineage(lakehouse, sql)
    return metadata


def definition_of(context: dg.AssetExecutionContext) -> Mapping[str, object]:
    """The definition metadata of the asset that runs."""
    found: Mapping[str, object] = context.assets_def.metadata_by_key[context.asset_key]
    return found


def row_count(table: DeltaTable) -> int:
    """The rows of a table, from its log: no file is read."""
    return int(pa.table(table.get_add_actions(flatten=True)).column("num_records").to_numpy().sum())


def column_lineage(lakehouse: Lakehouse, sql: SqlFile) -> dg.TableColumnLineage:
    """From which columns of which tables each column of a query comes (from the parsed query)."""
    schemas = {name: _types(lakehouse, name) for name in sql.tables if name.count(".") == 2}
    return dg.TableColumnLineage(
        {
            column: [dg.TableColumnDep(dg.AssetKey(table.split(".")), source) for table, source in sorted(sources)]
            for column, sources in lineage(sql.tree, schemas).items()
        }
    )


def _types(lakehouse: Lakehouse, name: str) -> dict[str, str]:
    try:
        fields = lakehouse.lake.open(name).schema().fields
    except UnknownTableError:
        return {}
    return {field.name: str(getattr(field.type, "type", "string")) for field in fields}


def _columns(schema: pa.Schema, descriptions: Mapping[str, str]) -> dg.TableSchema:
    return dg.TableSchema(
        [
            dg.TableColumn(field.name, str(field.type), description=descriptions.get(field.name) or None)
            for field in schema
        ]
    )
