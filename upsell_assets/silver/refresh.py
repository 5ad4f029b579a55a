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
from deltalake import CommitProperties, DeltaTable, Schema, write_deltalake

from upsell_assets.bronze.floors import floors_name, open_floors
from upsell_assets.bronze.law import newer, newest_per_key, order_terms
from upsell_assets.bronze.tables import GENERATION, VERSION, changes_name, table_name, tombstones_name
from upsell_assets.contracts import Contract
from upsell_assets.lake.commits import commit_properties, retry_conflicts
from upsell_assets.lake.duck import connect, quote, register
from upsell_assets.lake.engines import Engine, Query
from upsell_assets.lake.sql import Parameter, SqlFile
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.landing import full_load_prefix
from upsell_assets.silver import changed, events
from upsell_assets.silver.difference import Difference

CODE = "code_version"


@dataclass(frozen=True)
class SilverTable:
    """One table of silver.

    Attributes:
        sql: its query.
        key: its key columns.
        source_key: bronze's key column for the first key column; empty where the table is not made key by key.
        contract: the bronze table that it is made from; None: it is made from silver tables, whole.
        from_changes: it is made from all accepted changes of the contract's table and the ends of its full loads, not
            from the live rows.
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
    code = _code(lake, table)
    known = {name: target.transaction_version(name) for name in (*sources, CODE)} if target else {}
    if target and known == {**sources, CODE: code}:
        return Refreshed(version=target.version(), sources=sources)
    since = _since(table, known, sources) if known.get(CODE) == code else None
    with connect() as connection:
        rows, keys = _touched(connection, lake, table, since, sources)
        new = engine.run(_query(lake, table, rows, sources)).read_all()
        difference = _difference(connection, table, lake, target, new, keys)
    if before_commit and (difference.old.num_rows or difference.new.num_rows):
        before_commit(difference)
    if target is None:
        target = lake.open_or_create(table.name, new.schema)
    gone = _gone(table, difference)
    _note_days(lake, table, target.version() + 1, difference)
    properties = commit_properties({**sources, CODE: code})
    if since is None and _types(target) != _types(new):
        # Only another query has other columns: all rows are written anew.
        write_deltalake(target, new, mode="overwrite", schema_mode="overwrite", commit_properties=properties)
    else:
        _commit(target, table, difference, gone, properties)
    return Refreshed(difference.new.num_rows, gone.num_rows, target.version(), sources)


def _note_days(lake: Lake, table: SilverTable, version: int, difference: Difference) -> None:
    """Write down which days the commit to come changes, of the tables that daily aggregates are made of."""
    if table.name == events.TRANSACTIONS:
        changed.note(lake, table.name, version, events.transaction_days(difference))
    elif table.name == events.LINES:
        days, looked_up = events.line_days(lake, difference)
        changed.note(lake, table.name, version, days, looked_up)


def _code(lake: Lake, table: SilverTable) -> int:
    """What the table is made by: its SQL, and the generation of the bronze table that it is made from."""
    generation = None
    if table.contract is not None and lake.exists(table_name(table.contract)):
        generation = lake.open(table_name(table.contract)).transaction_version(GENERATION)
    return int(table.sql.code_version[:12], 16) + (generation or 0)


def _since(table: SilverTable, known: dict[str, int | None], sources: dict[str, int]) -> dict[str, int] | None:
    """The versions taken in already; None: start from nothing, since a source was made anew or never read.

    Also where a full load ended meanwhile: that can end what holds of any key.
    """
    if table.contract and known.get(floors := floors_name(table.contract)) != sources.get(floors):
        return None
    taken = {name: at for name, version in sources.items() if (at := known[name]) is not None and at <= version}
    return taken if len(taken) == len(sources) else None


def _source_versions(lake: Lake, table: SilverTable) -> dict[str, int]:
    if table.contract is None:
        return {name: lake.open(name).version() for name in sorted(table.sql.tables)}
    if table.from_changes:
        # The floors first: a load's rows are kept before its end is written down, so that none ends without them.
        floors = {floors_name(table.contract): open_floors(lake, table.contract).version()}
        return floors | {changes_name(table.contract): lake.open(changes_name(table.contract)).version()}
    # The live table first: see bronze.merge.
    live = {table_name(table.contract): lake.open(table_name(table.contract)).version()}
    return live | {tombstones_name(table.contract): lake.open(tombstones_name(table.contract)).version()}


def _query(lake: Lake, table: SilverTable, rows: pa.Table | None, sources: dict[str, int]) -> Query:
    contract = table.contract
    if rows is None or contract is None:
        return Query(table.sql.tree, versions=sources)
    if not table.from_changes:
        return Query(table.sql.tree, relations={table_name(contract): rows})
    floors = floors_name(contract)
    ends = lake.rows(lake.open(floors, sources[floors])).to_table()
    return Query(table.sql.tree, history_params(contract), {changes_name(contract): rows, floors: ends})


def history_params(contract: Contract) -> dict[str, Parameter]:
    """What a query over all changes must know of the contract to follow the law."""
    return {
        "modified_date_first": contract.order[0] == "modified_date",
        "load_folder": full_load_prefix(contract),
    }


def _touched(
    connection: duckdb.DuckDBPyConnection,
    lake: Lake,
    table: SilverTable,
    since: dict[str, int] | None,
    sources: dict[str, int],
) -> tuple[pa.Table | None, pa.Table | None]:
    """The source rows of the touched keys as they now stand, and the keys.

    No keys: the rows are all there are. Neither rows nor keys: the table is made from silver, whole.
    """
    contract = table.contract
    if contract is None:
        return None, None
    versioned = {name: version for name, version in sources.items() if name != floors_name(contract)}
    for number, (name, version) in enumerate(versioned.items()):
        register(connection, f"source_{number}", lake.rows(lake.open(name, version)))
    key = quote(table.source_key)
    news = " UNION ".join(
        f"SELECT {key} FROM source_{number} WHERE {VERSION} > {since[name] if since else -1}"
        for number, name in enumerate(versioned)
    )
    connection.execute(f"CREATE TEMP TABLE touched AS SELECT DISTINCT {key} FROM ({news})")
    if table.from_changes:
        rows = f"SELECT * FROM source_0 SEMI JOIN touched USING ({key})"
    else:
        rows = _current_rows(connection, contract, key)
    keys = connection.sql(f"SELECT {key} AS {quote(table.key[0])} FROM touched").to_arrow_table() if since else None
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
    connection: duckdb.DuckDBPyConnection,
    table: SilverTable,
    lake: Lake,
    target: DeltaTable | None,
    new: pa.Table,
    keys: pa.Table | None,
) -> Difference:
    """How the rows of these keys, or all rows, differ from those that the table holds."""
    if target is None:
        return Difference(new.schema.empty_table(), new)
    connection.register("new", new)
    register(connection, "held", lake.rows(target))
    of_keys = ""
    if keys is not None:
        connection.register("silver_keys", keys)
        of_keys = f"SEMI JOIN silver_keys USING ({quote(table.key[0])})"
    # A column that the table does not have yet, or has in another type, is null in what it holds.
    held = _types(target)
    columns = ", ".join(
        quote(name) if held.get(name) == kind else f"NULL AS {quote(name)}" for name, kind in _types(new).items()
    )
    connection.execute("CREATE TEMP TABLE old AS FROM new WHERE false")
    connection.execute(f"INSERT INTO old SELECT {columns} FROM held {of_keys}")
    return Difference(
        connection.sql("FROM old EXCEPT FROM new").to_arrow_table(),
        connection.sql("FROM new EXCEPT FROM old").to_arrow_table(),
    )


def _types(rows: DeltaTable | pa.Table) -> dict[str, str]:
    schema = rows.schema() if isinstance(rows, DeltaTable) else Schema.from_arrow(rows.schema)
    return {field.name: str(field.type) for field in schema.fields}


def _gone(table: SilverTable, difference: Difference) -> pa.Table:
    """The old rows whose keys have no row any more."""
    keys = ", ".join(quote(name) for name in table.key)
    with connect() as connection:
        connection.register("old", difference.old)
        connection.register("new", difference.new)
        return connection.sql(f"SELECT * FROM old ANTI JOIN new USING ({keys})").to_arrow_table()


def _commit(
    target: DeltaTable, table: SilverTable, difference: Difference, gone: pa.Table, properties: CommitProperties
) -> None:
    new = difference.new
    if difference.old.num_rows == 0:
        # Also where nothing changed: the versions that were looked at are written down.
        write_deltalake(target, new, mode="append", commit_properties=properties)
        return
    columns = {quote(name): f"s.{quote(name)}" for name in new.column_names}
    (
        target.merge(
            pa.concat_tables([_marked(new, deleted=False), _marked(gone, deleted=True)]),
            predicate=" AND ".join(f"s.{quote(name)} = t.{quote(name)}" for name in table.key),
            source_alias="s",
            target_alias="t",
            streamed_exec=False,
            commit_properties=properties,
        )
        .when_matched_delete('s."_delete"')
        .when_matched_update(columns)
        .when_not_matched_insert(columns)
        .execute()
    )


def _marked(rows: pa.Table, *, deleted: bool) -> pa.Table:
    return rows.append_column("_delete", pa.repeat(pa.scalar(deleted), rows.num_rows))
