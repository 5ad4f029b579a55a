"""SQL files: one query a table, written in Spark's dialect, read as trees and rendered for either engine.

Here: loading a file with what its comments say, inlining of internal views, binding of names and parameters,
translation to DuckDB, and column lineage. Not here: running anything (`lake.engines`) or what a query means (the
`.sql` files of the layers). That both engines agree rests on `_Spark` and `_DuckDB`: every known difference
between what a Spark query says and what SQLGlot makes of it is settled there.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime
from functools import lru_cache
from pathlib import Path
from typing import ClassVar

from sqlglot import exp, parse_one
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.dialects.spark import Spark
from sqlglot.errors import ParseError, SqlglotError, TokenError
from sqlglot.generators.duckdb import DuckDBGenerator
from sqlglot.lineage import lineage as column_lineage
from sqlglot.parsers.spark import SparkParser

from upsell_assets.errors import PermanentError
from upsell_assets.lake.comments import ColumnComment, parse_comment

SCHEMA = "upsell"
DTREFS, FIRST_DTREF, LAST_DTREF = "dtrefs", "first_dtref", "last_dtref"
"""The relation of the requested dtRefs, and the markers for the first and the last of them."""

Parameter = bool | int | float | str | datetime | date | None

_EDGE = "\ue000"
"""What stands around the name of a marker in a rendered query: a character that no language has."""


class _SparkParser(SparkParser):
    # Since Spark 4 a plain CAST raises; SQLGlot would still render it as TRY_CAST for DuckDB.
    STRICT_CAST = True


class _Spark(Spark):
    Parser = _SparkParser


class _DuckDBGenerator(DuckDBGenerator):
    TRANSFORMS: ClassVar = {
        **DuckDBGenerator.TRANSFORMS,
        # Spark's from_utc_timestamp makes an instant local time; over a naive timestamp DuckDB goes the other way.
        exp.AtTimeZone: lambda self, node: (
            f"(CAST({self.sql(_uncast(node.this))} AS TIMESTAMPTZ) AT TIME ZONE {self.sql(node, 'zone')})"
        ),
        # Spark's date_add and date_sub give dates; DuckDB's date + interval is a timestamp.
        exp.TsOrDsAdd: lambda self, node: f"CAST({DuckDBGenerator.TRANSFORMS[exp.TsOrDsAdd](self, node)} AS DATE)",
        # Spark's max_by returns the null that stands at the maximum; DuckDB's arg_max skips it.
        exp.ArgMax: lambda self, node: self.func("ARG_MAX_NULL", node.this, node.expression),
        exp.ArgMin: lambda self, node: self.func("ARG_MIN_NULL", node.this, node.expression),
    }


class _DuckDB(DuckDB):
    Generator = _DuckDBGenerator


@dataclass(frozen=True)
class SqlFile:
    """One query, with its internal views inlined.

    Attributes:
        path: the file.
        name: three-part name of the table that it makes, from folder and file: `gold.upsell.daily_report`.
        text: the file as it is written.
        tree: the query; never changed in place (`bind` copies).
        description: the comment that leads the file.
        columns: output column -> what its comment says, in the order of the output. The comment stands on the lines
            above the column, or behind its comma.
        tables: the tables that it reads, through its views too: three-part names, and `dtrefs` where it asks
            for the requested dtRefs.
        parameters: names of the `:name` markers.
        code_version: sha256 of the query and its views, blind to comments and layout.
    """

    path: Path
    name: str
    text: str
    tree: exp.Query
    description: str
    columns: dict[str, ColumnComment]
    tables: frozenset[str]
    parameters: frozenset[str]
    code_version: str


def load_sql(path: Path, *, tables: Collection[str] = (), schema: str = SCHEMA) -> SqlFile:
    """Reads `<layer>/<table>.sql`; the table is of this schema.

    A table whose name starts with `_` and has a file beside the layers, such as `feature_store.upsell._cliente_dia`
    in `feature_store/_cliente_dia.sql`, is an internal view and is inlined as a CTE, unless it is one of `tables`: those
    are read as they are kept.

    Raises:
        PermanentError: the file is no single query, the comment of a column is not readable, or an internal view
            refers to itself.
    """
    text = path.read_text(encoding="utf-8")
    tree = _inline_views(_parse(path), path.parent.parent, tables)
    return SqlFile(
        path=path,
        name=f"{path.parent.name}.{schema}.{path.stem}",
        text=text,
        tree=tree,
        description=_leading_comment(text),
        columns={select.alias_or_name: _column_comment(path, select) for select in tree.selects},
        tables=source_tables(tree),
        parameters=frozenset(marker.name for marker in tree.find_all(exp.Placeholder)),
        code_version=hashlib.sha256(tree.sql(_Spark, comments=False).encode()).hexdigest(),
    )


def parse_query(text: str) -> exp.Query:
    """A query that somebody typed, in Spark's dialect.

    Raises:
        PermanentError: it is no single query that Spark SQL could read.
    """
    try:
        tree = parse_one(text, read=_Spark)
    except (ParseError, TokenError) as error:
        reason = str(error).splitlines()[0]
        raise PermanentError(f"query: no readable Spark SQL: {reason} Write one SELECT.") from error
    if not isinstance(tree, exp.Query):
        raise PermanentError(f"query: expected one SELECT, found {tree.key.upper()}. The lake is only read here.")
    return tree


def output_columns(tree: exp.Query) -> list[str]:
    """The names of the query's columns, in order and in the case in which they are written."""
    return [select.alias_or_name for select in tree.selects]


