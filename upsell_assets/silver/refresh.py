"""Silver from bronze, incrementally: only the keys that changed since the versions already taken in.

The SQL says what a full recompute gives; here it runs over the touched keys only, and the difference to what
silver holds is committed together with the versions of bronze that it was made from. A touched key's state is
the newer of its live row and its tombstone, since silver may run between bronze's two commits. What the change
touches is told before the commit, so that a crash repeats rather than forgets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import duckdb
import pyarrow as pa
from deltalake import DeltaTable, write_deltalake

from upsell_assets.bronze.law import newer, newest_per_key, order_terms, quote
from upsell_assets.bronze.merge import VERSION, changes_name, table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.duck import connect
from upsell_assets.lake.engines import Engine, Query
from upsell_assets.lake.sql import Parameter, SqlFile
from upsell_assets.lake.tables import Lake, commit_properties, retry_conflicts

CODE = "code_version"


@dataclass(frozen=True)
class SilverTable:
    """One table of silver.

    Attributes:
        sql: its query.
        key: its key columns.
        source_key: bronze's key column for the first key column; empty where the table is not made key by key.
        contract: the bronze table that it is made from; None: it is made from silver tables, whole.
        from_changes: it is made from all accepted changes of the contract's table, not from the live rows.
    """

    sql: SqlFile
    key: tuple[str, ...]
    source_key: str = ""
    contract: Contract | None = None
    from_changes: bool = False

    @property
    def name(self) -> str:
        """The table's three-part name."""
        return self.sql.name


@dataclass(frozen=True)
class Difference:
    """What a refresh will change; `old` and `new` hold the rows that differ, in the table's columns."""

    old: pa.Table
    new: pa.Table


@dataclass
class Refreshed:
    """What a refresh did; `sources` are the versions that the table now stands for."""

    upserts: int = 0
    deletes: int = 0
    version: int = 0
    sources: dict[str, int] = field(default_factory=dict)


BeforeCommit = Callable[[Difference], None]


def refresh(lake: Lake, engine: Engine, table: SilverTable, before_commit: BeforeCommit | None = None) -> Refreshed:
    """Bring one table up to date with what it is made from; nothing new makes no commit.

    Raises:
        UnknownTableError: a source has not been made yet.
        RetryableError: other writers kept committing in between.
    """
    return retry_conflicts(table.name, lambda: _refresh_once(lake, engine, table, before_commit))


def versions_behind(lake: Lake, table: SilverTable) -> int:
    """How many versions of its sources a table has not taken in yet; 0: it is current.

    Raises:
        UnknownTableError: a source has not been made yet.
    """
    sources = _source_versions(lake, table)
    target = lake.open(table.name) if lake.exists(table.name) else None
    known = {name: target.transaction_version(name) if target else None for name in sources}
    return sum(version - (-1 if (at := known[name]) is None else at) for name, version in sources.items())


def _refresh_once(lake: Lake, engine: Engine, table: SilverTable, before_commit: BeforeCommit | None) -> Refreshed:
    sources = _source_versions(lake, table)
    target = lake.open(table.name) if lake.exists(table.name) else None
    code = int(table.sql.code_version[:12], 16)
    known = {name: target.transaction_version(name) for name in (*sources, CODE)} if target else {}
    if target and known == {**sources, CODE: code}:
        return Refreshed(version=target.version(), sources=sources)
    # Another query means other rows everywhere: start from nothing known, compare with everything there is.
    since = {name: known.get(name) for name in sources} if known.get(CODE) == code else dict.fromkeys(sources)
    with connect() as connection:
        rows, keys = _touched(connection, lake, table, since, sources)
        new = engine.run(_query(table, rows, sources)).read_all()
        if target is None:
            target = lake.open_or_create(table.name, new.schema)
        difference = _difference(connection, table, target, new, keys)
    if before_commit and (difference.old.num_rows or difference.new.num_rows):
        before_commit(difference)
    upserts, deletes = _commit(target, table, difference, {**sources, CODE: code})
    return Refreshed(upserts, deletes, target.version(), sources)


def _source_versions(lake: Lake, table: SilverTable) -> dict[str, int]:
    if table.contract is None:
        return {name: lake.open(name).version() for name in sorted(table.sql.tables)}
    if table.from_changes:
        return {changes_name(table.contract): lake.open(changes_name(table.contract)).version()}
    # The live table first: see bronze.merge.
    live = {table_name(table.contract): lake.open(table_name(table.contract)).version()}
    return live | {tombstones_name(table.contract): lake.open(tombstones_name(table.contract)).version()}


def _query(table: SilverTable, rows: pa.Table | None, sources: dict[str, int]) -> Query:
    params: dict[str, Parameter] = {}
    if "modified_date_first" in table.sql.parameters and table.contract:
        params["modified_date_first"] = table.contract.order[0] == "modified_date"
    if rows is None or table.contract is None:
        return Query(table.sql.tree, params, versions=sources)
    source = changes_name(table.contract) if table.from_changes else table_name(table.contract)
    return Query(table.sql.tree, params, {source: rows})


