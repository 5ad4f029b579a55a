"""What the engines do not agree on is forbidden: in every shipped .sql file, and each rule with the proof that it is one.

The shipped files themselves run on both engines in `test_lake_engines`.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, date, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest
import sql_rules as rules
from run_sql import PACKAGE
from sqlglot import exp

from upsell_assets.errors import PermanentError
from upsell_assets.lake.engines import Engine, Query
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.engines.spark import SparkEngine
from upsell_assets.lake.engines.spark_session import JAVA, Spark, java_version, spark_config
from upsell_assets.lake.sql import load_sql, parse_query
from upsell_assets.lake.tables import Lake
from upsell_assets.settings import Settings

FILES = sorted(
    path for layer in ("silver", "feature_store", "gold", "model") for path in (PACKAGE / layer).glob("*.sql")
)
SCHEMA = {
    "dtrefs": {"dtRef": "date"},
    "bronze.upsell.customers": {"idCustomer": "string", "PointsCustomer": "bigint", "flEmail": "bigint"},
    "bronze.upsell.transactions": {
        "idTransaction": "string",
        "idCustomer": "string",
        "dtTransaction": "string",
        "pointsTransaction": "bigint",
    },
    "bronze.upsell.transactions_product": {
        "idTransactionCart": "string",
        "idTransaction": "string",
        "NameProduct": "string",
        "QuantityProduct": "bigint",
    },
    "bronze.upsell._customers_changes": {
        "idCustomer": "string",
        "PointsCustomer": "bigint",
        "flEmail": "bigint",
        "_op": "string",
        "_modified_date": "timestamp",
        "_change_seq": "string",
        "_file": "string",
        "_row": "bigint",
    },
    "bronze.upsell._customers_floors": {"_modified_date": "timestamp", "_change_seq": "string"},
    "silver.upsell.transacoes": {
        "idTransacao": "string",
        "idCliente": "string",
        "dtTransacao": "timestamp",
        "nrPontosTransacao": "bigint",
    },
    "silver.upsell.transacao_produto": {
        "idTransacaoProduto": "string",
        "idTransacao": "string",
        "descNomeProduto": "string",
        "nrQuantidadeProduto": "bigint",
    },
    "silver.upsell.cliente_historico": {
        "idCliente": "string",
        "dtInicio": "timestamp",
        "flEmailCliente": "bigint",
        "nrPontosCliente": "bigint",
        "dtFim": "timestamp",
    },
    "t": {"i": "bigint", "f": "double", "s": "string", "d": "date", "at": "timestamp"},
}
ROWS = pa.table(
    {
        "i": pa.array([-7, 0, 3], pa.int64()),
        "f": pa.array([2.5, 2.7, -1.5]),
        "s": ["10", "9", "Straße\n"],
        "d": pa.array([date(2024, 1, 7)] * 3, pa.date32()),
        "at": pa.array([datetime(2024, 1, 7, 12, 0, 0, 5000, UTC)] * 3, pa.timestamp("us", "UTC")),
    }
)

DIFFERENT = [
    (rules.unguarded_divisions, "1 / i", "1 / NULLIF(i, 0)"),
    (rules.unguarded_divisions, "i % i", "i % 7"),
    (rules.decimal_divisions, "CAST(i AS DECIMAL(10, 2)) / 3", "CAST(i AS DOUBLE) / 3"),
    (rules.casts_that_round, "CAST(f AS BIGINT)", "CAST(f > 2.6 AS STRING)"),
    (rules.casts_that_round, "TRY_CAST(CONCAT('1.', s) AS BIGINT)", "CAST(i AS BIGINT)"),
    (rules.casts_to_text, "CAST(f * 10000000000 AS STRING)", "CAST(i AS STRING)"),
    (rules.casts_to_text, "CAST(at AS STRING)", "UNIX_MICROS(at)"),
    (rules.implicit_casts, "CASE WHEN i < 0 THEN s + 1 END", "CASE WHEN i < 0 THEN i + 1 END"),
    (rules.implicit_casts, "CASE WHEN i <= 0 THEN s < i END", "s < CAST(i AS STRING)"),
    (rules.substrings_before_the_first, "SUBSTRING(s, 0, 2)", "SUBSTRING(s, 1, 2)"),
    (rules.regular_expressions, "s RLIKE 'e$'", r"s RLIKE 'e\\z'"),
    (rules.regular_expressions, r"CONCAT(s, '\u000b') RLIKE '\\s\\z'", r"CONCAT(s, '\u000b') RLIKE '[ \\t]\\z'"),
    (rules.regular_expressions, "s RLIKE '1(?=0)'", "s RLIKE '10'"),
    (rules.regular_expressions, r"s RLIKE '(r)\\1'", "s RLIKE 'rr'"),
    (rules.without_order, "ROW_NUMBER() OVER (PARTITION BY d)", "ROW_NUMBER() OVER (PARTITION BY d ORDER BY i ASC)"),
    *(
        (rules.untried_functions, call, "i")
        for call in (
            *("DAYOFWEEK(d)", "WEEKDAY(d)", "EXTRACT(DAYOFWEEK FROM d)", "TRUNC(d, 'MM')", "UNIX_TIMESTAMP(at)"),
            *("DATE_FORMAT(at, 'HH:mm:ss.SSS')", "TO_TIMESTAMP('2024-1-2', 'yyyy-M-d')", "FLOOR(f)"),
            *("ROUND(0.285D, 2)", "BROUND(f)", "PMOD(i, 5)", "LN(0D)", "SQRT(-1D)", "UPPER(s)", "HASH(i)", "RAND(1)"),
            *("UUID()", "REGEXP_REPLACE(s, '(1)', '$1$1')", "PERCENTILE(f, 0.3)", "CURRENT_TIMESTAMP()"),
        )
    ),
]
"""A rule, an expression over `ROWS` that the engines do not agree on, and one that says it otherwise."""

UNORDERED = [
    (rules.untried_functions, "FIRST(i)"),
    (rules.untried_functions, "ANY_VALUE(i)"),
    (rules.untried_functions, "COLLECT_LIST(i)"),
    (rules.sums_of_fractions, "SUM(CASE WHEN i < 0 THEN 1e16D WHEN i > 0 THEN -1e16D ELSE 1D END)"),
    (rules.without_order, "(SELECT u.i FROM t AS u LIMIT 1)"),
]
"""A rule, and an expression whose value depends on the order of the rows, on either engine."""

AGREED = [
    ("i % 5", [-2, 0, 3]),
    ("i DIV 2", [-3, 0, 1]),
    ("i / 2", [-3.5, 0.0, 1.5]),
    ("CONCAT(s, CAST(NULL AS STRING)) IS NULL", [True, True, True]),
    ("GREATEST(i, CAST(NULL AS BIGINT))", [-7, 0, 3]),
    ("CAST('NaN' AS DOUBLE) = CAST('NaN' AS DOUBLE)", [True, True, True]),
    ("CAST('NaN' AS DOUBLE) > 1e300D", [True, True, True]),
]
"""What may be written, and what it gives."""


def shape(text: str) -> exp.Expr:
    return rules.typed(parse_query(f"SELECT {text} AS x FROM t"), SCHEMA)


@pytest.fixture(scope="module")
def engines(tmp_path_factory: pytest.TempPathFactory) -> Iterator[list[Engine]]:
    """Both, over an empty lake."""
    if (java_version() or 0) < JAVA:
        pytest.skip(f"needs Java {JAVA} or newer: skipped because java was not found, or is older")
    home = tmp_path_factory.mktemp("lake")
    lake = Lake.at(home)
    spark = SparkEngine(lake, Spark(spark_config(Settings(home=home)), {}, min_files=0))
    yield [EmbeddedEngine(lake), spark]
    spark.close()


def answer(engine: Engine, text: str, rows: pa.Table = ROWS) -> tuple[str, list[Any]]:
    """The column's type (whole numbers are one) and values; refused: no values."""
    try:
        found = engine.run(Query(parse_query(f"SELECT {text} AS x FROM t"), relations={"t": rows})).read_all()["x"]
    except PermanentError:
        return "refused", []
    name = "whole" if pa.types.is_integer(found.type) else str(found.type)
    return name, sorted(found.to_pylist(), key=repr)


