"""Daily aggregates: what features and reports are made of, kept as tables so that no query reads the events again.

Each is one `.sql` file of its layer, which says what a full recompute gives. Kept are its rows, in files that follow
each other by local day. Whoever is about to read them brings them up to date: only the days that silver has changed
since (`silver.changed`) are made anew, and in a table that also says what came before, the later rows of the customers
of these days.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from functools import partial
from itertools import groupby, pairwise
from pathlib import Path
from uuid import UUID

import pyarrow as pa
import pyarrow.compute as pc
from deltalake import DeltaTable

from upsell_assets.lake.commits import retry_conflicts
from upsell_assets.lake.duck import parquet, quote, reader
from upsell_assets.lake.engines import HOME, Cluster, Engine, Query
from upsell_assets.lake.files import OldFile, exchange, replace_files, root_of, write_rows
from upsell_assets.lake.sql import SqlFile, load_sql, parse_query
from upsell_assets.lake.tables import Lake
from upsell_assets.silver import changed
from upsell_assets.silver.events import LINES, TRANSACTIONS, day_begins

DAY, CUSTOMER, CODE = "dtDia", "idCliente", "code_version"

FILE_ROWS = 50_000
"""Rows of a file: what a change of one day writes anew."""

SPAN_ROWS = 250_000
"""Transactions that are read at once, about."""

NEAR = timedelta(7)
"""Days that lie closer than this are read as one span."""

_OF_SPAN = parse_query(f"SELECT t.* FROM {TRANSACTIONS} AS t WHERE t.dtTransacao >= :first AND t.dtTransacao < :until")
_OF_CARTS = parse_query(
    f"SELECT p.idTransacao, p.descNomeProduto FROM {LINES} AS p "
    f"WHERE p.idTransacao IN (SELECT t.idTransacao FROM {TRANSACTIONS} AS t)"
)
_COUNTED = parse_query(
    "SELECT CAST(FROM_UTC_TIMESTAMP(t.dtTransacao, 'America/Sao_Paulo') AS DATE) AS dia, COUNT(*) AS linhas "
    f"FROM {TRANSACTIONS} AS t WHERE t.dtTransacao >= :first AND t.dtTransacao < :until GROUP BY 1 ORDER BY 1"
)

Span = tuple[date, date]
"""Local days, both included."""


@dataclass(frozen=True)
class Aggregate:
    """One kept table, keyed by customer and local day (and more).

    Attributes:
        sql: what it is, over silver.
        daily: where its rows also say what came before, the part of it that each day says alone.
        running: and the rest, over that part, which it reads by the name of `daily`.
    """

    sql: SqlFile
    daily: SqlFile | None = None
    running: SqlFile | None = None

    @property
    def name(self) -> str:
        """The table's three-part name."""
        return self.sql.name


def _aggregates() -> dict[str, Aggregate]:
    features, gold = (Path(__file__).parent / layer for layer in ("feature_store", "gold"))
    daily, whole = load_sql(features / "_dia.sql"), features / "_cliente_dia.sql"
    found = (
        Aggregate(load_sql(whole), daily, load_sql(whole, tables=[daily.name])),
        Aggregate(load_sql(features / "_cliente_dia_produto.sql")),
        Aggregate(load_sql(gold / "_produto_cliente_dia.sql")),
    )
    return {aggregate.name: aggregate for aggregate in found}


AGGREGATES = _aggregates()


def refresh_aggregates(lake: Lake, engine: Engine, names: Iterable[str]) -> dict[str, DeltaTable]:
    """Bring these aggregates up to date with silver, all with the same versions of it; as they were opened.

    Raises:
        UnknownTableError: silver has not been made yet.
        RetryableError: other writers kept committing in between.
    """
    wanted = [AGGREGATES[name] for name in names]
    silver = {name: lake.open(name) for name in sorted({name for one in wanted for name in one.sql.tables})}
    return {one.name: retry_conflicts(one.name, partial(_refresh, lake, engine, one, silver)) for one in wanted}


