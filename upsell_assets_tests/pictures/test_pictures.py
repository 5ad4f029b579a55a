"""What is drawn of a table: how it grew, from its log alone; and that every plot can be drawn of what there may be."""

from __future__ import annotations

import io
import os
from datetime import UTC, date, datetime, timedelta
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest
from deltalake import write_deltalake
from PIL import Image

from upsell_assets.lake.tables import Lake
from upsell_assets.pictures import history
from upsell_assets.pictures.history import Moment, growth
from upsell_assets.pictures.plots import churn_plot, features_plot, growth_plot

NAME = "silver.upsell.transacoes"
START = datetime.now(UTC).replace(microsecond=0) - timedelta(days=3)  # Delta forgets commits of before 30 days
SCHEMA = pa.schema([("idTransacao", pa.string()), ("dtTransacao", pa.timestamp("us", tz="UTC"))])


def commit(lake: Lake, number: int, rows: int, hours_behind: int) -> None:
    """Append rows, and have the commit made `number` hours after START."""
    at = START + timedelta(hours=number)
    table = lake.open_or_create(NAME, SCHEMA)
    newest = at - timedelta(hours=hours_behind)
    values = {"idTransacao": [f"{number}-{row}" for row in range(rows)], "dtTransacao": [newest] * rows}
    write_deltalake(table, pa.table(values, SCHEMA), mode="append")
    log = Path(lake.uri(NAME)) / "_delta_log"
    for version in range(table.version() + 1):
        entry = log / f"{version:020d}.json"
        if version == table.version() or (number == 0 and version == 0):
            os.utime(entry, (at.timestamp(), at.timestamp()))


def test_each_moment_has_its_rows_and_its_lag(local_lake: Lake) -> None:
    commit(local_lake, 0, 3, 2)
    commit(local_lake, 1, 4, 5)

    assert growth(local_lake, NAME)[1:] == [
        Moment(START, 3, 2.0),
        Moment(START + timedelta(hours=1), 7, 3.0),  # the newest event is still that of the first commit
    ]


def test_many_commits_are_spread_evenly_and_the_newest_is_the_last(local_lake: Lake) -> None:
    for number in range(30):
        commit(local_lake, number, 1, 0)

    found = growth(local_lake, NAME, moments=6)

    assert len(found) == 6
    assert found[-1].rows == 30
    gaps = [(b.at - a.at).total_seconds() / 3600 for a, b in pairwise(found)]
    assert max(gaps) <= 6
    assert min(gaps) >= 4


def test_no_data_file_is_read(local_lake: Lake) -> None:
    commit(local_lake, 0, 3, 2)
    for file in Path(local_lake.uri(NAME)).glob("*.parquet"):
        file.unlink()

    assert growth(local_lake, NAME)[-1].rows == 3


def test_a_table_by_dtref_lags_from_the_beginning_of_its_newest_dtref(local_lake: Lake) -> None:
    day = datetime.now(UTC).date() - timedelta(3)
    rows = pa.table({"dtRef": pa.array([day]), "n": [1]})
    local_lake.replace("gold.upsell.churn_report", rows.to_reader(), partitions={"dtRef": [day]})

    newest = growth(local_lake, "gold.upsell.churn_report")[-1]

    begins = datetime(day.year, day.month, day.day, 3, tzinfo=UTC)
    assert newest.lag == pytest.approx((datetime.now(UTC) - begins).total_seconds() / 3600, abs=0.1)


def size(png: bytes) -> tuple[int, int]:
    with Image.open(io.BytesIO(png)) as picture:
        assert len(picture.convert("RGB").getcolors(1 << 16) or ()) > 3
        return picture.size


@pytest.mark.parametrize(
    "moments",
    [
        [],
        [Moment(START, 0, None)],
        [Moment(START + timedelta(minutes=n), n, None) for n in range(3)],
        [Moment(START + timedelta(days=n), 10**9 * n, 0.5) for n in range(40)],
        [Moment(START + timedelta(hours=n), 5, 5000.0 if n < 2 else -0.2) for n in range(10)],
        [Moment(START + timedelta(hours=n), 5, 500.0) for n in range(10)],
    ],
    ids=["none", "one", "no times", "large", "a history that was loaded", "long behind"],
)
def test_growth_can_be_drawn(moments: list[Moment]) -> None:
    width, height = size(growth_plot(NAME, moments))

    assert width == 792
    assert height in (282, 456)


def test_features_can_be_drawn_with_nulls_without_rows_and_of_one_value() -> None:
    rng = np.random.default_rng(7)
    features = {
        "nrWide": rng.lognormal(4, 3, 5000),
        "nrFew": rng.integers(0, 4, 5000).astype(float),
        "nrNull": np.full(5000, np.nan),
        "nrSome": np.where(rng.random(5000) < 0.3, np.nan, rng.random(5000)),
        "nrOne": np.full(5000, 3.0),
        "nrNone": np.array([]),
    }

    assert size(features_plot("feature_store.upsell.fs_pontos", date(2024, 2, 1), features))[0] == 792


def test_churn_can_be_drawn_where_a_day_has_no_base() -> None:
    days = [date(2024, 2, 1) + timedelta(n) for n in range(3)]

    assert size(churn_plot(days, [None, 0.4, 0.5], [0, 10, 12])) == (792, 456)
    assert size(churn_plot([], [], [])) == (792, 456)


def test_moments_are_bounded() -> None:
    assert history.MOMENTS <= 60
