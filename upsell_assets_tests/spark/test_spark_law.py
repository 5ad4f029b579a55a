"""The law of bronze where Spark looks rows up and writes files: any arrival gives what the oracle says."""

from __future__ import annotations

from pathlib import Path
from uuid import uuid4

import pytest
from arrivals import arrive, holds, take
from histories import CONTRACTS, histories, law
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from proof import ON_SPARK

from upsell_assets.bronze import layout, upkeep
from upsell_assets.lake.engines.spark_files import SparkFiles
from upsell_assets.lake.engines.spark_session import Spark
from upsell_assets.lake.tables import Lake


@pytest.fixture
def _small_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that a handful of rows lies in several files, which are compacted and sorted."""
    monkeypatch.setattr(layout, "LEAST_ROWS", 2)
    monkeypatch.setattr(layout, "MOST_ROWS", 3)
    monkeypatch.setattr(upkeep, "SMALL_FILES", 2)
    monkeypatch.setattr(upkeep, "OVERLAP", 1.0)


@pytest.mark.usefixtures("_small_files")
@given(name=st.sampled_from(list(CONTRACTS)), data=st.data())
@settings(max_examples=ON_SPARK.count, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_arrival_gives_what_the_oracle_says(spark: Spark, tmp_path: Path, name: str, data: st.DataObject) -> None:
    of = CONTRACTS[name]
    history = data.draw(histories(of, most=8))
    lake = Lake.at(tmp_path / uuid4().hex, SparkFiles(spark))
    for step in history.steps:
        arrive(lake, of, step)
    upkeep.tidy(lake, of)
    take(lake, of)  # for tables to be there

    assert holds(lake, of) == law(of).oracle(history.changes, history.loads)
