"""SQL files: what is read from them, what is bound into them, and what DuckDB makes of the translation."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import duckdb
import pyarrow as pa
import pytest
from run_sql import PACKAGE, sql_file, utc
from sqlglot import exp, parse_one

from upsell_assets.errors import PermanentError
from upsell_assets.lake.comments import ColumnComment
from upsell_assets.lake.sql import Parameter, SqlFile, bind, lineage, load_sql, output_columns, to_duckdb, to_spark

FILES = sorted(path for layer in ("silver", "feature_store", "gold") for path in (PACKAGE / layer).glob("*.sql"))
TABLES = {
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
}
NOW = datetime(2024, 2, 1, tzinfo=UTC)

Write = Callable[..., SqlFile]
Calculate = Callable[..., Any]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    """Writes `gold/<name>.sql` and loads it."""

    def written(text: str, name: str = "report") -> SqlFile:
        path = tmp_path / "gold" / f"{name}.sql"
        path.parent.mkdir(exist_ok=True)
        path.write_text(text, encoding="utf-8")
        return load_sql(path)

    return written


@pytest.fixture
def calculate(write: Write) -> Calculate:
    """What DuckDB gives for a Spark expression, over `rows` (a table named `t`) if any are given."""

    def calculated(expression: str, rows: dict[str, Any] | None = None, **params: Parameter) -> Any:
        query = write(f"SELECT {expression} AS x FROM silver.upsell.t AS t")
        with duckdb.connect() as connection:
            connection.execute("SET TimeZone = 'UTC'")
            connection.register("t", pa.table(rows or {"nothing": [0]}))
            text = to_duckdb(bind(query.tree, {"silver.upsell.t": "t"}, params))
            values = connection.execute(text).to_arrow_table()["x"].to_pylist()
        return values if rows else values[0]

    return calculated


def test_a_file_says_what_it_is(write: Write) -> None:
    query = write(
        """-- Points of a day;
        -- second line of it.
        """.replace("        ", "")
        + """SELECT
            d.dtRef, -- local day
            SUM(t.nrPontosTransacao) AS nrPontos -- net points
        FROM dtrefs AS d
        INNER JOIN silver.upsell.transacoes AS t ON t.dtTransacao < :now
        GROUP BY d.dtRef
        """
    )

    assert query.name == "gold.upsell.report"
    assert query.description == "Points of a day; second line of it."
    assert query.columns == {"dtRef": ColumnComment("local day"), "nrPontos": ColumnComment("net points")}
    assert query.tables == {"dtrefs", "silver.upsell.transacoes"}
    assert query.parameters == {"now"}


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_every_shipped_file_says_what_it_and_its_columns_are(path: Path) -> None:
    query = load_sql(path)

    assert query.description
    assert [column for column, comment in query.columns.items() if not comment.meaning] == []


def test_what_a_query_says_within_an_expression_is_not_said_of_the_column() -> None:
    said = str(sql_file("silver/transacoes").columns["dtTransacao"])

    assert said == "time of the transaction, UTC; null where the source's text is no date"


def test_internal_views_are_inlined_and_their_tables_are_the_query_s(write: Write) -> None:
    write("SELECT t.idCliente, t.nrPontosTransacao AS p FROM silver.upsell.transacoes AS t", "_moved")
    write("SELECT _moved.idCliente, SUM(_moved.p) AS p FROM gold.upsell._moved GROUP BY _moved.idCliente", "_summed")
    query = write("WITH a AS (SELECT s.p FROM gold.upsell._summed AS s) SELECT CAST(SUM(a.p) AS BIGINT) AS p FROM a")
    rows = pa.table({"idCliente": ["ana", "bia"], "nrPontosTransacao": [1, 2]})

    assert query.tables == {"silver.upsell.transacoes"}
    with duckdb.connect() as connection:
        connection.register("t", rows)
        assert connection.execute(to_duckdb(bind(query.tree, {"silver.upsell.transacoes": "t"}, {}))).fetchall() == [
            (3,)
        ]


def test_a_view_and_its_reader_may_name_their_ctes_alike(write: Write) -> None:
    write("WITH a AS (SELECT t.n FROM silver.upsell.t AS t) SELECT a.n + 1 AS n FROM a", "_v")
    tree = write("WITH a AS (SELECT v.n * 10 AS n FROM gold.upsell._v AS v) SELECT a.n FROM a").tree
    rows = pa.table({"n": [1]})
    names = [cte.alias for cte in parse_one(to_spark(tree), read="spark").find_all(exp.CTE)]

    assert len(names) == len(set(names)) == 3
    with duckdb.connect() as connection:
        connection.register("t", rows)
        assert connection.execute(to_duckdb(bind(tree, {"silver.upsell.t": "t"}, {}))).fetchall() == [(20,)]


def test_an_internal_table_without_a_file_stays_a_table(write: Write) -> None:
    assert write("SELECT c.idCustomer FROM bronze.upsell._customers_changes AS c").tables == {
        "bronze.upsell._customers_changes"
    }


def test_a_view_that_reads_itself_is_refused(write: Write) -> None:
    write("SELECT 1 AS a", "_a")
    write("SELECT a.a FROM gold.upsell._a AS a", "_b")
    with pytest.raises(PermanentError, match=r"an internal view refers to itself, by gold_b -> gold_a"):
        write("SELECT b.a FROM gold.upsell._b AS b", "_a")


@pytest.mark.parametrize(
    ("text", "message"),
    [("SELECT a FROM", "no readable Spark SQL"), ("DELETE FROM x", "expected one query, found DELETE")],
)
def test_what_is_no_query_is_refused_with_its_path(write: Write, text: str, message: str) -> None:
    with pytest.raises(PermanentError, match=f"report.sql`: {message}"):
        write(text)


def test_code_version_follows_the_query_and_its_views_but_not_their_comments(write: Write) -> None:
    write("SELECT t.idCliente FROM silver.upsell.transacoes AS t", "_v")
    text = "SELECT v.idCliente FROM gold.upsell._v AS v"
    first = write(text).code_version

    assert write(f"-- A comment.\n{text} -- another\n").code_version == first
    assert write(text.replace("FROM", "\n  from")).code_version == first
    assert write(text.replace("v.idCliente", "v.idCliente AS c")).code_version != first

    write("SELECT t.idCliente FROM silver.upsell.transacoes AS t WHERE t.idCliente <> ''", "_v")
    assert write(text).code_version != first


def test_binding_leaves_the_file_as_it_was(write: Write) -> None:
    query = write("SELECT t.a FROM silver.upsell.t AS t WHERE t.b < :now")
    before = query.tree.sql()

    bind(query.tree, {"silver.upsell.t": "x"}, {"now": NOW})

    assert query.tree.sql() == before


def test_names_are_bound_as_the_engine_spells_them_and_quoted(write: Write) -> None:
    tree = write("SELECT t.a, u.a AS b FROM silver.upsell.t INNER JOIN silver.upsell.u AS u ON u.a = t.a").tree

    bound = bind(tree, {"silver.upsell.t": 'main."odd name"', "silver.upsell.u": "u_7"}, {})

    assert '"main"."odd name" AS "t"' in to_duckdb(bound)
    assert '"u_7" AS "u"' in to_duckdb(bound)
    assert "`main`.`odd name` AS `t`" in to_spark(bound)


@pytest.mark.parametrize(
    "value",
    [True, 7, -7, 0.5, "it's", date(2024, 2, 29), datetime(2024, 2, 1, 1, 2, 3, 456789, tzinfo=UTC), None],
    ids=repr,
)
def test_markers_become_literals_of_their_type(calculate: Calculate, value: Parameter) -> None:
    found = calculate(":value", value=value)

    assert found == (pytest.approx(0.5) if value == 0.5 else value)
    assert isinstance(value, float) or type(found) is type(value)


def test_a_zone_is_part_of_a_datetime_parameter(calculate: Calculate) -> None:
    assert calculate(":now", now=datetime(2024, 2, 1, 12, tzinfo=ZoneInfo("America/Sao_Paulo"))) == utc(
        "2024-02-01T15:00:00+00:00"
    )
    with pytest.raises(ValueError, match="needs a zone"):
        calculate(":now", now=datetime(2024, 2, 1))  # noqa: DTZ001


def test_a_marker_without_a_value_is_refused(calculate: Calculate) -> None:
    with pytest.raises(ValueError, match="no value for the marker :now"):
        calculate(":now")


def test_local_time_is_that_of_the_zone_through_daylight_saving(calculate: Calculate) -> None:
    zone = ZoneInfo("America/Sao_Paulo")
    # Every half hour from before the last summer time began to after it ended, and some years around.
    instants = [datetime(2018, 10, 20, tzinfo=UTC) + timedelta(minutes=30 * n) for n in range(48 * 130)]
    instants += [datetime(year, month, 15, 2, 30, tzinfo=UTC) for year in range(1990, 2030) for month in range(1, 13)]
    local = [instant.astimezone(zone) for instant in instants]
    rows = {"at": pa.array(instants, pa.timestamp("us", tz="UTC"))}

    found = calculate("FROM_UTC_TIMESTAMP(t.at, 'America/Sao_Paulo')", rows)
    days = calculate("CAST(FROM_UTC_TIMESTAMP(t.at, 'America/Sao_Paulo') AS DATE)", rows)
    hours = calculate("HOUR(FROM_UTC_TIMESTAMP(t.at, 'America/Sao_Paulo'))", rows)

    assert found == [moment.replace(tzinfo=None) for moment in local]
    assert days == [moment.date() for moment in local]
    assert hours == [moment.hour for moment in local]


def test_iso_weeks_and_days_of_the_week_are_the_calendar_s(calculate: Calculate) -> None:
    days = [date(2019, 12, 20) + timedelta(days=n) for n in range(800)]
    rows = {"d": pa.array(days, pa.date32())}

    assert calculate("WEEKOFYEAR(t.d)", rows) == [day.isocalendar().week for day in days]
    assert calculate("DATEDIFF(t.d, DATE'1970-01-04') % 7 + 1", rows) == [day.isoweekday() % 7 + 1 for day in days]
    assert calculate("DATE_SUB(t.d, 28)", rows) == [day - timedelta(days=28) for day in days]
    assert calculate("DATE_ADD(t.d, 1)", rows) == [day + timedelta(days=1) for day in days]


def test_a_failed_cast_is_an_error_as_in_spark(calculate: Calculate) -> None:
    assert calculate("TRY_CAST('x' AS BIGINT)") is None
    with pytest.raises(duckdb.ConversionException):
        calculate("CAST('x' AS BIGINT)")


def test_max_by_may_return_the_null_at_the_maximum(calculate: Calculate) -> None:
    rows = {"v": pa.array([1, None], pa.int64()), "k": pa.array([1, 2], pa.int64())}

    assert calculate("MAX_BY(t.v, t.k)", rows) == [None]
    assert calculate("MIN_BY(t.v, t.k)", rows) == [1]


def test_nulls_sort_first_as_in_spark(calculate: Calculate) -> None:
    rows = {"v": pa.array([2, None, 1], pa.int64())}

    assert calculate("ROW_NUMBER() OVER (ORDER BY t.v) * 10 + COALESCE(t.v, 0)", rows) == [10, 21, 32]


def test_lineage_reaches_through_views_and_keeps_the_spelling(write: Write) -> None:
    write("SELECT t.idCliente, SUM(t.nrPontosTransacao) AS p FROM silver.upsell.transacoes AS t GROUP BY 1", "_v")
    query = write(
        "SELECT d.dtRef, v.idCliente, v.p AS nrPontos, COUNT(*) AS nrLinhas, UPPER(p.DESCNOMEPRODUTO) AS descNome"
        " FROM dtrefs AS d CROSS JOIN gold.upsell._v AS v CROSS JOIN silver.upsell.transacao_produto AS p"
        " WHERE p.idTransacao <> :marker GROUP BY 1, 2, 3, 5"
    )

    assert lineage(query.tree, TABLES) == {
        "dtRef": set(),
        "idCliente": {("silver.upsell.transacoes", "idCliente")},
        "nrPontos": {("silver.upsell.transacoes", "nrPontosTransacao")},
        "nrLinhas": set(),
        "descNome": {("silver.upsell.transacao_produto", "descNomeProduto")},
    }
    assert output_columns(query.tree) == ["dtRef", "idCliente", "nrPontos", "nrLinhas", "descNome"]


def test_lineage_of_a_shipped_feature() -> None:
    history = dict.fromkeys(("idCliente", "dtInicio", "flEmailCliente", "nrPontosCliente", "dtFim"), "string")
    schemas = {**TABLES, "silver.upsell.cliente_historico": history}

    found = lineage(sql_file("feature_store/fs_geral").tree, schemas)

    assert found["nrSaldoPontos"] >= {("silver.upsell.transacoes", "nrPontosTransacao")}
    assert found["flEmail"] == {("silver.upsell.cliente_historico", "flEmailCliente")}
    assert all(lineage(sql_file("feature_store/fs_pontos").tree, schemas)[c] for c in ("nrQtdePontosD7", "idCliente"))


def test_lineage_without_a_schema_is_refused(write: Write) -> None:
    query = write("SELECT t.a FROM silver.upsell.t AS t")

    with pytest.raises(ValueError, match=r"no schema for silver\.upsell\.t"):
        lineage(query.tree, {"silver.upsell.t": {}})
    with pytest.raises(ValueError, match="lineage"):
        lineage(query.tree, {"silver.upsell.t": {"b": "bigint"}})