def _refresh(lake: Lake, engine: Engine, aggregate: Aggregate, silver: Mapping[str, DeltaTable]) -> DeltaTable:
    tables = {name: silver[name] for name in sorted(aggregate.sql.tables)}
    sources = {name: table.version() for name, table in tables.items()}
    code = _code(aggregate, tables.values())
    target = lake.find(aggregate.name)
    known = {name: target.transaction_version(name) for name in (*sources, CODE)} if target else {}
    tokens = {**sources, CODE: code}
    if target and known == tokens:
        return target
    days = None
    if target and known[CODE] == code:
        since = {name: version for name in sources if (version := known[name]) is not None}
        days = changed.changed_days(lake, since, sources, TRANSACTIONS) if len(since) == len(sources) else None
    events = _Silver(engine, tables)
    if target and days is not None and not _is_most(target, days):
        _update(lake, target, aggregate, events, sorted(days), tokens)
    elif cluster := engine.cluster(whole := Query(aggregate.sql.tree, tables=tables)):
        target = _rebuild_by_cluster(lake, cluster, target, aggregate, events, whole, tokens)
    else:
        target = _rebuild(lake, target, aggregate, events, tokens)
    return target


def _code(aggregate: Aggregate, tables: Iterable[DeltaTable]) -> int:
    """What it is made by: its SQL, and just these tables (one that was made anew begins at the same versions)."""
    identities = sum(UUID(str(table.metadata().id)).int for table in tables)
    return (int(aggregate.sql.code_version[:12], 16) + identities) % 2**53


@dataclass(frozen=True)
class _Silver:
    """The events, as they were opened."""

    engine: Engine
    tables: Mapping[str, DeltaTable]

    def rows(self, sql: SqlFile, span: Span) -> pa.Table:
        """What a file gives over the events of these days alone."""
        first, until = (day_begins(day) for day in (span[0], span[1] + timedelta(1)))
        relations = {TRANSACTIONS: self._run(Query(_OF_SPAN, {"first": first, "until": until}, {}, self.tables))}
        if LINES in sql.tables:
            relations[LINES] = self._run(Query(_OF_CARTS, {}, relations, self.tables))
        return self._run(Query(sql.tree, {}, relations))

    def homes(self) -> pa.Table:
        """For each day that has events the number of the file that it goes to."""
        numbers, rows = {}, 0
        for day, count in self._counts(_EVER).items():
            numbers[day] = rows // FILE_ROWS
            rows += count
        return pa.table({DAY: pa.array(numbers.keys(), pa.date32()), HOME: pa.array(numbers.values(), pa.int32())})

    def spans(self, days: Iterable[date] | None = None) -> Iterator[Span]:
        """These days, or all that have events, in spans of about `SPAN_ROWS` transactions; near days share one."""
        wanted = None if days is None else sorted(days)
        if wanted == []:
            return
        counts = self._counts((wanted[0], wanted[-1]) if wanted else _EVER)
        groups = [[*counts]]
        if wanted:
            groups = [
                sorted({day for day in (*wanted, *counts) if first <= day <= last}) for first, last in _near(wanted)
            ]
        for group in groups:
            start, total = 0, 0
            for number, day in enumerate(group):
                if number > start and total + counts.get(day, 0) > SPAN_ROWS:
                    yield group[start], group[number - 1]
                    start, total = number, 0
                total += counts.get(day, 0)
            if group:
                yield group[start], group[-1]

    def _counts(self, within: Span) -> dict[date, int]:
        """Transactions of each day that has some, in the order of days."""
        first, until = (day_begins(day) for day in (within[0], within[1] + timedelta(1)))
        counted = self._run(Query(_COUNTED, {"first": first, "until": until}, {}, self.tables))
        return dict(zip(*(column.to_pylist() for column in counted.columns), strict=True))

    def _run(self, query: Query) -> pa.Table:
        return self.engine.run(query).read_all()


def _near(days: Sequence[date]) -> Iterator[Span]:
    """Days, put together where they lie near each other."""
    breaks = [number for number, (a, b) in enumerate(pairwise(days), 1) if b - a >= NEAR]
    for start, end in pairwise([0, *breaks, len(days)]):
        yield days[start], days[end - 1]