@pytest.mark.parametrize("rule", rules.RULES, ids=lambda rule: rule.__name__)
@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_no_shipped_file_breaks_a_rule(path: Path, rule: rules.Rule) -> None:
    broken = [node.sql("spark") for node in rule(rules.typed(load_sql(path).tree, SCHEMA))]

    assert broken == [], f"{rule.__doc__} See docs/sql.md."


def test_the_functions_that_count_as_tried_are_those_of_the_shipped_files() -> None:
    used = {type(call) for path in FILES for call in rules.typed(load_sql(path).tree, SCHEMA).find_all(exp.Func)}

    assert used == rules.TRIED


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_the_rules_know_the_types_that_they_judge_by(path: Path) -> None:
    tree = rules.typed(load_sql(path).tree, SCHEMA)
    pairs = [node for node in tree.find_all(exp.Binary) if not isinstance(node, exp.Is | exp.Dot | exp.Connector)]
    judged = [side.unnest() for pair in pairs for side in (pair.this, pair.expression)]
    judged += [cast.this for cast in tree.find_all(exp.Cast, exp.TryCast) if not isinstance(cast.this, exp.Null)]

    assert [node.sql("spark") for node in judged if rules.kind(node) == "unknown"] == []


@pytest.mark.parametrize(("rule", "bad", "good"), DIFFERENT, ids=[bad for _, bad, _ in DIFFERENT])
def test_a_rule_finds_what_breaks_it_and_nothing_else(rule: rules.Rule, bad: str, good: str) -> None:
    assert list(rule(shape(bad)))
    assert list(rule(shape(good))) == []


