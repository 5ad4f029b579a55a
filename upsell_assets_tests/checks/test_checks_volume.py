"""A day's rows against the days before it: what is unusual, and what is only uneven."""

from __future__ import annotations

import random
import statistics
from datetime import date, timedelta

import pytest

from upsell_assets.checks.volume import judge

DAY = date(2024, 3, 15)


def past(*counts: int) -> dict[date, int]:
    return {DAY - timedelta(back): count for back, count in enumerate(counts, start=1)}


@pytest.mark.parametrize(("rows", "usual"), [(100, True), (0, False), (200, False), (115, True), (85, True)])
def test_even_days_allow_a_fifth(rows: int, usual: bool) -> None:
    assert judge({**past(*[100] * 20), DAY: rows}, DAY).usual is usual


def test_days_that_scatter_allow_as_much_as_they_scatter() -> None:
    rng = random.Random(7)
    before = past(*[round(rng.gauss(1000, 200)) for _ in range(28)])

    assert judge({**before, DAY: 1700}, DAY).usual
    assert not judge({**before, DAY: 3000}, DAY).usual


def test_one_odd_day_among_those_before_does_not_hide_another() -> None:
    assert not judge({**past(100_000, *[100, 104, 97, 101] * 5), DAY: 50_000}, DAY).usual


def test_a_day_without_rows_is_a_day() -> None:
    found = judge(past(*[100] * 20), DAY)

    assert (found.rows, found.usual) == (0, False)
    assert judge({DAY: 100, DAY - timedelta(20): 1}, DAY).median == 0


def test_too_few_days_say_nothing() -> None:
    assert judge({**past(*[100] * 13), DAY: 0}, DAY).usual
    assert not judge({**past(*[100] * 14), DAY: 0}, DAY).usual
    assert judge({}, DAY).usual


def test_only_the_last_28_days_count() -> None:
    found = judge({**past(*[10] * 28, *[5000] * 100), DAY: 10}, DAY)

    assert (found.median, found.days) == (10, 28)


def test_the_deviation_is_the_median_absolute_deviation() -> None:
    counts = [3, 8, 1, 9, 12, 40, 7, 7, 2, 5, 6, 11, 4, 10]
    middle = statistics.median(counts)

    found = judge({**past(*counts), DAY: 7}, DAY)

    assert found.median == middle
    assert found.deviation == pytest.approx(1.4826 * statistics.median([abs(count - middle) for count in counts]))
