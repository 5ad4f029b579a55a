"""Writes docs/features.md: what every column of features and reports means, from the comments of their .sql files.

python scripts/features_page.py
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import duckdb
import pyarrow as pa

import upsell_assets
from upsell_assets.bronze.floors import floors_name, floors_schema
from upsell_assets.bronze.tables import changes_name, changes_schema, live_schema, table_name
from upsell_assets.contracts import load_contracts
from upsell_assets.contracts.types import type_name
from upsell_assets.dtref_files import COMPUTED, sql_files
from upsell_assets.lake.comments import WINDOWS
from upsell_assets.lake.duck import connect, quote
from upsell_assets.lake.sql import DTREFS, SqlFile, bind, to_duckdb
from upsell_assets.silver.tables import silver_tables

PACKAGE = Path(upsell_assets.__file__).parent
PAGE = Path(__file__).parents[1] / "docs" / "features.md"
INTRODUCTION = f"""\
# Features and reports

<!-- `make docs` writes this page from the comments in the .sql files: change those. -->

What each column is, in which unit, over which days, and how to recompute it by hand. The same text stands beside the
columns in Dagster.

Words of the formulas:

- **points**: `nrPontosTransacao` of `silver.upsell.transacoes`; negative points are spent. **Local** days and hours are
  those of America/Sao_Paulo. An **active day** is a local day with a transaction.
- **transactions** of a feature are those of the customer in the window; of a report, those of the row's product in the
  window, or all. A transaction counts once, however many lines its cart has. It is **with** a product if a line of its
  cart names it, and counts, with its full points, for each distinct product of the cart.
- A sum over nothing is null, unless its meaning says 0; so is a ratio whose denominator is null or 0. The name of a
  column stands for its value in the same row.

Every row also carries `{COMPUTED}`: when it was computed, UTC.
"""


def page() -> str:
    """The text of the page."""
    daily = [sql for layer in ("feature_store", "gold") for sql in sql_files(PACKAGE / layer)]
    types = _types(daily)
    windows = _table(["window", "days"], ([name, days] for name, days in WINDOWS.items()))
    parts = [INTRODUCTION, windows]
    for sql in daily:
        rows = (
            [f"`{name}`", types[sql.name][name], said.meaning, said.unit, said.window, said.formula]
            for name, said in sql.columns.items()
        )
        parts += [f"## {sql.name}\n\n{sql.description}\n"]
        parts += [_table(["name", "type", "meaning", "unit", "window", "formula"], rows)]
    return "\n".join(parts)


def _types(daily: list[SqlFile]) -> dict[str, dict[str, str]]:
    """Table -> column -> type, in Spark's words: what the queries give over a lake without rows."""
    contracts = load_contracts()
    found = {}
    with connect() as connection:
        for contract in contracts.values():
            _create(connection, table_name(contract), live_schema(contract))
            _create(connection, changes_name(contract), changes_schema(contract))
            _create(connection, floors_name(contract), floors_schema(contract))
        _create(connection, DTREFS, pa.schema({"dtRef": pa.date32()}))
        for sql in [*(table.sql for table in silver_tables(contracts)), *daily]:
            names = {table: quote(table) for table in sql.tables}
            query = bind(sql.tree, names, dict.fromkeys(sql.parameters))
            schema = connection.execute(to_duckdb(query)).to_arrow_table().schema
            _create(connection, sql.name, schema)
            found[sql.name] = {column.name: type_name(column.type) or str(column.type) for column in schema}
    return found


def _create(connection: duckdb.DuckDBPyConnection, name: str, schema: pa.Schema) -> None:
    connection.register(name, schema.empty_table())


def _table(header: list[str], rows: Iterable[list[str]]) -> str:
    lines = [header, ["---"] * len(header), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
