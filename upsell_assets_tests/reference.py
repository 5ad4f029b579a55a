"""What the features, the reports and the label are, said a second time: plain loops over events, from the spec alone.

Here: one function a table, for one dtRef, written to be checked by eye and never from the SQL; and the real data,
where it lies beside the checkout. Not here: speed.
"""

from __future__ import annotations

import csv
import os
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from functools import cached_property
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

LOCAL = ZoneInfo("America/Sao_Paulo")

Row = dict[str, Any]
Keyed = dict[str, Row]

PRODUCTS: dict[str, Callable[[str], bool]] = {
    "AirflowLover": lambda name: name == "Airflow Lover",
    "ChatMessage": lambda name: name == "ChatMessage",
    "Churn10pp": lambda name: name == "Churn_10pp",
    "Churn2pp": lambda name: name == "Churn_2pp",
    "Churn5pp": lambda name: name == "Churn_5pp",
    "DailyLoot": lambda name: name == "Daily Loot",
    "ListaPresenca": lambda name: name == "Lista de presença",
    "PresencaStreak": lambda name: name == "Presença Streak",
    "RLover": lambda name: name == "R Lover",
    "ResgatarPonei": lambda name: name == "Resgatar Ponei",
    "TrocaStreamElements": lambda name: name == "Troca de Pontos StreamElements",
    "VendaItemRPG": lambda name: "Venda de Item: " in name,
}


@dataclass(frozen=True)
class Event:
    """One transaction; `at` is an instant in UTC, `products` the names of its cart's lines."""

    customer: str | None
    at: datetime | None
    points: int | None
    products: tuple[str | None, ...] = ()

    @cached_property
    def day(self) -> date | None:
        return None if self.at is None else self.at.astimezone(LOCAL).date()

    def has(self, product: str) -> bool:
        return any(PRODUCTS[product](name) for name in self.products if name is not None)


@dataclass(frozen=True)
class State:
    """What held for a customer from `start` until `end` (None: it still holds), in UTC."""

    customer: str
    start: datetime
    email: int | None
    points: int | None
    end: datetime | None


@dataclass(frozen=True)
class History:
    """All that silver knows."""

    events: list[Event]
    states: list[State] = field(default_factory=list)


def days_before(events: Iterable[Event], dt_ref: date, days: int | None) -> list[Event]:
    """Events with a local day in [dtRef - days, dtRef - 1]; all before dtRef, if days is None."""
    first = date.min if days is None else dt_ref - timedelta(days=days)
    return [event for event in events if event.day is not None and first <= event.day < dt_ref]


def population(history: History, dt_ref: date) -> dict[str, list[Event]]:
    """Customers active in D28, with all their events before dtRef."""
    active = {event.customer for event in days_before(history.events, dt_ref, 28)} - {None}
    lives: dict[str, list[Event]] = defaultdict(list)
    for event in days_before(history.events, dt_ref, None):
        if event.customer in active and event.customer is not None:
            lives[event.customer].append(event)
    return dict(lives)


def total(values: Iterable[int | None]) -> int | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def ratio(numerator: float | None, denominator: float | None) -> float | None:
    return None if numerator is None or not denominator else numerator / denominator


def fs_geral(history: History, dt_ref: date) -> Keyed:
    rows: Keyed = {}
    for customer, life in population(history, dt_ref).items():
        days = [event.day for event in life if event.day is not None]
        email = None
        for state in history.states:
            began = state.start.astimezone(LOCAL).date() < dt_ref
            ended = state.end is not None and state.end.astimezone(LOCAL).date() < dt_ref
            if state.customer == customer and began and not ended:
                email = state.email
        rows[customer] = {
            "nrRecencia": (dt_ref - max(days)).days,
            "nrSaldoPontos": total(event.points for event in life),
            "nrIdadeBase": (dt_ref - min(days)).days,
            "flEmail": email,
        }
    return rows


def earned(event: Event) -> bool:
    return event.points is not None and event.points > 0


def spent(event: Event) -> bool:
    return event.points is not None and event.points < 0


def absolute(events: Iterable[Event]) -> int | None:
    return total(abs(event.points) for event in events if event.points is not None)


def active_days(events: Iterable[Event]) -> set[date]:
    return {event.day for event in events if event.day is not None}