def _touched(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    table: SilverTable,
    since: dict[str, int | None],
    sources: dict[str, int],
) -> tuple[pa.Table | None, pa.Table | None]:
    """The source rows of the touched keys as they now stand, and the keys; None, None where all are touched."""
    contract = table.contract
    if contract is None:
        return None, None
    for number, (name, version) in enumerate(sources.items()):
        connection.register(f"source_{number}", lake.open(name, version).to_pyarrow_dataset())
    key = quote(table.source_key)
    news = " UNION ".join(
        f"SELECT {key} FROM source_{number} WHERE {VERSION} > {-1 if at is None else at}"
        for number, at in enumerate(since.values())
    )
    connection.execute(f"CREATE TEMP TABLE touched AS SELECT DISTINCT {key} FROM ({news})")
    if table.from_changes:
        rows = f"SELECT * FROM source_0 SEMI JOIN touched USING ({key})"
    else:
        rows = _current_rows(connection, contract, key)
    keys = connection.sql(f"SELECT {key} AS {quote(table.key[0])} FROM touched").to_arrow_table()
    return connection.sql(rows).to_arrow_table(), keys


def _current_rows(connection: duckdb.DuckDBPyConnection, contract: Contract, key: str) -> str:
    connection.execute(f"CREATE TEMP TABLE live AS SELECT * FROM source_0 SEMI JOIN touched USING ({key})")
    connection.execute(
        f"CREATE TEMP TABLE graves AS SELECT *, 'D' AS _op FROM source_1 SEMI JOIN touched USING ({key})"
    )
    columns = [name for name in connection.sql("SELECT * FROM live").columns if not name.startswith("_")]
    later = newer(order_terms(contract, "t", ()), order_terms(contract, "l", columns), or_equal=True)
    return (
        f"SELECT l.* FROM live AS l LEFT JOIN ({newest_per_key(contract, 'graves', ())}) AS t "
        f"ON l.{key} = t.{key} WHERE t.{key} IS NULL OR NOT {later}"
    )


def _difference(
    connection: duckdb.DuckDBPyConnection, table: SilverTable, target: DeltaTable, new: pa.Table, keys: pa.Table | None
) -> Difference:
    connection.register("new", new)
    held = {field.name for field in target.schema().fields}
    missing = "".join(f", NULL AS {quote(name)}" for name in new.column_names if name not in held)
    connection.register("held_rows", target.to_pyarrow_dataset())
    connection.execute(f"CREATE TEMP VIEW held AS SELECT *{missing} FROM held_rows")
    first = quote(table.key[0])
    if keys is None:
        connection.execute("CREATE TEMP TABLE old AS SELECT * FROM held")
    else:
        connection.register("silver_keys", keys)
        connection.execute(f"CREATE TEMP TABLE old AS SELECT * FROM held SEMI JOIN silver_keys USING ({first})")
    columns = ", ".join(quote(name) for name in new.column_names)
    return Difference(
        connection.sql(f"SELECT {columns} FROM old EXCEPT SELECT {columns} FROM new").to_arrow_table(),
        connection.sql(f"SELECT {columns} FROM new EXCEPT SELECT {columns} FROM old").to_arrow_table(),
    )


def _commit(
    target: DeltaTable, table: SilverTable, difference: Difference, watermarks: dict[str, int]
) -> tuple[int, int]:
    properties = commit_properties(watermarks)
    new = difference.new
    with connect() as connection:
        connection.register("old", difference.old)
        connection.register("new", new)
        names = ", ".join(quote(name) for name in table.key)
        gone = connection.sql(f"SELECT * FROM old ANTI JOIN new USING ({names})").to_arrow_table()
    if difference.old.num_rows == 0:
        # Also where nothing changed: the versions that were looked at are written down.
        write_deltalake(target, new, mode="append", schema_mode="merge", commit_properties=properties)
        return new.num_rows, 0
    staged = pa.concat_tables([_marked(new, deleted=False), _marked(gone, deleted=True)])
    columns = {quote(name): f"s.{quote(name)}" for name in new.column_names}
    (
        target.merge(
            staged,
            predicate=" AND ".join(f"s.{quote(name)} = t.{quote(name)}" for name in table.key),
            source_alias="s",
            target_alias="t",
            merge_schema=True,
            streamed_exec=False,
            commit_properties=properties,
        )
        .when_matched_delete('s."_delete"')
        .when_matched_update(columns)
        .when_not_matched_insert(columns)
        .execute()
    )
    return new.num_rows, gone.num_rows


def _marked(rows: pa.Table, *, deleted: bool) -> pa.Table:
    return rows.append_column("_delete", pa.repeat(pa.scalar(deleted), rows.num_rows))
