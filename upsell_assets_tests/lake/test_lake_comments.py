"""The comments of columns: their grammar, where they may stand, and that those of features and reports say it all."""

from __future__ import annotations

import random
import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from reference import Event, History
from run_sql import PACKAGE, run, silver, sql_file
from sqlglot import exp

from upsell_assets.dtref_files import sql_files
from upsell_assets.errors import PermanentError
from upsell_assets.lake.comments import WINDOWS, ColumnComment, parse_comment
from upsell_assets.lake.duck import connect
from upsell_assets.lake.sql import load_sql, parse_query, to_duckdb

DAILY = [
    f"{layer}/{path.stem}"
    for layer in ("feature_store", "gold")
    for path in sorted((PACKAGE / layer).glob("[!_]*.sql"))
]
KEYS = {"dtRef", "idCliente", "descNomeProduto"}
EARNED = ColumnComment("points earned; null = none", "points", "D28", "sum of points where points > 0")


def file_of(tmp_path: Path, columns: str) -> Path:
    path = tmp_path / "gold" / "report.sql"
    path.parent.mkdir()
    path.write_text(
        f"-- A report.\nSELECT -- columns: meaning | unit | window | formula\n{columns}\nFROM dtrefs AS r\n"
    )
    return path


def test_a_comment_has_four_parts_or_a_meaning_alone() -> None:
    assert parse_comment("points earned; null = none | points | D28 | sum of points where points > 0") == EARNED
    assert parse_comment("customer, uuid") == ColumnComment("customer, uuid", "", "", "")
    assert parse_comment("") == ColumnComment("")


def test_a_description_is_one_line_of_all_parts() -> None:
    assert str(EARNED) == (
        "points earned; null = none. Unit: points. Window: D28. Formula: sum of points where points > 0"
    )
    assert str(ColumnComment("customer, uuid")) == "customer, uuid"


@pytest.mark.parametrize(
    "text",
    ["points earned | points", "points earned | points | D28", "a | b | D28 | c | d", "a | | D28 | c", "| a | D28 | c"],
)
def test_some_of_the_parts_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=re.escape(f"expected `meaning | unit | window | formula`, found `{text}`")):
        parse_comment(text)


def test_an_unknown_window_is_refused_with_those_that_there_are() -> None:
    with pytest.raises(ValueError, match="there is no window `D30`; there are dtRef, D7, D28, D56, Vida, day, 28 days"):
        parse_comment("points earned | points | D30 | sum of points")


def test_a_comment_stands_above_its_column_or_behind_its_comma(tmp_path: Path) -> None:
    path = file_of(
        tmp_path,
        """
        -- above a name
        r.a,
        -- above a ratio, on
        -- two lines
        CAST(r.b AS DOUBLE) / NULLIF(r.c, 0) AS b,
        -- above a cast
        CAST(COALESCE(SUM(r.c), 0) AS BIGINT) AS c,
        -- above a difference
        r.d - r.e AS d,
        COUNT(r.e) AS e, -- behind
        r.f,
        -- above the last
        r.g * r.h % 7 + 1 AS g""",
    )

    assert {column: said.meaning for column, said in load_sql(path).columns.items()} == {
        "a": "above a name",
        "b": "above a ratio, on two lines",
        "c": "above a cast",
        "d": "above a difference",
        "e": "behind",
        "f": "",
        "g": "above the last",
    }


def test_an_unreadable_comment_is_refused_with_its_file_and_column(tmp_path: Path) -> None:
    path = file_of(tmp_path, "-- points earned | points\nr.a AS nrPontos")

    with pytest.raises(
        PermanentError, match=r"gold/report.sql`: the comment of column nrPontos is not readable: expec"
    ):
        load_sql(path)


