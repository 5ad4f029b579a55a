"""How the points system's customers behave: who comes, when, and what they do, drawn as arrays.

Here: the shape of the real data of 2024 (heavy tail, one customer with a fifth of all rows, streams on weekdays,
people who fade before they leave), which the tests assert. Not here: ids, tables and the database (`simulator`).
"""

from __future__ import annotations

import math
from datetime import datetime, time, timedelta
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from upsell_assets.settings import LOCAL_ZONE
from upsell_assets.source.products import (
    ATTENDANCE,
    ATTENDANCE_POINTS,
    CHAT_MESSAGE,
    CHAT_POINTS,
    ITEM_WEIGHT,
    ITEMS,
    PRODUCTS,
)

Floats = NDArray[np.float64]
Ints = NDArray[np.int64]

# Measured: share of the busiest customer in all rows, and of visits that sign the attendance list.
_BOT_SHARE = 0.195
_ATTENDANCE_RATE = 0.88
_EXTRA_RATE = 0.33  # visits with a product beside chat and attendance
_WEEKDAY_PULL = (1.15, 1.0, 0.8, 0.9, 1.1)  # Monday first
_WEEKEND = (5, 6)  # no streams
_MORNING = (time(8, 52), timedelta(minutes=165))
_EVENING = (time(19, 0), timedelta(minutes=185))
_EVENING_DAYS = 0.55  # share of weekdays with a second stream
_GAP_SECONDS, _GAP_SPREAD = 96.0, 1.3  # median and log-normal spread between two rows of a visit
_LAST_HOUR = 3600.0

# Codes of an event's product: chat, attendance, then PRODUCTS, then a sale of items.
_NAMES = (CHAT_MESSAGE, ATTENDANCE, *(product.name for product in PRODUCTS))
_POINTS = np.array([CHAT_POINTS, ATTENDANCE_POINTS, *(product.points for product in PRODUCTS), 0])
_CHAT, _ATTENDANCE, _SALE = 0, 1, len(_NAMES)
_EXTRA_WEIGHTS = np.array([*(product.weight for product in PRODUCTS), ITEM_WEIGHT])
_ITEM_WEIGHTS = np.array([item.weight for item in ITEMS])
_ITEM_POINTS = np.array([item.points for item in ITEMS])


class Calendar(NamedTuple):
    """One entry a local day; instants are seconds since the epoch, UTC."""

    begins: float
    ends: float
    weekdays: list[int]
    streams: list[list[tuple[float, float]]]  # opening and closing of each


class People(NamedTuple):
    """One entry a person; days count from the first simulated one."""

    joined: Ints
    left: Ints
    attendance: Floats  # probability to come on a day with the ordinary pull
    chat: Floats  # messages in an ordinary visit


class Visits(NamedTuple):
    """One entry a visit; instants are seconds since the epoch, UTC."""

    person: Ints
    arrives: Floats
    closes: Floats
    chat: Floats


class Events(NamedTuple):
    """One entry a transaction; instants are milliseconds since the epoch, UTC."""

    person: Ints
    instant: Ints
    product: Ints


class Lines(NamedTuple):
    """One entry a product line, in the order of the events; points are those beside the product's own."""

    event: Ints
    names: list[str]
    quantity: Ints
    points: Ints


class History(NamedTuple):
    """All that happened. Persons are numbered: the customers, then those without a row, of whom the last is the bot."""

    joined: Ints  # by person but the bot: the day, counted from the first simulated one
    events: Events
    points: Ints  # by event
    lines: Lines


