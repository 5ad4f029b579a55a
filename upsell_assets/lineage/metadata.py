"""The lineage of columns as Dagster's definition metadata: its own `dagster/column_lineage`, and what a person sees.

The open-source web interface keeps column lineage and draws none: `lineage` is a picture, and a table whose links lead
to the pages of the assets that a column is made from. Not here: the graph (`graph`) and the drawing (`picture`).
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Collection, Iterable
from itertools import groupby

import dagster as dg

from upsell_assets.lake.metadata import COLUMN_LINEAGE
from upsell_assets.lineage.graph import Column, ColumnGraph
from upsell_assets.lineage.picture import picture

LINEAGE = "lineage"


def with_lineage(defs: dg.Definitions, graph: ColumnGraph) -> dg.Definitions:
    """The definitions, in which assets say where their columns come from; those without a table in the graph as they were."""
    pages = {
        key
        for asset in defs.assets or ()
        if isinstance(asset, dg.AssetSpec | dg.AssetsDefinition)
        for key in ([asset.key] if isinstance(asset, dg.AssetSpec) else asset.keys)
    }

    def described(spec: dg.AssetSpec) -> dg.AssetSpec:
        return spec.merge_attributes(metadata=_metadata(graph, ".".join(spec.key.path), pages))

    return defs.map_asset_specs(func=described)


def _metadata(graph: ColumnGraph, table: str, pages: Collection[dg.AssetKey]) -> dict[str, object]:
    if table not in graph.tables:
        return {}
    metadata: dict[str, object] = {LINEAGE: dg.MetadataValue.md(_page(graph, table, pages))}
    if not table.startswith("raw."):  # what raw comes from is no asset
        metadata[COLUMN_LINEAGE] = dg.TableColumnLineage(
            {column.name: _dependencies(graph, column) for column in graph.tables[table]}
        )
    return metadata


def _dependencies(graph: ColumnGraph, column: Column) -> list[dg.TableColumnDep]:
    # Of two tables of one asset the same column counts once.
    found = dict.fromkeys((_asset(source), source.name) for source in graph.next(column))
    return [dg.TableColumnDep(asset, name) for asset, name in found]


def _asset(column: Column) -> dg.AssetKey:
    """The asset that makes the column's table; what bronze keeps beside its live rows is of the same asset."""
    layer, schema, table = column.table.split(".")
    if layer == "bronze" and table.startswith("_"):
        table = table.removeprefix("_").removesuffix("_changes").removesuffix("_floors")
    return dg.AssetKey([layer, schema, table])


def _page(graph: ColumnGraph, table: str, pages: Collection[dg.AssetKey]) -> str:
    """The picture, and a row for each group of columns: what each of them is stands in Dagster's own list of columns."""
    drawn = b64encode(picture(graph, table).encode()).decode()
    rows = [f"| {_names(columns)} | {_links(sources, pages)} |" for sources, columns in graph.alike(table).items()]
    return "\n".join(
        [
            f"![columns of {table} and what they are made from](data:image/svg+xml;base64,{drawn})",
            "",
            "| columns | made from |",
            "|---|---|",
            *rows,
            "",
            f"The whole way: `upsell lineage {table}`; what depends on it: `upsell lineage {table} --down`.",
        ]
    )


def _links(sources: Iterable[Column], pages: Collection[dg.AssetKey]) -> str:
    """Columns by table, each table as a link to the page of its asset."""
    said = []
    for table, columns in groupby(sources, lambda column: column.table):
        of_table = list(columns)
        key = _asset(of_table[0])
        name = f"[{_cell(table)}](/assets/{'/'.join(key.path)})" if key in pages else _cell(table)
        said.append(f"{name}: {_names(of_table)}")
    return "; ".join(said) or "no column"


def _names(columns: Iterable[Column]) -> str:
    return _cell(", ".join(column.name for column in columns))


def _cell(text: str) -> str:
    """Text that stays within its cell and is read as it is written."""
    for special in ("\\", "|", "*", "_", "`", "[", "<"):
        text = text.replace(special, f"\\{special}")
    return text