def test_a_daily_table_says_all_of_its_features_or_is_refused(tmp_path: Path) -> None:
    key = "-- local day\nr.dtRef,\n"
    path = file_of(tmp_path, f"{key}-- one | things | day | 1\n1 AS nrOne")
    assert [sql.name for sql in sql_files(path.parent)] == ["gold.upsell.report"]

    path.write_text(
        f"SELECT\n{key}-- one | things | day | 1\n1 AS nrOne,\n-- two\n2 AS nrTwo,\n3 AS nrThree FROM dtrefs"
    )
    with pytest.raises(PermanentError, match=r"gold/report.sql`: nothing says what nrTwo, nrThree are. Write `-- mea"):
        sql_files(path.parent)

    path.write_text("SELECT\nr.dtRef,\n-- one | things | day | 1\n1 AS nrOne FROM dtrefs AS r")
    with pytest.raises(PermanentError, match="nothing says what dtRef are"):
        sql_files(path.parent)


@pytest.mark.parametrize("name", DAILY)
def test_every_feature_and_report_says_meaning_unit_window_and_formula(name: str) -> None:
    for column, said in sql_file(name).columns.items():
        parts = [said.meaning, said.unit, said.window, said.formula]
        assert [bool(part) for part in parts] == ([True, False, False, False] if column in KEYS else [True] * 4), column


@pytest.mark.parametrize("name", DAILY)
def test_comments_agree_with_the_names_of_their_columns(name: str) -> None:
    of_table = {"feature_store": {"dtRef", "D7", "D28", "D56", "Vida"}, "gold": {"day", "28 days", "56 days"}}
    columns = sql_file(name).columns
    for column, said in columns.items():
        if column in KEYS:
            continue
        assert said.window in of_table[name.partition("/")[0]], column
        if ending := re.search(r"(D7|D28|D56|Vida)$", column):
            assert said.window == ending[0], column
        assert (said.unit == "share 0 to 1") == ("Pct" in column or column == "ChurnRate"), column
        named = set(re.findall(r"\b(?:nr|qtde)[A-Z]\w*", said.formula))
        assert named <= set(columns) - {column}, f"{column}: {said.formula}"


def test_formulas_over_other_columns_give_the_column() -> None:
    chance = random.Random(7)
    first = datetime(2024, 2, 1, tzinfo=UTC)
    products = ["ChatMessage", "R Lover", "Churn_2pp", "Venda de Item: Espada", None]
    history = History(
        [
            Event(
                customer=chance.choice(["ana", "bia", "caio", None]),
                at=first + timedelta(minutes=chance.randrange(60 * 24 * 60)),
                points=chance.choice([None, *range(-3, 6)]),
                products=tuple(chance.choices(products, k=chance.randrange(3))),
            )
            for _ in range(150)
        ]
    )
    days = [first.date() + timedelta(days=day) for day in range(1, 95, 14)]
    tried = []
    with connect() as connection:
        for name in DAILY:
            columns = sql_file(name).columns
            connection.register("rows", run(name, silver(history), days))
            for column, said in columns.items():
                if over_columns(said.formula, columns):
                    query = parse_query(f"SELECT r.{column}, {said.formula} AS formula FROM rows AS r")
                    for given, formula in connection.execute(to_duckdb(query)).fetchall():
                        assert given == (None if formula is None else pytest.approx(formula)), f"{name} {column}"
                    tried.append(column)

    assert {"nrDiaSemana", "nrPctDiasManha", "nrPctTransacaoVendaItemRPG", "nrQtdeChurn", "ChurnRate"} <= set(tried)


def over_columns(formula: str, columns: Iterable[str]) -> bool:
    """Whether a formula is an expression over columns of its own table, without words."""
    try:
        found = {column.name for column in parse_query(f"SELECT {formula}").find_all(exp.Column)}
    except PermanentError:
        return False
    return bool(found) and found <= set(columns)


def test_there_is_no_window_that_no_column_has() -> None:
    assert {said.window for name in DAILY for said in sql_file(name).columns.values()} == {*WINDOWS, ""}


def test_comments_are_no_part_of_the_code_version(tmp_path: Path) -> None:
    for layer in ("feature_store", "gold"):
        (tmp_path / layer).mkdir()
        for path in (PACKAGE / layer).glob("*.sql"):
            bare = re.sub(r"--.*", "", path.read_text(encoding="utf-8"))
            (tmp_path / layer / path.name).write_text(bare, encoding="utf-8")

    for name in DAILY:
        without = load_sql(tmp_path / f"{name}.sql")
        assert set(without.columns.values()) == {ColumnComment("")}
        assert without.code_version == sql_file(name).code_version
