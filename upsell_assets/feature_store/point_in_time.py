"""Features at a point in time: as the feature tables have them now, or as they were known at some moment.

Here: the join of (dtRef, idCliente) with chosen features, for training and for serving. As latest it reads the `fs_*`
tables. As known it computes them: the very same `.sql` files of silver and of the feature store, over what the law of
bronze makes of the changes and ends of loads that had arrived by the moment. An event before dtRef that came after it
is in the first and not in the second. Both read pinned versions, so that the same call gives the same rows later.

What is known is asked of bronze once a call, as spans of time (`bronze.history`); silver's tables of transactions and
lines are made of all versions at once, since their queries treat each row by itself. This is done in memory, by the
embedded engine, whichever engine runs the lake. Not here: which rows train, and the label (`model`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from functools import cache
from pathlib import Path
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc
from sqlglot import exp

from upsell_assets.aggregates import AGGREGATES
from upsell_assets.bronze.floors import RECORDED, floors_name
from upsell_assets.bronze.history import (
    ALWAYS,
    KNOWN_FROM,
    KNOWN_TO,
    check_reaches,
    history_pins,
    received,
    versions_known,
)
from upsell_assets.bronze.tables import INGESTED, changes_name, table_name
from upsell_assets.contracts import Contract
from upsell_assets.errors import PermanentError
from upsell_assets.lake.duck import connect, quote
from upsell_assets.lake.engines import Engine, Query
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.sql import DTREFS, SqlFile, load_sql
from upsell_assets.lake.tables import Lake
from upsell_assets.silver.events import day_begins
from upsell_assets.silver.refresh import history_params
from upsell_assets.silver.tables import SilverTable, silver_tables

DTREF, CUSTOMER = "dtRef", "idCliente"

FEATURE_TABLES = tuple(
    f"feature_store.upsell.{name}" for name in ("fs_geral", "fs_pontos", "fs_transacoes", "fs_dia_horario")
)


@cache
def _sql(table: str, *, kept: bool = False) -> SqlFile:
    """The file of a feature table, over silver or (`kept`) over daily aggregates; read when it is first needed."""
    return load_sql(Path(__file__).parent / f"{table.rpartition('.')[2]}.sql", tables=AGGREGATES if kept else ())


KnownAt = Literal["latest", "dtref"] | datetime
"""As the tables have it now; as it was known when each dtRef began; or as at one instant, for all dtRefs."""


def cut(dtref: date) -> datetime:
    """The instant (UTC) at which a dtRef begins: what arrived before it was known at dtRef.

    Where clocks go forward at midnight the day begins at the first instant that it has.
    """
    return day_begins(dtref)


_KEYS = "keys_asked"


@dataclass(frozen=True)
class FeatureStore:
    """The features of one lake."""

    lake: Lake
    engine: Engine
    contracts: Mapping[str, Contract]

    @classmethod
    def of(cls, lakehouse: Lakehouse) -> FeatureStore:
        """Those of an opened lake."""
        return cls(lakehouse.lake, lakehouse.engine, lakehouse.contracts)

    def pins(self, known_at: KnownAt = "latest") -> dict[str, int]:
        """The newest version of each table that a training set is read from: feature tables, or all changes.

        Raises:
            UnknownTableError: a feature table has not been made.
            PermanentError: see `training_set`.
        """
        if known_at == "latest":
            return {name: self.lake.open(name).version() for name in FEATURE_TABLES}
        pins: dict[str, int] = {}
        for table in self._sources():
            pins |= history_pins(self.lake, _contract(table))
        return pins

    def training_set(
        self,
        keys: pa.Table,
        features: Iterable[str] | None = None,
        *,
        pins: Mapping[str, int],
        known_at: KnownAt = "latest",
    ) -> pa.Table:
        """The features of customers at dtRefs, in the order of the keys' dtRef and idCliente.

        Args:
            keys: has dtRef, and idCliente unless the whole population of each dtRef is wanted; other columns, such as
                a label, come along. Who is not in the population (as known) has no features, and no row.
            features: by their names; all, in the order of the tables, where none are named.
            pins: what `pins` gave for the same `known_at`.
            known_at: see `KnownAt`.

        Raises:
            PermanentError: a feature does not exist; or what was known cannot be told, since contracts keep no history
                or times of arrival begin later.
        """
        days = sorted(set(keys[DTREF].to_pylist()))
        if known_at == "latest":
            chosen = _chosen({name: self._stored(name, pins) for name in FEATURE_TABLES}, features)
            tables = [self._read(name, columns, keys, pins) for name, columns in chosen.items()]
        else:
            chosen = _chosen({name: list(_sql(name).columns) for name in FEATURE_TABLES}, features)
            tables = self._as_known(chosen, days, pins, known_at)
        return _joined(keys, tables)

    def _stored(self, name: str, pins: Mapping[str, int]) -> list[str]:
        return [field.name for field in self.lake.open(name, pins[name]).schema().fields]

    def _read(self, name: str, columns: Sequence[str], keys: pa.Table, pins: Mapping[str, int]) -> pa.Table:
        """The features of these keys; of other rows none leaves the engine."""
        on = [column for column in (DTREF, CUSTOMER) if column in keys.column_names]
        distinct = keys.select(on).group_by(on).aggregate([])
        wanted = [exp.column(column, "f") for column in (DTREF, CUSTOMER, *columns)]
        tree = exp.select(*wanted).from_(exp.alias_(exp.to_table(name, dialect="spark"), "f", table=True))
        same = " AND ".join(f"k.{column} = f.{column}" for column in on)
        tree = tree.join(exp.alias_(exp.to_table(_KEYS), "k", table=True), on=same)
        days = sorted(set(keys[DTREF].to_pylist()))
        # Said of the table itself, too: its partitions are read by it.
        if days:
            first, last = (exp.cast(exp.Literal.string(str(day)), "date") for day in (days[0], days[-1]))
            tree = tree.where(exp.Between(this=exp.column(DTREF, "f"), low=first, high=last))
        query = Query(tree, relations={_KEYS: distinct}, tables={name: self.lake.open(name, pins[name])})
        return self.engine.run(query).read_all()

    def _sources(self, features: Iterable[str] = FEATURE_TABLES) -> list[SilverTable]:
        """The tables of silver that these feature tables are made of."""
        made = {table.name: table for table in silver_tables(self.contracts)}
        wanted = {name for table in features for name in _sql(table).tables - {DTREFS}}
        if missing := sorted(wanted - made.keys()):
            raise PermanentError(
                f"training set: no contract declares what {', '.join(missing)} is made of, and what was known is told "
                "by the changes that arrived. Ask for features as latest."
            )
        return [made[name] for name in sorted(wanted)]

    def _as_known(
        self, chosen: Mapping[str, Sequence[str]], days: Sequence[date], pins: Mapping[str, int], known_at: KnownAt
    ) -> list[pa.Table]:
        moments: dict[datetime, list[date]] = {}
        for day in days:
            moments.setdefault(known_at if isinstance(known_at, datetime) else cut(day), []).append(day)
        sources = self._sources(chosen)
        for table in sources if moments else ():
            check_reaches(self.lake, _contract(table), pins, min(moments))
        engine = EmbeddedEngine(self.lake)
        known = _Known.of(self.lake, engine, sources, pins)
        made: dict[str, list[pa.Table]] = {name: [] for name in chosen}
        for moment, of_moment in (moments or {ALWAYS: []}).items():
            relations = known.at(engine, moment)
            # What several features are made of is computed once.
            for name in sorted(
                {table for feature in chosen for table in _sql(feature, kept=True).tables & AGGREGATES.keys()}
            ):
                relations[name] = engine.run(Query(AGGREGATES[name].sql.tree, relations=relations)).read_all()
            for name, columns in chosen.items():
                rows = engine.run(Query(_sql(name, kept=True).tree, relations=relations).over(of_moment)).read_all()
                made[name].append(rows.select([DTREF, CUSTOMER, *columns]))
        return [pa.concat_tables(parts) for parts in made.values()]


@dataclass(frozen=True)
class _Known:
    """What silver held at any moment: spans of rows, and what the history of customers is made of."""

    spans: Mapping[str, pa.Table]
    histories: Mapping[str, tuple[SilverTable, pa.Table, pa.Table]]

    @classmethod
    def of(cls, lake: Lake, engine: Engine, sources: Sequence[SilverTable], pins: Mapping[str, int]) -> _Known:
        spans, histories = {}, {}
        for table in sources:
            if table.from_changes:
                histories[table.name] = (table, *received(lake, _contract(table), pins))
            else:
                spans[table.name] = _in_silver(engine, table, versions_known(lake, _contract(table), pins))
        return cls(spans, histories)

    def at(self, engine: Engine, moment: datetime) -> dict[str, pa.Table]:
        """The tables as they were known at a moment."""
        at = pa.scalar(moment, pa.timestamp("us", tz="UTC"))
        found = {}
        for name, rows in self.spans.items():
            still = pc.or_kleene(pc.is_null(rows[KNOWN_TO]), pc.greater_equal(rows[KNOWN_TO], at))
            found[name] = rows.filter(pc.and_kleene(pc.less(rows[KNOWN_FROM], at), still))
        for name, (table, changes, ends) in self.histories.items():
            contract = _contract(table)
            relations = {
                changes_name(contract): changes.filter(pc.less(changes[INGESTED], at)),
                floors_name(contract): ends.filter(pc.less(ends[RECORDED], at)),
            }
            found[name] = engine.run(Query(table.sql.tree, history_params(contract), relations)).read_all()
        return found


def _in_silver(engine: Engine, table: SilverTable, versions: pa.Table) -> pa.Table:
    """Versions of rows of bronze as rows of silver, with their spans.

    The query is told the number of a version in the place of its key, which it passes on: it looks at nothing but the
    row itself, and a key has several versions.
    """
    contract = _contract(table)
    place, (key,) = versions.schema.get_field_index(table.source_key), table.key
    numbers = pa.array(range(versions.num_rows)).cast(pa.string())
    numbered = versions.set_column(place, table.source_key, numbers).drop_columns([KNOWN_FROM, KNOWN_TO])
    rows = engine.run(Query(table.sql.tree, relations={table_name(contract): numbered})).read_all()
    of_row = versions.take(rows[key].cast(pa.int64()))
    rows = rows.set_column(rows.schema.get_field_index(key), key, of_row[table.source_key])
    return rows.append_column(KNOWN_FROM, of_row[KNOWN_FROM]).append_column(KNOWN_TO, of_row[KNOWN_TO])


def _contract(table: SilverTable) -> Contract:
    assert table.contract is not None  # those that features are made of are made of bronze
    return table.contract


def _chosen(known: Mapping[str, Sequence[str]], features: Iterable[str] | None) -> dict[str, list[str]]:
    """Feature table -> its chosen features, of the columns that the tables have."""
    of_table = {
        name: [column for column in columns if column not in (DTREF, CUSTOMER) and not column.startswith("_")]
        for name, columns in known.items()
    }
    if features is None:
        return of_table
    wanted = set(features)
    if unknown := sorted(wanted - {column for columns in of_table.values() for column in columns}):
        raise PermanentError(
            f"training set: no feature table has {', '.join(unknown)}. Known are: "
            + "; ".join(f"{name}: {', '.join(columns)}" for name, columns in of_table.items())
        )
    found = {name: [column for column in columns if column in wanted] for name, columns in of_table.items()}
    # One table at least, which says who is in the population.
    return {name: columns for name, columns in found.items() if columns} or {FEATURE_TABLES[0]: []}


def _joined(keys: pa.Table, tables: Sequence[pa.Table]) -> pa.Table:
    """Keys with their features; each table has the whole population."""
    on = [DTREF, CUSTOMER] if CUSTOMER in keys.column_names else [DTREF]
    others = [name for name in keys.column_names if name not in (DTREF, CUSTOMER)]
    features = [name for table in tables for name in table.column_names if name not in (DTREF, CUSTOMER)]
    with connect() as connection:
        connection.register("keys", keys)
        joined = "keys"
        for number, table in enumerate(tables):
            connection.register(f"features_{number}", table)
            joined += f" JOIN features_{number} USING ({', '.join(on if number == 0 else [DTREF, CUSTOMER])})"
        columns = ", ".join(quote(name) for name in (DTREF, CUSTOMER, *others, *features))
        return connection.sql(f"SELECT {columns} FROM {joined} ORDER BY {DTREF}, {CUSTOMER}").to_arrow_table()