def _is_most(table: DeltaTable, days: Iterable[date]) -> bool:
    """Whether more than half of the rows lie in files that such a change writes anew."""
    files = _Files.of(table)
    touched = {files.of_day(day) for day in days} - {-1}
    return 2 * sum(files.rows[number] for number in touched) > sum(files.rows) > FILE_ROWS


def _rebuild(
    lake: Lake, target: DeltaTable | None, aggregate: Aggregate, silver: _Silver, tokens: dict[str, int]
) -> DeltaTable:
    added, shape = [], None
    for portion in _whole(aggregate, silver):
        shape = portion.schema
        if target is None:
            target = lake.open_or_create(aggregate.name, shape)
        added += write_rows(lake, target, _cut(portion))
    assert target is not None
    assert shape is not None
    replace_files(target, added, shape, tokens)
    return target


def _rebuild_by_cluster(
    lake: Lake,
    cluster: Cluster,
    target: DeltaTable | None,
    aggregate: Aggregate,
    silver: _Silver,
    query: Query,
    tokens: dict[str, int],
) -> DeltaTable:
    shape = cluster.schema(query)
    target = target or lake.open_or_create(aggregate.name, shape)
    added = [file for _, file in cluster.write(target, query, homes=(DAY, silver.homes()))]
    replace_files(target, added, shape, tokens)
    return target


_EVER = (date(1, 1, 2), date(9999, 12, 30))
_NO_DAYS = (date(1, 1, 2), date(1, 1, 2))


def _whole(aggregate: Aggregate, silver: _Silver) -> Iterator[pa.Table]:
    """All rows, by and by, in the order of their days."""
    portions = (silver.rows(aggregate.daily or aggregate.sql, span) for span in [*silver.spans()] or [_NO_DAYS])
    if aggregate.daily and aggregate.running:
        of_days = pa.concat_tables(portions)
        yield silver.engine.run(Query(aggregate.running.tree, {}, {aggregate.daily.name: of_days})).read_all()
    else:
        yield from portions


def _update(
    lake: Lake,
    target: DeltaTable,
    aggregate: Aggregate,
    silver: _Silver,
    days: Sequence[date],
    tokens: dict[str, int],
) -> None:
    """Make these days anew, and with them the later rows of their customers where rows say what came before."""
    files = _Files.of(target)
    if not days:
        exchange(target, [], [], tokens)
        return
    spans = list(silver.spans(days))
    new = pa.concat_tables([silver.rows(aggregate.daily or aggregate.sql, span) for span in spans])
    gone = _Gone(f"r.{DAY} BETWEEN g.first AND g.last", _span_table(spans))
    touched = set(files.overlapping(spans))
    if aggregate.daily and aggregate.running:
        new, gone = _followed(lake, files, silver, aggregate.daily, aggregate.running, new, spans)
    # What goes of the days that follow comes back in the same file.
    fresh = _homes(files, new)
    added, removed = [], []
    for number in sorted(touched | fresh.keys()):
        rows = fresh.get(number, new.schema.empty_table())
        if number >= 0:
            rows = _kept(lake, files.paths[number], gone, rows)
            removed.append(files.old_file(number))
        added += write_rows(lake, target, _cut(rows))
    exchange(target, added, removed, tokens)


@dataclass(frozen=True)
class _Gone:
    """Rows (`r`) that are not kept: those for which `rows` has one (`g`) that meets the condition."""

    condition: str
    rows: pa.Table


def _span_table(spans: Iterable[Span]) -> pa.Table:
    first, last = zip(*spans, strict=True)
    return pa.table({"first": pa.array(first, pa.date32()), "last": pa.array(last, pa.date32())})


