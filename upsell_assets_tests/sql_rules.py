"""What a .sql file may not say, since the engines do not agree on it (docs/sql.md).

Here: rules that look at a parsed query whose types are known, and give what breaks them. Not here: the proof that the
engines differ (`lake/test_lake_sql_rules.py`).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, date, datetime

from sqlglot import exp
from sqlglot.dialects.spark import Spark
from sqlglot.optimizer.annotate_types import annotate_types
from sqlglot.optimizer.qualify import qualify

from upsell_assets.lake.sql import Parameter, bind, source_tables

Rule = Callable[[exp.Expr], Iterator[exp.Expr]]

TRIED = {
    *(exp.Abs, exp.And, exp.ArgMax, exp.Case, exp.Cast, exp.Coalesce, exp.Concat, exp.Count, exp.DateDiff, exp.Day),
    *(exp.Hour, exp.If, exp.Lag, exp.Lead, exp.Max, exp.Min, exp.Month, exp.Nullif, exp.Or, exp.RegexpExtract),
    *(exp.RegexpLike, exp.RowNumber, exp.StartsWith, exp.Substring, exp.Sum, exp.Trim, exp.TryCast, exp.TsOrDsAdd),
    *(exp.TsOrDsToDate, exp.UnixMicros, exp.WeekOfYear, exp.Year),
}
"""Functions that the shipped files call: the conformance suite runs each of them on both engines, over nulls and edges."""

PARAMETERS: dict[str, Parameter] = {
    "now": datetime(2024, 1, 1, tzinfo=UTC),
    "first_dtref": date(2024, 1, 1),
    "last_dtref": date(2024, 1, 2),
    "load_folder": "raw/",
    "modified_date_first": True,
}
UNLIKE = re.compile(
    r"""\$                # Java's also stands before a last line break
    | \\[dDwWsSbBGZ1-9]   # classes and edges differ in what is not ASCII, and RE2 has no back references
    | \(\?                # look-arounds, and options
    | [*+?}]\+            # possessive
    """,
    re.VERBOSE,
)


def typed(tree: exp.Query, schema: Mapping[str, Mapping[str, str]]) -> exp.Expr:
    """The query with the type of each expression, for the columns that these tables have."""
    aliases = {name: f"t{number}" for number, name in enumerate(sorted(source_tables(tree)))}
    flat = {alias: dict(schema[name]) for name, alias in aliases.items()}
    qualified = qualify(bind(tree, aliases, PARAMETERS), schema=flat, dialect=Spark)
    known = {**Spark.EXPRESSION_METADATA, exp.ArgMax: Spark.EXPRESSION_METADATA[exp.Max]}  # of MAX_BY it knows no type
    return annotate_types(qualified, schema=flat, dialect=Spark, expression_metadata=known)


def kind(node: exp.Expr) -> str:
    """What family of types an expression is of."""
    if isinstance(node, exp.Nullif):
        return kind(node.this)
    if node.is_type(*exp.DataType.TEXT_TYPES):
        return "text"
    if node.is_type(*exp.DataType.INTEGER_TYPES):
        return "whole"
    if node.is_type(*exp.DataType.REAL_TYPES):
        return "fraction"
    if node.is_type(*exp.DataType.TEMPORAL_TYPES):
        return "time"
    return "boolean" if node.is_type("boolean") else "unknown"


def untried_functions(tree: exp.Expr) -> Iterator[exp.Expr]:
    """A function that no test has seen equal on both engines; the translator may not know it at all."""
    yield from (call for call in tree.find_all(exp.Func) if type(call) not in TRIED)


def unguarded_divisions(tree: exp.Expr) -> Iterator[exp.Expr]:
    """Spark refuses to divide by zero, DuckDB gives null."""
    for division in tree.find_all(exp.Div, exp.Mod, exp.IntDiv):
        by = division.expression.unnest()
        if not (isinstance(by, exp.Nullif) or (by.is_number and by.to_py() != 0)):
            yield division


def decimal_divisions(tree: exp.Expr) -> Iterator[exp.Expr]:
    """A quotient of decimals has six digits in Spark, and is a double in DuckDB; of whole numbers both say double."""
    for division in tree.find_all(exp.Div):
        if any(side.is_type("decimal") for side in (division.this.unnest(), division.expression.unnest())):
            yield division


def casts_that_round(tree: exp.Expr) -> Iterator[exp.Expr]:
    """Of a fraction Spark cuts, DuckDB rounds; of a text DuckDB takes 1e3 and 1.7 for whole numbers."""
    for cast in tree.find_all(exp.Cast, exp.TryCast):
        if kind(cast) == "whole" and kind(cast.this) in {"fraction", "text"}:
            yield cast


def casts_to_text(tree: exp.Expr) -> Iterator[exp.Expr]:
    """Each engine writes fractions and instants its own way."""
    for cast in tree.find_all(exp.Cast, exp.TryCast):
        if kind(cast) == "text" and kind(cast.this) in {"fraction", "time"}:
            yield cast


def implicit_casts(tree: exp.Expr) -> Iterator[exp.Expr]:
    """Text beside a number or a time: Spark casts the text, DuckDB refuses or casts the other way."""
    for pair in tree.find_all(exp.Binary):
        if isinstance(pair, exp.Dot | exp.Connector):
            continue
        kinds = {kind(side.unnest()) for side in (pair.this, pair.expression)}
        if "text" in kinds and kinds & {"whole", "fraction", "time", "boolean"}:
            yield pair


def substrings_before_the_first(tree: exp.Expr) -> Iterator[exp.Expr]:
    """Position 0 is the first in Spark, and the one before it in DuckDB."""
    for call in tree.find_all(exp.Substring):
        start = call.args["start"]
        if not (start.is_number and start.to_py() >= 1):
            yield call


def regular_expressions(tree: exp.Expr) -> Iterator[exp.Expr]:
    """What Java and RE2 read differently in a pattern; a pattern is a literal, or a CONCAT of such."""
    for call in tree.find_all(exp.RegexpLike, exp.RegexpExtract):
        parts = list(call.expression.find_all(exp.Literal))
        if not parts or call.expression.find(exp.Column) or any(UNLIKE.search(part.this) for part in parts):
            yield call


def without_order(tree: exp.Expr) -> Iterator[exp.Expr]:
    """Which row is the first is nobody's promise."""
    for window in tree.find_all(exp.Window):
        if isinstance(window.this, exp.RowNumber | exp.Lag | exp.Lead) and not window.args.get("order"):
            yield window
    yield from (query for query in tree.find_all(exp.Select) if query.args.get("limit") and not query.args.get("order"))


def sums_of_fractions(tree: exp.Expr) -> Iterator[exp.Expr]:
    """What such a sum rounds depends on the order of its rows, which no engine promises."""
    for total in tree.find_all(exp.Sum, exp.Avg):
        if total.this.is_type("double", "float"):
            yield total


def grouped_as_it_comes(tree: exp.Expr) -> Iterator[exp.Expr]:
    """GROUP BY ALL, and columns before GROUPING SETS: the groups follow from more than is written there."""
    for group in tree.find_all(exp.Group):
        if group.args.get("all") or (group.args.get("grouping_sets") and group.expressions):
            yield group


RULES: tuple[Rule, ...] = (
    untried_functions,
    unguarded_divisions,
    decimal_divisions,
    casts_that_round,
    casts_to_text,
    implicit_casts,
    substrings_before_the_first,
    regular_expressions,
    without_order,
    sums_of_fractions,
    grouped_as_it_comes,
)
