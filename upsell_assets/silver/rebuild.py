"""A table of silver made anew by a cluster: its rows never come to one process.

As `refresh` does without anything taken in before, but that what differs is not found row by row: the table is replaced.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import pyarrow as pa
from deltalake import DeltaTable

from upsell_assets.bronze.law import newer, newest_per_key, order_terms
from upsell_assets.bronze.layout import Files
from upsell_assets.bronze.tables import table_name, tombstone_schema, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import quote, reader
from upsell_assets.lake.engines import Cluster, Query
from upsell_assets.lake.files import replace_files, root_of, rows_in
from upsell_assets.lake.keys import DoubledKeysError, doubled_in_files
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import OP
from upsell_assets.silver.difference import Difference
from upsell_assets.silver.events import HISTORY, TRANSACTIONS, ends_of_days
from upsell_assets.silver.tables import SilverTable
from upsell_assets.silver.write import FILE_ROWS

_DATES = {TRANSACTIONS: "dtTransacao", HISTORY: "dtInicio"}
"""The column of the tables whose days matter to others."""


def dead_keys(lake: Lake, contract: Contract, sources: Mapping[str, DeltaTable]) -> pa.Table:
    """Keys of live rows that a tombstone is newer than: bronze is between its two commits."""
    live, graves = (Files.of(sources[name]).paths for name in (table_name(contract), tombstones_name(contract)))
    shape = tombstone_schema(contract)
    order = [name for name in shape.names if name != "_version"]
    keys = ", ".join(f"l.{quote(name)}" for name in contract.key)
    with reader(lake) as connection:
        buried = lake.data.rows(lake, connection, graves, shape, order)
        connection.execute(f"CREATE TEMP TABLE graves AS SELECT * EXCLUDE (filename), 'D' AS {OP} FROM {buried}")
        named = shape.append(pa.field(OP, pa.string()))
        rows = lake.data.rows(lake, connection, live, named, [*order, OP], keys="graves", on=contract.key)
        connection.execute(f"CREATE TEMP TABLE live AS SELECT * EXCLUDE (filename) FROM {rows}")
        # Which columns a row has does not matter: at one place in the order a delete wins before they are looked at.
        later = newer(order_terms(contract, "t", ()), order_terms(contract, "l", ()), or_equal=True)
        same = " AND ".join(f"l.{quote(name)} = t.{quote(name)}" for name in contract.key)
        return connection.sql(
            f"SELECT {keys} FROM live AS l JOIN ({newest_per_key(contract, 'graves', ())}) AS t ON {same} WHERE {later}"
        ).to_arrow_table()


def rebuild(
    lake: Lake,
    cluster: Cluster,
    table: SilverTable,
    query: Query,
    target: DeltaTable | None,
    tokens: Mapping[str, int],
    tell: Callable[[Difference, int], None],
) -> tuple[int, int]:
    """Replace a table by all rows of its query.

    Args:
        lake: where the table lies.
        cluster: writes the rows.
        table: the table.
        query: its query, over what it is made from as that was opened.
        target: the table as it was opened; None: there is none yet.
        tokens: committed with the rows.
        tell: called before the commit, with what changes and the version that will be made.

    Returns:
        How many rows there are, and the version.

    Raises:
        DoubledKeysError: a key would have several rows; nothing was committed.
        CommitFailedError: somebody else committed since the table was opened; no row was committed.
    """
    contract, shape, without = table.contract, cluster.schema(query), {}
    if contract is not None and not table.from_changes:
        dead = dead_keys(lake, contract, query.tables)
        without = {table_name(contract): dead} if dead.num_rows else {}
    if target is None:
        target = lake.open_or_create(table.name, shape)
    added = [file for _, file in cluster.write(target, query, without=without, most_rows=FILE_ROWS)]
    paths = [f"{root_of(target)}/{file.path}" for file in added]
    if found := doubled_in_files(lake, shape, paths, table.key):
        raise DoubledKeysError(table.name, table.key, found)
    held = Files.of(target).paths
    date = _DATES.get(table.name)
    before, after = (ends_of_days(lake, shape, date, of) if date else pa.table({}) for of in (held, paths))
    tell(Difference(before, after, whole=True), target.version() + 1)
    replace_files(target, added, shape, tokens)
    return rows_in(added), target.version()