def fs_pontos(history: History, dt_ref: date) -> Keyed:
    rows: Keyed = {}
    for customer, life in population(history, dt_ref).items():
        row: Row = {}
        for name, days in (("D7", 7), ("D28", 28), ("D56", 56), ("Vida", None)):
            window = days_before(life, dt_ref, days)
            row[f"nrQtdePontos{name}"] = total(event.points for event in window)
            row[f"nrQtdePontosPos{name}"] = total(event.points for event in window if earned(event))
            row[f"nrQtdePontosNeg{name}"] = absolute(event for event in window if spent(event))
        d28 = days_before(life, dt_ref, 28)
        for product in PRODUCTS:
            points = absolute(event for event in d28 if event.has(product))
            row[f"nrQtdePontos{product}"] = points
            row[f"nrPctPontos{product}"] = ratio(points, absolute(d28))
        positive, negative = [e for e in d28 if earned(e)], [e for e in d28 if spent(e)]
        row["nrQtdePontosDia"] = ratio(total(e.points for e in d28), len(active_days(d28)))
        row["nrQtdePontosGeralDia"] = ratio(absolute(d28), len(active_days(d28)))
        row["nrQtdePontosPosDia"] = ratio(absolute(positive), len(active_days(positive)))
        row["nrQtdePontosNegDia"] = ratio(absolute(negative), len(active_days(negative)))
        row["nrQtdePontosTransacao"] = ratio(total(e.points for e in d28), len(d28))
        row["nrQtdePontosGeralTransacao"] = ratio(absolute(d28), len(d28))
        row["nrQtdePontosPosTransacao"] = ratio(absolute(positive), len(positive))
        row["nrQtdePontosNegTransacao"] = ratio(absolute(negative), len(negative))
        rows[customer] = row
    return rows


def fs_transacoes(history: History, dt_ref: date) -> Keyed:
    rows: Keyed = {}
    for customer, life in population(history, dt_ref).items():
        windows = {
            name: days_before(life, dt_ref, days)
            for name, days in (("D7", 7), ("D28", 28), ("D56", 56), ("Vida", None))
        }
        row: Row = {f"nrQtdeTransacao{name}": len(window) for name, window in windows.items()}
        for name, window in windows.items():
            row[f"nrQtdeTransacaoDia{name}"] = ratio(len(window), len(active_days(window)))
        for product in PRODUCTS:
            suffix = "Listapresenca" if product == "ListaPresenca" else product
            count = sum(event.has(product) for event in windows["D28"])
            row[f"nrQtdTransacao{suffix}"] = count
            row[f"nrPctTransacao{suffix}"] = ratio(count, len(windows["D28"]))
        rows[customer] = row
    return rows


def fs_dia_horario(history: History, dt_ref: date) -> Keyed:
    rows: Keyed = {}
    for customer, life in population(history, dt_ref).items():
        d28 = days_before(life, dt_ref, 28)
        moments: dict[date, list[datetime]] = defaultdict(list)
        for event in d28:
            assert event.at is not None
            assert event.day is not None
            moments[event.day].append(event.at)
        hours = {day: {at.astimezone(LOCAL).hour for at in times} for day, times in moments.items()}
        parts = {"Manha": range(13), "Tarde": range(13, 19), "Noite": range(19, 24)}
        days = {part: sum(bool(seen & set(within)) for seen in hours.values()) for part, within in parts.items()}
        weeks = len({day.isocalendar().week for day in moments})
        elapsed = sum((max(times) - min(times) for times in moments.values()), timedelta())
        minutes = elapsed / timedelta(minutes=1)
        rows[customer] = {
            "nrDiaSemana": dt_ref.isoweekday() % 7 + 1,
            "nrDiaMes": dt_ref.day,
            "nrSemanaAno": dt_ref.isocalendar().week,
            "nrMes": dt_ref.month,
            "nrAno": dt_ref.year,
            "nrQtdeDias": len(moments),
            **{f"nrQtdeDias{part}": count for part, count in days.items()},
            **{f"nrPctDias{part}": ratio(count, len(moments)) for part, count in days.items()},
            "nrQtdeMinutos": minutes,
            "nrAvgMinutosDia": ratio(minutes, len(moments)),
            "nrAvgMinutosSemana": minutes / 4,
            "nrAvgMinutosSemanaAtiva": ratio(minutes, weeks),
            "nrQtdeLivesSemanal": ratio(len(moments), weeks),
            "nrQtdePontosMinuto": ratio(total(event.points for event in d28), minutes),
            "nrQtdeTransacoesMinuto": ratio(len(d28), minutes),
            "nrQtdeMensagemMinuto": ratio(sum(event.has("ChatMessage") for event in d28), minutes),
        }
    return rows