def _followed(
    lake: Lake, files: _Files, silver: _Silver, daily: SqlFile, running: SqlFile, new: pa.Table, spans: list[Span]
) -> tuple[pa.Table, _Gone]:
    """The rows, from the first of these days on, of all customers that these days know now or knew before."""
    names = ", ".join(map(quote, new.column_names))
    within = f"EXISTS (SELECT 1 FROM spans AS g WHERE r.{DAY} BETWEEN g.first AND g.last)"
    touched = [files.paths[number] for number in files.overlapping(spans)]
    with reader(lake) as connection:
        connection.register("new", new)
        connection.register("spans", _span_table(spans))
        there = lake.data.rows(lake, connection, touched, new.schema, [CUSTOMER, DAY])
        connection.execute(
            f"CREATE TEMP TABLE customers AS SELECT {CUSTOMER} FROM new UNION "
            f"SELECT {CUSTOMER} FROM {there} AS r WHERE {within}"
        )
        customers = connection.sql("FROM customers").to_arrow_table()
        known = lake.data.rows(
            lake, connection, files.paths, new.schema, new.column_names, keys="customers", on=(CUSTOMER,)
        )
        lives = connection.sql(
            f"SELECT {names} FROM {known} AS r WHERE NOT {within} UNION ALL SELECT {names} FROM new"
        ).to_arrow_table()
    first = spans[0][0]
    rows = silver.engine.run(Query(running.tree, {}, {daily.name: lives})).read_all()
    since = rows.filter(pc.field(DAY) >= pa.scalar(first, pa.date32()))
    return since, _Gone(f"r.{CUSTOMER} = g.{CUSTOMER} AND r.{DAY} >= DATE '{first}'", customers)


def _kept(lake: Lake, path: str, gone: _Gone, new: pa.Table) -> pa.Table:
    """What a file holds from now on."""
    with reader(lake) as connection:
        connection.register("new", new)
        connection.register("gone", gone.rows)
        columns = ", ".join(quote(name) for name in new.column_names)
        return connection.sql(
            f"SELECT {columns} FROM {parquet([path])} AS r ANTI JOIN gone AS g ON {gone.condition} UNION ALL FROM new"
        ).to_arrow_table()


def _homes(files: _Files, new: pa.Table) -> dict[int, pa.Table]:
    """The rows by the number of the file that takes them."""
    days = new[DAY].unique().to_pylist()
    found: dict[int, pa.Table] = {}
    for number, own in groupby(sorted(days), key=files.of_day):
        found[number] = new.filter(pc.is_in(new[DAY], pa.array([*own], pa.date32())))
    return found


def _cut(rows: pa.Table) -> Iterator[tuple[dict[str, str], pa.Table]]:
    """Files of whole days, in their order, of about `FILE_ROWS`."""
    ordered = rows.sort_by(DAY)
    counted = ordered.group_by(DAY, use_threads=False).aggregate([([], "count_all")])
    start = end = 0
    for count in counted["count_all"].to_pylist():
        end += count
        if end - start >= FILE_ROWS or end == rows.num_rows:
            yield {}, ordered.slice(start, end - start)
            start = end


@dataclass(frozen=True)
class _Files:
    """The files of an aggregate, by the first of their days; no day is in two of them."""

    names: list[str]
    paths: list[str]
    sizes: list[int]
    rows: list[int]
    first: list[date]
    last: list[date]

    @classmethod
    def of(cls, table: DeltaTable) -> _Files:
        files = sorted(pa.table(table.get_add_actions(flatten=True)).to_pylist(), key=lambda file: file[f"min.{DAY}"])
        root = root_of(table)
        return cls(
            [file["path"] for file in files],
            [f"{root}/{file['path']}" for file in files],
            [file["size_bytes"] for file in files],
            [file["num_records"] for file in files],
            [file[f"min.{DAY}"] for file in files],
            [file[f"max.{DAY}"] for file in files],
        )

    def of_day(self, day: date) -> int:
        """The number of the file that a day belongs to; -1 if there is none yet."""
        return max(bisect_right(self.first, day) - 1, 0) if self.first else -1

    def overlapping(self, spans: Iterable[Span]) -> Iterator[int]:
        """The numbers of those that have a day of these spans."""
        wanted = list(spans)
        for number, (first, last) in enumerate(zip(self.first, self.last, strict=True)):
            if any(first <= until and last >= since for since, until in wanted):
                yield number

    def old_file(self, number: int) -> OldFile:
        return OldFile(self.names[number], self.sizes[number])
