"""Touched dtRefs: which days of which consumer a change of silver asks to be computed again (spec: Silver).

Pure functions over local days. Here: the windows of each consumer and which dtRefs exist. Not here: how the days
of a change are found (`refresh`) or who is told (`assets`).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, timedelta

LIFETIME = None

WINDOWS: Mapping[str, tuple[int, int | None]] = {
    # consumer: the first and the last dtRef, in days after the event, that see it; None: every later one
    "feature_store.upsell.fs_geral": (1, LIFETIME),
    "feature_store.upsell.fs_pontos": (1, LIFETIME),
    "feature_store.upsell.fs_transacoes": (1, LIFETIME),
    "feature_store.upsell.fs_dia_horario": (1, 28),
    "gold.upsell.daily_report": (0, 0),
    "gold.upsell.monthly_report": (0, 27),
    "gold.upsell.churn_report": (0, 55),
}
SCORES = "feature_store.upsell.models"
"""Scores are issued once, for the newest dtRef when it begins to exist; a change of the past touches none."""

FLAG_CONSUMER = "feature_store.upsell.fs_geral"

Touched = dict[str, set[date]]


@dataclass(frozen=True)
class EventDays:
    """The first and the newest local day with an event (events after now do not exist)."""

    first: date
    newest: date


@dataclass(frozen=True)
class Existing:
    """The dtRefs that exist for a consumer, both ends included."""

    first: date
    last: date

    def __contains__(self, day: date) -> bool:
        return self.first <= day <= self.last


def existing(consumer: str, days: EventDays | None, today: date, first_day: date | None) -> Existing | None:
    """Which dtRefs a consumer has, today at most; None where it has none.

    Features: from the day after the first event to the day after the newest one. Gold: from the first event's day
    to the newest's.
    """
    if days is None:
        return None
    offset = 1 if consumer.startswith("feature_store.") else 0
    first = max(days.first + timedelta(offset), first_day or date.min)
    last = min(days.newest + timedelta(offset), today)
    return Existing(first, last) if first <= last else None


def touched(
    changed: Iterable[date],
    flag_since: date | None,
    before: EventDays | None,
    after: EventDays | None,
    today: date,
    first_day: date | None = None,
) -> Touched:
    """The dtRefs to compute again, per consumer.

    Args:
        changed: local days of inserted, changed and deleted transactions (old and new), and of the transactions
            of changed product lines.
        flag_since: the earliest local day from which some customer's e-mail flag differs, if one does.
        before: the days with events before the change.
        after: the same after it; dtRefs that begin or cease to exist are touched too.
        today: the local day of now.
        first_day: the first dtRef that has a partition.
    """
    days = sorted(set(changed))
    result: Touched = {}
    for consumer, (nearest, farthest) in WINDOWS.items():
        existed, exists = (existing(consumer, known, today, first_day) for known in (before, after))
        # Those that cease to exist are asked for too: their rows must go.
        wanted = _all(existed) ^ _all(exists)
        if exists:
            for day in days if farthest is not LIFETIME else days[:1]:
                last = exists.last if farthest is LIFETIME else min(day + timedelta(farthest), exists.last)
                wanted |= _span(max(day + timedelta(nearest), exists.first), last)
            if consumer == FLAG_CONSUMER and flag_since is not None:
                wanted |= _span(max(flag_since, exists.first), exists.last)
        if wanted:
            result[consumer] = wanted
    return result | begun(before, after, today, today, first_day, consumers=(SCORES,))


def begun(
    before: EventDays | None,
    after: EventDays | None,
    yesterday: date,
    today: date,
    first_day: date | None,
    consumers: Iterable[str] = (*WINDOWS, SCORES),
) -> Touched:
    """The dtRefs of each consumer that begin to exist; of scores only the newest."""
    result: Touched = {}
    for consumer in consumers:
        exists = existing(consumer, after, today, first_day)
        new = _all(exists) - _all(existing(consumer, before, yesterday, first_day))
        if consumer == SCORES and exists:
            new &= {exists.last}
        if new:
            result[consumer] = new
    return result


def _all(dtrefs: Existing | None) -> set[date]:
    return _span(dtrefs.first, dtrefs.last) if dtrefs else set()


def _span(first: date, last: date) -> set[date]:
    return {first + timedelta(number) for number in range((last - first).days + 1)}