def up_to(history: History, dt_ref: date, days: int) -> list[Event]:
    """Events with a local day in (dtRef - days, dtRef]."""
    return days_before(history.events, dt_ref + timedelta(days=1), days)


def report(events: list[Event]) -> dict[str | None, Row]:
    """Product name (None: the total) -> its row, of the events of a window."""
    groups: dict[str | None, list[Event]] = {None: events}
    for event in events:
        for name in set(event.products) - {None}:
            groups.setdefault(name, []).append(event)
    return {
        name: {
            "nrQuantidadeTrasacoes": len(group),
            "nrQuantidadeClientes": len({event.customer for event in group} - {None}),
            "nrQuantidadePontos": total(event.points for event in group),
            "nrQuantidadePontosPos": sum(event.points or 0 for event in group if earned(event)),
            "nrQuantidadePontosNeg": sum(event.points or 0 for event in group if spent(event)),
        }
        for name, group in groups.items()
    }


def daily_report(history: History, dt_ref: date) -> dict[str | None, Row]:
    return report(up_to(history, dt_ref, 1))


def monthly_report(history: History, dt_ref: date) -> dict[str | None, Row]:
    rows = report(up_to(history, dt_ref, 28))
    for row in rows.values():
        row["nrQuantidadeTransacaoCliente"] = ratio(row["nrQuantidadeTrasacoes"], row["nrQuantidadeClientes"])
    return rows


def churn_report(history: History, dt_ref: date) -> dict[None, Row]:
    new = {event.customer for event in up_to(history, dt_ref, 28)} - {None}
    old = {event.customer for event in up_to(history, dt_ref - timedelta(days=28), 28)} - {None}
    return {
        None: {
            "qtdeBaseOld": len(old),
            "qtdeBaseNewNotChurn": len(old & new),
            "nrQtdeChurn": len(old - new),
            "ChurnRate": ratio(len(old - new), len(old)),
        }
    }


def fl_churn(history: History, dt_ref: date, now: datetime) -> dict[str, int]:
    """The label: 1 = no transaction in [dtRef, dtRef + 27]; no label before the data reaches dtRef + 28."""
    seen = [event for event in history.events if event.at is not None and event.at <= now]
    newest = max((event.day for event in seen if event.day is not None), default=date.min)
    if newest < dt_ref + timedelta(days=28):
        return {}
    back = {event.customer for event in days_before(seen, dt_ref + timedelta(days=28), 28)}
    return {customer: int(customer not in back) for customer in population(History(seen), dt_ref)}


def data_folder() -> Path | None:
    """The community's dump of 2024: UPSELL_TEST_DATA, else `shared/data/points-2024` beside the checkout."""
    beside = Path(__file__).resolve().parents[2] / "shared" / "data" / "points-2024"
    folder = Path(os.environ.get("UPSELL_TEST_DATA", beside))
    return folder if (folder / "transactions.csv").is_file() else None


def read_dump(folder: Path) -> History:
    """The dump as events; its times are UTC without a zone, its customers have no history."""
    products: dict[str, list[str | None]] = defaultdict(list)
    with (folder / "transactions_product.csv").open(encoding="utf-8") as file:
        for line in csv.DictReader(file, delimiter=";"):
            products[line["idTransaction"]].append(line["NameProduct"])
    with (folder / "transactions.csv").open(encoding="utf-8") as file:
        return History(
            [
                Event(
                    line["idCustomer"],
                    datetime.fromisoformat(line["dtTransaction"]).replace(tzinfo=UTC),
                    int(line["pointsTransaction"]),
                    tuple(products[line["idTransaction"]]),
                )
                for line in csv.DictReader(file, delimiter=";")
            ]
        )
