"""What the features, the reports and the label are, said a second time: plain loops over events, from the spec alone.

Here: one function a table, for one dtRef, written to be checked by eye and never from the SQL; and the real data,
where it lies beside the checkout. Speed only so far that every day of it can be compared: days are looked up, never
computed twice, and of each window the rules below see plain lists of events.
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

    @cached_property
    def known_products(self) -> list[str]:
        return [product for product, is_it in PRODUCTS.items() if any(is_it(name) for name in self.products if name)]


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

    @cached_property
    def by_day(self) -> dict[date, list[Event]]:
        """Local day -> its events, days in order; an event without a readable date is on none."""
        days: dict[date, list[Event]] = defaultdict(list)
        for event in self.events:
            if event.day is not None:
                days[event.day].append(event)
        return {day: days[day] for day in sorted(days)}

    @cached_property
    def states_by_customer(self) -> dict[str, list[State]]:
        states: dict[str, list[State]] = defaultdict(list)
        for state in self.states:
            states[state.customer].append(state)
        return dict(states)

    def days_before(self, dt_ref: date, days: int | None) -> list[Event]:
        """Events with a local day in [dtRef - days, dtRef - 1]; all before dtRef, if days is None."""
        first = date.min if days is None else dt_ref - timedelta(days=days)
        return [event for day, events in self.by_day.items() if first <= day < dt_ref for event in events]


def days_before(events: Iterable[Event], dt_ref: date, days: int) -> list[Event]:
    """Of the events before dtRef those with a local day in [dtRef - days, dtRef - 1]."""
    return [event for event in events if event.day is not None and dt_ref - timedelta(days=days) <= event.day < dt_ref]


def windows(life: list[Event], dt_ref: date) -> dict[str, list[Event]]:
    """Of all events before dtRef those of each window."""
    return {f"D{days}": days_before(life, dt_ref, days) for days in (7, 28, 56)} | {"Vida": life}


def population(history: History, dt_ref: date) -> dict[str, list[Event]]:
    """Customers active in D28, with all their events before dtRef."""
    active = {event.customer for event in history.days_before(dt_ref, 28)} - {None}
    lives: dict[str, list[Event]] = defaultdict(list)
    for event in history.days_before(dt_ref, None):
        if event.customer in active and event.customer is not None:
            lives[event.customer].append(event)
    return dict(lives)


def by_product(events: Iterable[Event]) -> dict[str, list[Event]]:
    """Product of the list -> the events whose cart has it."""
    found: dict[str, list[Event]] = {product: [] for product in PRODUCTS}
    for event in events:
        for product in event.known_products:
            found[product].append(event)
    return found


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
        for state in history.states_by_customer.get(customer, []):
            began = state.start.astimezone(LOCAL).date() < dt_ref
            ended = state.end is not None and state.end.astimezone(LOCAL).date() < dt_ref
            if began and not ended:
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
        for name, window in windows(life, dt_ref).items():
            row[f"nrQtdePontos{name}"] = total(event.points for event in window)
            row[f"nrQtdePontosPos{name}"] = total(event.points for event in window if earned(event))
            row[f"nrQtdePontosNeg{name}"] = absolute(event for event in window if spent(event))
        d28 = days_before(life, dt_ref, 28)
        moved = absolute(d28)
        for product, having in by_product(d28).items():
            points = absolute(having)
            row[f"nrQtdePontos{product}"] = points
            row[f"nrPctPontos{product}"] = ratio(points, moved)
        positive, negative = [e for e in d28 if earned(e)], [e for e in d28 if spent(e)]
        row["nrQtdePontosDia"] = ratio(total(e.points for e in d28), len(active_days(d28)))
        row["nrQtdePontosGeralDia"] = ratio(moved, len(active_days(d28)))
        row["nrQtdePontosPosDia"] = ratio(absolute(positive), len(active_days(positive)))
        row["nrQtdePontosNegDia"] = ratio(absolute(negative), len(active_days(negative)))
        row["nrQtdePontosTransacao"] = ratio(total(e.points for e in d28), len(d28))
        row["nrQtdePontosGeralTransacao"] = ratio(moved, len(d28))
        row["nrQtdePontosPosTransacao"] = ratio(absolute(positive), len(positive))
        row["nrQtdePontosNegTransacao"] = ratio(absolute(negative), len(negative))
        rows[customer] = row
    return rows


def fs_transacoes(history: History, dt_ref: date) -> Keyed:
    rows: Keyed = {}
    for customer, life in population(history, dt_ref).items():
        of = windows(life, dt_ref)
        row: Row = {f"nrQtdeTransacao{name}": len(window) for name, window in of.items()}
        for name, window in of.items():
            row[f"nrQtdeTransacaoDia{name}"] = ratio(len(window), len(active_days(window)))
        for product, having in by_product(of["D28"]).items():
            suffix = "Listapresenca" if product == "ListaPresenca" else product
            row[f"nrQtdTransacao{suffix}"] = len(having)
            row[f"nrPctTransacao{suffix}"] = ratio(len(having), len(of["D28"]))
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
            "nrQtdeMensagemMinuto": ratio(len(by_product(d28)["ChatMessage"]), minutes),
        }
    return rows


def up_to(history: History, dt_ref: date, days: int) -> list[Event]:
    """Events with a local day in (dtRef - days, dtRef]."""
    return history.days_before(dt_ref + timedelta(days=1), days)


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
    known = History(seen)
    back = {event.customer for event in known.days_before(dt_ref + timedelta(days=28), 28)}
    return {customer: int(customer not in back) for customer in population(known, dt_ref)}


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
