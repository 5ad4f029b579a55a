"""Silver's plain tables, and how the source's dates are read."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from run_sql import run, utc

from upsell_assets.raw.files import cast_lossless


def read(*texts: str | None) -> list[datetime | None]:
    """What silver makes of these texts of dtTransaction."""
    rows = len(texts)
    bronze = pa.table(
        {
            "idTransaction": pa.array([str(number) for number in range(rows)], pa.string()),
            "idCustomer": pa.array(["ana"] * rows, pa.string()),
            "dtTransaction": pa.array(texts, pa.string()),
            "pointsTransaction": pa.array([1] * rows, pa.int64()),
        }
    )
    table = run("silver/transacoes", {"bronze.upsell.transactions": bronze}).sort_by("idTransacao")
    found = {row["idTransacao"]: row["dtTransacao"] for row in table.to_pylist()}
    return [found[str(number)] for number in range(rows)]


@pytest.mark.parametrize(
    ("text", "instant"),
    [
        ("2024-02-01 10:11:12", "2024-02-01T10:11:12+00:00"),
        ("2024-02-01 10:11:12.345", "2024-02-01T10:11:12.345+00:00"),
        ("2024-02-01T10:11:12.345678", "2024-02-01T10:11:12.345678+00:00"),
        ("2024-02-01 10:11:12.345678999", "2024-02-01T10:11:12.345678+00:00"),
        ("2024-02-01T10:11:12Z", "2024-02-01T10:11:12+00:00"),
        ("2024-02-01t10:11:12.5z", "2024-02-01T10:11:12.5+00:00"),
        ("2024-02-01 10:11:12,345", "2024-02-01T10:11:12.345+00:00"),
        ("2024-02-01 10:11:12 UTC", "2024-02-01T10:11:12+00:00"),
        ("2024-02-01 10:11:12.345 gmt", "2024-02-01T10:11:12.345+00:00"),
        ("2024-02-01 00:00:00 +0000 UTC", "2024-02-01T00:00:00+00:00"),
        ("2024-02-01 00:00:00.123456789 +0000 UTC", "2024-02-01T00:00:00.123456+00:00"),
        ("2024-02-01 00:00:00.123 -0300 -03", "2024-02-01T03:00:00.123+00:00"),
        ("2024-02-01 00:00:00 -0300 BRT", "2024-02-01T03:00:00+00:00"),
        ("2024-02-01T10:11:12+00:00", "2024-02-01T10:11:12+00:00"),
        ("2024-02-01T23:11:12-0300", "2024-02-02T02:11:12+00:00"),
        ("2024-02-01 01:11:12+05:30", "2024-01-31T19:41:12+00:00"),
        ("2024-02-01 10:11:12+14:00", "2024-01-31T20:11:12+00:00"),
        ("2024-02-01 10:11:12+00", "2024-02-01T10:11:12+00:00"),
        ("2024-02-01 10:11", "2024-02-01T10:11:00+00:00"),
        ("2024-02-01", "2024-02-01T00:00:00+00:00"),
        ("  2024-02-01 10:11:12  ", "2024-02-01T10:11:12+00:00"),
        ("2024-02-01 10:11:12\n", "2024-02-01T10:11:12+00:00"),
        ("2024-02-29 00:00:00", "2024-02-29T00:00:00+00:00"),
    ],
)
def test_iso_dates_become_the_instant(text: str, instant: str) -> None:
    assert read(text) == [utc(instant)]


@pytest.mark.parametrize(
    "text",
    [
        None,
        "",
        "0000-00-00",
        "0000-00-00 00:00:00",
        "0000-00-00 00:00:00.000",
        "0000-00-00 00:00:00 +0000 UTC",
        "2024-00-00",
        "2024-02-00 00:00:00",
        "2023-02-29 00:00:00",
        "2024-13-01 00:00:00",
        "2024-02-01 24:00:00",
        "2024-02-01 23:59:60",
        "2024-02-01 10:11:12 +2500",
        "2024-02-01 10:11:12+15:00",
        "2024-2-1 10:11:12",
        "01/02/2024 10:11:12",
        "20240201",
        "1706745600",
        "yesterday",
        "2024-02-01 10:11:12; DROP TABLE x",
        "2024-02-01Z",
        "infinity",
        "epoch",
    ],
)
def test_what_is_no_date_becomes_null(text: str | None) -> None:
    assert read(text) == [None]


@settings(max_examples=30, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.datetimes(datetime(1900, 1, 1), datetime(2100, 1, 1)),  # noqa: DTZ001
            st.integers(-14 * 60, 14 * 60),
            st.sampled_from(["T", " "]),
            st.sampled_from(["", " "]),
            st.booleans(),
        ),
        min_size=1,
        max_size=20,
    )
)
def test_any_instant_is_read_back(moments: list[tuple[datetime, int, str, str, bool]]) -> None:
    texts = []
    for moment, minutes, separator, blank, colon in moments:
        sign, (hours, rest) = "-" if minutes < 0 else "+", divmod(abs(minutes), 60)
        texts.append(f"{moment.isoformat(separator)}{blank}{sign}{hours:02}{':' if colon else ''}{rest:02}")

    assert read(*texts) == [m.replace(tzinfo=UTC) - timedelta(minutes=offset) for m, offset, *_ in moments]


@pytest.mark.parametrize(
    "kind",
    [
        pa.timestamp("s"),
        pa.timestamp("ms"),
        pa.timestamp("us", tz="UTC"),
        pa.timestamp("ns"),
        pa.timestamp("us", tz="America/Sao_Paulo"),
    ],
)
def test_a_timestamp_of_a_raw_file_is_read_from_the_text_that_bronze_keeps_of_it(kind: pa.DataType) -> None:
    moments = [utc("2024-02-01T10:11:12+00:00"), utc("2024-02-29T23:59:59+00:00")]
    column = pa.chunked_array([pa.array(moments, pa.timestamp("us", tz="UTC")).cast(kind)])

    assert read(*cast_lossless(column, pa.string(), "dtTransaction").to_pylist()) == moments


def test_an_unreadable_date_keeps_its_row() -> None:
    assert read("0000-00-00", "2024-02-01") == [None, utc("2024-02-01T00:00:00+00:00")]


def test_customers_and_lines_are_renamed() -> None:
    customers = pa.table({"idCustomer": ["ana"], "PointsCustomer": [7], "flEmail": pa.array([None], pa.int64())})
    lines = pa.table(
        {"idTransactionCart": ["l"], "idTransaction": ["t"], "NameProduct": ["ChatMessage"], "QuantityProduct": [2]}
    )

    assert run("silver/cliente", {"bronze.upsell.customers": customers}).to_pylist() == [
        {"idCliente": "ana", "nrPontosCliente": 7, "flEmailCliente": None}
    ]
    assert run("silver/transacao_produto", {"bronze.upsell.transactions_product": lines}).to_pylist() == [
        {"idTransacaoProduto": "l", "idTransacao": "t", "descNomeProduto": "ChatMessage", "nrQuantidadeProduto": 2}
    ]


def test_products_are_distinct_and_named() -> None:
    names = ["ChatMessage", "R Lover", "ChatMessage", None, "chatmessage"]
    lines = pa.table({"descNomeProduto": pa.array(names, pa.string())})

    products = run("silver/produtos", {"silver.upsell.transacao_produto": lines})

    assert sorted(products["descProduto"].to_pylist()) == ["ChatMessage", "R Lover", "chatmessage"]
