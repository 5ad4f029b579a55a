"""The corners of the feature tables, each with its literal result."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from reference import Event, History, State
from run_sql import by_dt_ref, run, silver, utc

TABLES = [f"feature_store/fs_{name}" for name in ("geral", "pontos", "transacoes", "dia_horario")]
DAY = date(2024, 2, 1)
NOON = utc("2024-02-01T12:00:00-03:00")
NEXT = DAY + timedelta(days=1)


def features(name: str, events: list[Event], dt_ref: date, states: list[State] | None = None) -> dict[str, dict]:
    table = run(f"feature_store/fs_{name}", silver(History(events, states or [])), [dt_ref])
    return by_dt_ref(table, "idCliente").get(dt_ref, {})


@pytest.mark.parametrize("name", TABLES)
def test_before_any_data_there_is_no_row(name: str) -> None:
    assert run(name, silver(History([])), [DAY]).num_rows == 0
    assert run(name, silver(History([Event("ana", NOON, 1, ("ChatMessage",))])), [DAY]).num_rows == 0


@pytest.mark.parametrize("name", TABLES)
def test_without_dtrefs_there_is_no_row(name: str) -> None:
    assert run(name, silver(History([Event("ana", NOON, 1)])), []).num_rows == 0


@pytest.mark.parametrize("name", TABLES)
def test_no_customer_and_no_date_are_in_no_population(name: str) -> None:
    events = [Event(None, NOON, 1, ("ChatMessage",)), Event("ana", None, 1, ("ChatMessage",))]

    assert run(name, silver(History(events)), [NEXT]).num_rows == 0


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize(("days", "rows"), [(1, 1), (28, 1), (29, 0)])
def test_population_is_who_was_active_in_the_28_days_before(name: str, days: int, rows: int) -> None:
    assert run(name, silver(History([Event("ana", NOON, 1)])), [DAY + timedelta(days=days)]).num_rows == rows


def test_first_day_knows_one_day() -> None:
    assert features("geral", [Event("ana", NOON, 7)], NEXT) == {
        "ana": {"nrRecencia": 1, "nrSaldoPontos": 7, "nrIdadeBase": 1, "flEmail": None}
    }


def test_life_reaches_beyond_56_days() -> None:
    events = [Event("ana", NOON - timedelta(days=300), 100), Event("ana", NOON, -7)]

    assert features("geral", events, NEXT)["ana"]["nrSaldoPontos"] == 93
    assert features("geral", events, NEXT)["ana"]["nrIdadeBase"] == 301
    assert features("pontos", events, NEXT)["ana"]["nrQtdePontosPosVida"] == 100
    assert features("pontos", events, NEXT)["ana"]["nrQtdePontosPosD56"] is None
    assert features("transacoes", events, NEXT)["ana"]["nrQtdeTransacaoDiaVida"] == 1.0


def test_a_day_ends_at_local_midnight() -> None:
    last, first = utc("2024-02-01T23:59:59.999999-03:00"), utc("2024-02-02T00:00:00-03:00")

    row = features("transacoes", [Event("ana", last, 1), Event("ana", first, 1)], NEXT)["ana"]

    assert row["nrQtdeTransacaoD7"] == 1


def test_a_day_without_a_midnight_is_a_day() -> None:
    # 2018-11-04: clocks in Sao Paulo went from 23:59:59 at -03:00 to 01:00:00 at -02:00.
    events = [
        Event("ana", utc("2018-11-04T02:59:59+00:00"), 1),
        Event("ana", utc("2018-11-04T03:00:00+00:00"), 1),
        Event("ana", utc("2018-11-05T01:59:59+00:00"), 1),
        Event("ana", utc("2018-11-05T02:00:00+00:00"), 1),
    ]

    rows = {day: features("transacoes", events, date(2018, 11, day)) for day in (4, 5, 6)}
    hours = features("dia_horario", events, date(2018, 11, 5))["ana"]

    assert {day: row["ana"]["nrQtdeTransacaoD28"] for day, row in rows.items()} == {4: 1, 5: 3, 6: 4}
    assert (hours["nrQtdeDias"], hours["nrQtdeDiasManha"], hours["nrQtdeDiasNoite"]) == (2, 1, 2)
    assert hours["nrQtdeMinutos"] == pytest.approx((22 * 3600 + 59 * 60 + 59) / 60)


def test_hours_are_those_of_the_customer() -> None:
    times = ["2024-02-01T12:59:59-03:00", "2024-02-01T13:00:00-03:00", "2024-02-01T18:59:59-03:00"]
    events = [Event("ana", utc(time), 1) for time in times]
    events.append(Event("ana", utc("2024-01-31T19:00:00-03:00"), 1))

    row = features("dia_horario", events, NEXT)["ana"]

    assert [row[f"nrQtdeDias{part}"] for part in ("", "Manha", "Tarde", "Noite")] == [2, 1, 1, 1]
    assert row["nrPctDiasManha"] == 0.5


def test_ratios_over_nothing_are_null() -> None:
    events = [Event("ana", NOON, 0, ("R Lover",))]
    points, hours = features("pontos", events, NEXT)["ana"], features("dia_horario", events, NEXT)["ana"]

    assert points["nrQtdePontosRLover"] == 0
    assert points["nrPctPontosRLover"] is None
    assert points["nrQtdePontosDia"] == 0.0
    assert points["nrQtdePontosPosD7"] is None
    assert points["nrQtdePontosNegTransacao"] is None
    assert hours["nrQtdeMinutos"] == 0.0
    assert hours["nrQtdeTransacoesMinuto"] is None


def test_lines_of_a_cart_do_not_multiply_its_transaction() -> None:
    cart = ("ChatMessage", "ChatMessage", "R Lover", "Venda de Item: Arco", "Venda de Item: Espada")
    events = [Event("ana", NOON, -10, cart)]
    points, counts = features("pontos", events, NEXT)["ana"], features("transacoes", events, NEXT)["ana"]

    assert points["nrQtdePontosD7"] == -10
    assert points["nrQtdePontosNegD7"] == 10
    assert [points[f"nrQtdePontos{name}"] for name in ("ChatMessage", "RLover", "VendaItemRPG")] == [10, 10, 10]
    assert points["nrPctPontosChatMessage"] == 1.0
    assert counts["nrQtdeTransacaoD7"] == 1
    assert [counts[f"nrQtdTransacao{name}"] for name in ("ChatMessage", "RLover", "VendaItemRPG")] == [1, 1, 1]


def test_products_outside_of_the_list_count_in_the_totals_only() -> None:
    events = [Event("ana", NOON, 3, ("Something else",)), Event("ana", NOON, 1, ("Lista de presença",))]
    row = features("transacoes", events, NEXT)["ana"]

    assert row["nrQtdeTransacaoD28"] == 2
    assert row["nrQtdTransacaoListapresenca"] == 1
    assert row["nrPctTransacaoListapresenca"] == 0.5
    assert row["nrPctTransacaoChatMessage"] == 0.0


def test_email_is_that_at_the_end_of_the_day_before() -> None:
    changed, again = utc("2024-02-01T09:00:00-03:00"), utc("2024-02-01T21:00:00-03:00")
    states = [
        State("ana", NOON - timedelta(days=9), 0, 0, changed),
        State("ana", changed, None, 0, again),
        State("ana", again, 1, 0, utc("2024-02-02T00:00:00-03:00")),
        State("ana", utc("2024-02-02T00:00:00-03:00"), 0, 0, None),
    ]
    emails = {
        day: features("geral", [Event("ana", NOON - timedelta(days=12), 1)], day, states)["ana"]["flEmail"]
        for day in (date(2024, 1, 23), date(2024, 1, 24), DAY, NEXT, NEXT + timedelta(days=1))
    }

    assert list(emails.values()) == [None, 0, 0, 1, 0]


def test_email_of_a_deleted_customer_is_null() -> None:
    states = [State("ana", NOON - timedelta(days=9), 1, 0, NOON)]

    assert features("geral", [Event("ana", NOON, 1)], NEXT, states)["ana"]["flEmail"] is None


def test_weeks_are_iso_weeks_over_the_turn_of_the_year() -> None:
    # 2024-12-29 is the last day of week 52; 2024-12-30 and 2025-01-05 are in week 1.
    events = [Event("ana", utc(f"{day}T12:00:00-03:00"), 1) for day in ("2024-12-29", "2024-12-30", "2025-01-05")]
    row = features("dia_horario", events, date(2025, 1, 6))["ana"]

    assert row["nrQtdeLivesSemanal"] == 1.5
    assert (row["nrDiaSemana"], row["nrDiaMes"], row["nrSemanaAno"], row["nrMes"], row["nrAno"]) == (2, 6, 2, 1, 2025)