@lru_cache(maxsize=256)
def source_tables(tree: exp.Query) -> frozenset[str]:
    """The names of the tables that the query reads, without its own CTEs."""
    return frozenset(_name(table) for table in _sources(tree))


def bind(tree: exp.Query, tables: Mapping[str, str], params: Mapping[str, Parameter | exp.Expr]) -> exp.Query:
    """A copy of the query over an engine's own names, with literals in the place of its `:name` markers.

    Args:
        tree: the query of a `SqlFile`.
        tables: table, as in `SqlFile.tables` -> the engine's name for it; dots separate its parts, unless quoted.
            A table that is left out keeps its name.
        params: marker -> value, or what else stands in its place; datetimes carry a zone and become the instant, in UTC.

    Raises:
        ValueError: a marker has no value, or a datetime has no zone.
    """
    bound = tree.copy()
    for table in _sources(bound):
        if (target := tables.get(_name(table))) is not None:
            table.replace(_renamed(table, exp.to_table(target, dialect="duckdb")))
    for marker in list(bound.find_all(exp.Placeholder)):
        if marker.name not in params:
            raise ValueError(f"no value for the marker :{marker.name}")
        marker.replace(_literal(params[marker.name]))
    return bound


def to_spark(tree: exp.Query) -> str:
    """The query in Spark's dialect; the session's time zone must be UTC."""
    return tree.sql(_Spark, identify=True, comments=False)


def to_duckdb(tree: exp.Query) -> str:
    """The query in DuckDB's dialect, with the results that Spark has; the session's TimeZone must be UTC."""
    return tree.sql(_DuckDB, identify=True, comments=False)


def render_duckdb(tree: exp.Query, tables: Mapping[str, str], params: Mapping[str, Parameter]) -> str:
    """`to_duckdb(bind(tree, tables, params))`, where the same query runs again and again with other values.

    All but the values is rendered once: of a wide query that takes longer than a small answer.

    Raises:
        ValueError: as `bind`.
    """
    pieces = _rendered(tree, tuple(sorted(tables.items())))
    if missing := set(pieces[1::2]) - params.keys():
        raise ValueError(f"no value for the marker :{min(missing)}")
    return "".join(
        _literal(params[piece]).sql(_DuckDB, identify=True) if number % 2 else piece
        for number, piece in enumerate(pieces)
    )


@lru_cache(maxsize=256)
def _rendered(tree: exp.Query, tables: tuple[tuple[str, str], ...]) -> tuple[str, ...]:
    """Text, the name of a marker, text, ..."""
    names = {marker.name for marker in tree.find_all(exp.Placeholder)}
    marked = bind(tree, dict(tables), {name: exp.Var(this=f"{_EDGE}{name}{_EDGE}") for name in names})
    return tuple(to_duckdb(marked).split(_EDGE))


def lineage(tree: exp.Query, schemas: Mapping[str, Mapping[str, str]]) -> dict[str, set[tuple[str, str]]]:
    """The columns of tables that each output column is made from (not those that only filter or join).

    Args:
        tree: the query of a `SqlFile`.
        schemas: table -> column -> type, for every table of the query; `dtrefs` needs none and is never a source.

    Returns:
        Output column -> {(table, column)}, all spelled as the query and the schemas spell them.

    Raises:
        ValueError: a table has no schema (its lineage would be lost silently), or a column does not resolve.
    """
    known = {DTREFS: {"dtRef": "date"}, **schemas}
    names = sorted({_name(table) for table in _sources(tree)})
    if missing := [name for name in names if not known.get(name)]:
        raise ValueError(f"no schema for {', '.join(missing)}")
    # One-part names, because SQLGlot wants all tables of a schema to have names of one depth.
    aliases = {name: f"source_{number}" for number, name in enumerate(names)}
    tables = {alias: name for name, alias in aliases.items()}
    # SQLGlot folds the case of names, as Spark does.
    spelled = {(alias, column.lower()): column for name, alias in aliases.items() for column in known[name]}
    flat = {alias: dict(known[name]) for name, alias in aliases.items()}
    markers = dict.fromkeys((marker.name for marker in tree.find_all(exp.Placeholder)), None)
    try:
        # Untrimmed: of each step the expression is asked for, not a copy of its query, which takes ten times as long.
        nodes = column_lineage(None, bind(tree, aliases, markers), flat, dialect=_Spark, copy=False, trim_selects=False)
    except SqlglotError as error:
        raise ValueError(f"lineage cannot be read: {error}") from error
    assert isinstance(nodes, dict)  # of all columns, hence a dict

    found: dict[str, set[tuple[str, str]]] = {}
    for output in output_columns(tree):
        found[output] = set()
        for node in nodes[output.lower()].walk():
            if isinstance(node.expression, exp.Table) and node.expression.name in tables:
                alias, column = node.expression.name, node.name.rpartition(".")[2].strip('`"')
                if tables[alias] != DTREFS:
                    found[output].add((tables[alias], spelled[alias, column]))
    return found