def draw_history(rng: np.random.Generator, customers: int, days: int, until: datetime) -> History:
    """Draw `days` local days, of which the last is that of `until`, in the order of time.

    Two in a hundred, and the bot, are strangers: they come, but are not among the customers.
    """
    calendar = _calendar(rng, days, until)
    people = _people(rng, customers, customers // 50, calendar)
    events = _events(rng, _visits(rng, people, calendar))
    events = _afforded(_in_order(_with_bot(rng, events, len(people.joined), calendar), calendar))
    lines = _lines(rng, events.product)
    item_points = np.bincount(lines.event, lines.points, len(events.product)).astype(np.int64)
    return History(people.joined, events, _POINTS[events.product] + item_points, lines)


def _calendar(rng: np.random.Generator, days: int, until: datetime) -> Calendar:
    last = until.astimezone(LOCAL_ZONE).date()
    dates = [last - timedelta(days=age) for age in range(days - 1, -1, -1)]
    streams = []
    for day, twice in zip(dates, (rng.random(days) < _EVENING_DAYS).tolist(), strict=True):
        held = [] if day.weekday() in _WEEKEND else [_MORNING, _EVENING] if twice else [_MORNING]
        opens = [datetime.combine(day, clock, LOCAL_ZONE).timestamp() for clock, _ in held]
        streams.append([(o, o + length.total_seconds()) for o, (_, length) in zip(opens, held, strict=True)])
    begins = datetime.combine(dates[0], time.min, LOCAL_ZONE).timestamp()
    return Calendar(begins, until.timestamp(), [day.weekday() for day in dates], streams)


def _people(rng: np.random.Generator, customers: int, strangers: int, calendar: Calendar) -> People:
    """Half come for days only, the others for weeks or months; some came before the first day."""
    count = customers + strangers
    with_stream = np.flatnonzero([bool(held) for held in calendar.streams])
    joined = rng.choice(with_stream, count) if len(with_stream) else np.zeros(count, np.int64)
    early = rng.random(count) < 0.15
    joined = np.where(early, -rng.integers(0, 1 + len(calendar.streams) // 3, count), joined)
    passing = rng.random(count) < 0.5
    passing[customers:] = True
    stay = np.where(passing, rng.exponential(10, count), rng.gamma(1.2, 110, count))
    attendance = np.where(passing, rng.beta(1.2, 4.0, count), rng.beta(0.7, 2.2, count))
    chat = np.exp(rng.normal(0.95, 0.8, count)) * (0.4 + 2.2 * attendance)
    return People(joined, joined + 1 + stay.astype(np.int64), attendance, chat)


def _visits(rng: np.random.Generator, people: People, calendar: Calendar) -> Visits:
    parts = []
    for number, (weekday, held) in enumerate(zip(calendar.weekdays, calendar.streams, strict=True)):
        if not held:
            continue
        pull = _WEEKDAY_PULL[weekday] * math.exp(rng.normal(0, 0.25))
        # In the last third of a stay, people come less and say less.
        fade = np.clip((people.left - number) / np.maximum(1, (people.left - people.joined) / 3), 0.0, 1.0)
        present = (people.joined <= number) & (number < people.left)
        comes = present & (rng.random(len(fade)) < people.attendance * pull * fade)
        person = np.flatnonzero(comes | (people.joined == number))
        second = (rng.random(len(person)) < 0.35) if len(held) > 1 else np.zeros(len(person), bool)
        opens, closes = (np.where(second, held[-1][edge], held[0][edge]) for edge in (0, 1))
        late = np.minimum(rng.exponential(0.25, len(person)), 0.95)
        parts.append(
            Visits(person, opens + late * (closes - opens), closes, people.chat[person] * (0.5 + fade[person] / 2))
        )
    parts.append(_last_hour(rng, people, parts[-10:], calendar.ends))
    return Visits(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _last_hour(rng: np.random.Generator, people: People, recent: list[Visits], end: float) -> Visits:
    """Some who came lately are there when the history ends, whatever the hour."""
    known = np.unique(np.concatenate([visits.person for visits in recent])) if recent else np.arange(len(people.chat))
    person = rng.permutation(known)[: 1 + len(known) // 40]
    arrives = end - rng.uniform(0.1, 1.0, len(person)) * _LAST_HOUR
    return Visits(person, arrives, np.full(len(person), end), people.chat[person])


def _events(rng: np.random.Generator, visits: Visits) -> Events:
    """The rows of each visit: attendance first, chat between, the other product last."""
    count = len(visits.person)
    attends = rng.random(count) < _ATTENDANCE_RATE
    extra = rng.random(count) < _EXTRA_RATE
    chat = rng.poisson(visits.chat * np.exp(rng.normal(0, 0.9, count)))
    rows = np.maximum(1, attends + chat + extra)

    visit = np.repeat(np.arange(count), rows)
    first = np.concatenate([[0], np.cumsum(rows)[:-1]])
    gaps = _GAP_SECONDS * np.exp(rng.normal(0, _GAP_SPREAD, len(visit)))
    gaps[first] = 0.0
    elapsed = np.cumsum(gaps)
    elapsed -= elapsed[first][visit]
    length = elapsed[first + rows - 1]
    # Who has much to say says it faster: a visit ends before its stream does.
    time_left = (visits.closes - visits.arrives) * rng.uniform(0.5, 1.0, count)
    pace = np.minimum(1.0, time_left / np.maximum(length, 1.0))

    product = np.full(len(visit), _CHAT)
    product[first[attends]] = _ATTENDANCE
    asked = rng.choice(len(_EXTRA_WEIGHTS), int(extra.sum()), p=_EXTRA_WEIGHTS / _EXTRA_WEIGHTS.sum())
    product[(first + rows - 1)[extra]] = asked + _ATTENDANCE + 1
    instant = ((visits.arrives[visit] + elapsed * pace[visit]) * 1000).astype(np.int64)
    return Events(visits.person[visit], instant, product)


def _with_bot(rng: np.random.Generator, events: Events, bot: int, calendar: Calendar) -> Events:
    """Add the customer who chats through every stream, now and then at any hour, and until the very end."""
    count = round(len(events.person) * _BOT_SHARE / (1 - _BOT_SHARE))
    windows = np.array([window for held in calendar.streams for window in held]).reshape(-1, 2)
    if len(windows):
        window = windows[rng.integers(0, len(windows), round(count * 0.88))]
        streamed = rng.uniform(window[:, 0], window[:, 1])
    else:
        streamed = np.zeros(0)
    anytime = rng.uniform(calendar.begins, calendar.ends, count - len(streamed))
    at_the_end = calendar.ends - np.arange(12) * _LAST_HOUR / 12 - rng.uniform(1, 60, 12)
    instant = (np.concatenate([streamed, anytime, at_the_end]) * 1000).astype(np.int64)
    return Events(
        np.concatenate([events.person, np.full(len(instant), bot)]),
        np.concatenate([events.instant, instant]),
        np.concatenate([events.product, np.full(len(instant), _CHAT)]),
    )


def _in_order(events: Events, calendar: Calendar) -> Events:
    """Keep what lies within the calendar, in the order of time."""
    kept = np.flatnonzero((events.instant >= calendar.begins * 1000) & (events.instant <= calendar.ends * 1000))
    kept = kept[np.argsort(events.instant[kept], kind="stable")]
    return Events(*(column[kept] for column in events))


def _afforded(events: Events) -> Events:
    """Turn what a customer cannot afford into a chat message; events are in the order of time."""
    person, instant, product = events
    by_person = np.argsort(person, kind="stable")
    balance = np.cumsum(_POINTS[product[by_person]])
    starts = np.flatnonzero(np.diff(person[by_person], prepend=-1))
    before = np.concatenate([[0], balance])[starts]
    balance -= np.repeat(before, np.diff(np.append(starts, len(balance))))
    refused = by_person[(balance < 0) & (_POINTS[product[by_person]] < 0)]
    afforded = product.copy()
    afforded[refused] = _CHAT
    return Events(person, instant, afforded)


def _lines(rng: np.random.Generator, product: Ints) -> Lines:
    """One line an event, except sales of items: those have up to three, and points by item and quantity."""
    sold = product == _SALE
    count = 1 + sold * rng.choice(3, len(product), p=[0.7, 0.2, 0.1])
    event = np.repeat(np.arange(len(product)), count)
    of_sale = sold[event]
    item = rng.choice(len(ITEMS), len(event), p=_ITEM_WEIGHTS / _ITEM_WEIGHTS.sum())
    quantity = np.where(of_sale, rng.geometric(0.7, len(event)), 1)
    names = [
        ITEMS[i].name if code == _SALE else _NAMES[code]
        for code, i in zip(product[event].tolist(), item.tolist(), strict=True)
    ]
    return Lines(event, names, quantity, np.where(of_sale, _ITEM_POINTS[item] * quantity, 0))