@pytest.mark.parametrize(("rule", "bad"), UNORDERED, ids=[bad for _, bad in UNORDERED])
def test_a_rule_finds_what_depends_on_the_order_of_rows(rule: rules.Rule, bad: str) -> None:
    assert list(rule(shape(bad)))


@pytest.mark.parametrize("text", ["i FROM t GROUP BY ALL --", "i FROM t GROUP BY i GROUPING SETS ((i), ()) --"])
def test_groups_are_written_out(text: str) -> None:
    assert list(rules.grouped_as_it_comes(parse_query(f"SELECT {text}")))
    assert not list(rules.grouped_as_it_comes(parse_query("SELECT i FROM t GROUP BY GROUPING SETS ((i), ())")))


@pytest.mark.spark
@pytest.mark.parametrize(("rule", "bad", "good"), DIFFERENT, ids=[bad for _, bad, _ in DIFFERENT])
def test_the_engines_differ_over_what_a_rule_forbids(
    engines: list[Engine], rule: rules.Rule, bad: str, good: str
) -> None:
    embedded, spark = (answer(engine, bad) for engine in engines)
    assert embedded != spark, "the engines agree: is the rule still needed?"

    embedded, spark = (answer(engine, good) for engine in engines)
    assert embedded == spark
    assert embedded[0] != "refused"


@pytest.mark.spark
@pytest.mark.parametrize(("rule", "bad"), UNORDERED, ids=[bad for _, bad in UNORDERED])
def test_the_order_of_rows_decides_what_a_rule_forbids(engines: list[Engine], rule: rules.Rule, bad: str) -> None:
    orders = [ROWS, ROWS.take([2, 1, 0]), ROWS.take([1, 0, 2]), ROWS.take([0, 2, 1])]

    for engine in engines:
        found = {repr(answer(engine, bad, rows)) for rows in orders}
        assert len(found) > 1
        assert not any("refused" in one for one in found)


@pytest.mark.spark
@pytest.mark.parametrize(("text", "expected"), AGREED, ids=[text for text, _ in AGREED])
def test_the_engines_agree_over_what_docs_sql_allows(engines: list[Engine], text: str, expected: list[Any]) -> None:
    for engine in engines:
        assert answer(engine, text)[1] == sorted(expected, key=repr)