def _parse(path: Path) -> exp.Query:
    try:
        tree = parse_one(path.read_text(encoding="utf-8"), read=_Spark)
    except ParseError as error:
        raise PermanentError(f"`{path}`: no readable Spark SQL: {error}") from error
    if not isinstance(tree, exp.Query):
        raise PermanentError(f"`{path}`: expected one query, found {tree.key.upper()}; a file is one SELECT")
    return tree


def _leading_comment(text: str) -> str:
    lines = []
    for line in text.lstrip().splitlines():
        if not line.startswith("--"):
            break
        lines.append(line[2:].strip())
    return " ".join(lines)


def _column_comment(path: Path, select: exp.Expr) -> ColumnComment:
    node = select
    # A comment above an expression such as `a / b AS c` is held by what begins it, here a.
    while not node.comments and isinstance(node.this, exp.Expr):
        node = node.this
    try:
        return parse_comment(" ".join(line.strip() for line in node.comments or ()))
    except ValueError as error:
        raise PermanentError(
            f"`{path}`: the comment of column {select.alias_or_name} is not readable: {error}"
        ) from error


def _sources(tree: exp.Query) -> list[exp.Table]:
    """The tables that the query reads, without its own CTEs."""
    own = {cte.alias for cte in tree.find_all(exp.CTE)}
    return [table for table in tree.find_all(exp.Table) if table.db or table.name not in own]


def _name(table: exp.Table) -> str:
    return ".".join(part.name for part in table.parts)


def _renamed(table: exp.Table, target: exp.Table) -> exp.Table:
    """The target, under the name by which the query speaks of the table."""
    target.set("alias", table.args.get("alias") or exp.TableAlias(this=exp.to_identifier(table.name)))
    return target


def _inline_views(tree: exp.Query, layers: Path, kept: Collection[str]) -> exp.Query:
    views: dict[str, exp.Query] = {}

    def collect(query: exp.Query, within: tuple[str, ...]) -> None:
        for table in _sources(query):
            path = layers / table.catalog / f"{table.name}.sql"
            if not (table.catalog and table.name.startswith("_") and path.is_file()) or _name(table) in kept:
                continue
            name = f"{table.catalog}{table.name}"
            if name in within:
                raise PermanentError(f"`{path}`: an internal view refers to itself, by {' -> '.join(within)}")
            if name not in views:
                view = _prefixed(_parse(path), name)
                collect(view, (*within, name))
                views[name] = view  # after the views that it reads: a CTE sees only earlier ones
            table.replace(_renamed(table, exp.to_table(name)))

    collect(tree, ())
    own = tree.ctes
    tree.set("with_", None)
    for name, view in views.items():
        tree = tree.with_(name, as_=view, copy=False)
    for cte in own:
        tree = tree.with_(cte.args["alias"], as_=cte.this, copy=False)
    return tree


def _prefixed(view: exp.Query, prefix: str) -> exp.Query:
    """The view with CTEs of unique names: for Spark, SQLGlot lifts them all to the top of the query."""
    names = {cte.alias: f"{prefix}_{cte.alias}" for cte in view.ctes}
    for table in list(view.find_all(exp.Table)):
        if not table.db and table.name in names:
            table.replace(_renamed(table, exp.to_table(names[table.name])))
    for cte in view.ctes:
        cte.set("alias", exp.TableAlias(this=exp.to_identifier(names[cte.alias])))
    return view


def _literal(value: Parameter | exp.Expr) -> exp.Expr:
    if isinstance(value, datetime):
        if value.tzinfo is None:
            raise ValueError(f"a datetime parameter needs a zone: {value!r}")
        instant = value.astimezone(UTC).isoformat(sep=" ")
        return exp.cast(exp.Literal.string(instant), exp.DataType.Type.TIMESTAMPTZ)
    if isinstance(value, date):
        return exp.cast(exp.Literal.string(value.isoformat()), exp.DataType.Type.DATE)
    return exp.convert(value)


def _uncast(node: exp.Expr) -> exp.Expr:
    return node.this if isinstance(node, exp.Cast) else node
