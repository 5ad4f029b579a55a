"""Features and gold in real Delta tables, made as the assets make them, without Dagster.

Here: the one place of the tests that knows how silver is refreshed with what it reports, and how a daily table is
computed, replaced and read back. Not here: what the tables must hold.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from functools import cached_property
from pathlib import Path

from bronze_steps import SILVER
from reference import Keyed
from run_sql import PACKAGE, by_dt_ref

from upsell_assets.aggregates import AGGREGATES
from upsell_assets.dtref_assets import current_tables, daily_query
from upsell_assets.dtref_files import COMPUTED, sql_files
from upsell_assets.lake.engines.embedded import EmbeddedEngine
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.lake.portions import run_by_portions
from upsell_assets.lake.sql import load_sql
from upsell_assets.lake.tables import Lake
from upsell_assets.settings import Settings
from upsell_assets.silver.assets import _touched_by
from upsell_assets.silver.difference import Difference
from upsell_assets.silver.events import event_days, local_day
from upsell_assets.silver.refresh import refresh
from upsell_assets.silver.touched import SCORES, Touched, existing

FILES = {sql.name: sql for layer in ("feature_store", "gold") for sql in sql_files(PACKAGE / layer)}
KEPT = {name: load_sql(sql.path, tables=AGGREGATES) for name, sql in FILES.items()}
KEYS = {name: "idCliente" if name.startswith("feature_store") else "descNomeProduto" for name in FILES}
KEYS["gold.upsell.churn_report"] = None


@dataclass(frozen=True)
class LocalLakehouse(Lakehouse):
    """A lake in a folder."""

    folder: Path

    @cached_property
    def lake(self) -> Lake:
        return Lake.at(self.folder)

    @cached_property
    def engine(self) -> EmbeddedEngine:
        return EmbeddedEngine(self.lake)


def local_lakehouse(folder: Path, first_day: date) -> LocalLakehouse:
    return LocalLakehouse(Settings(s3_endpoint="http://127.0.0.1:9", s3_bucket="nowhere", first_day=first_day), folder)


@dataclass(frozen=True)
class DailyTables:
    """The daily tables of a lake, at one moment."""

    lakehouse: Lakehouse
    now: datetime

    def refresh(self, names: Iterable[str]) -> Touched:
        """Bring silver's tables up to date in this order; the dtRefs that they report."""
        found: Touched = defaultdict(set)
        for name in names:

            def report(change: Difference, name: str = name) -> None:
                for consumer, dtrefs in _touched_by(self.lakehouse, SILVER[name], change, self.now).items():
                    found[consumer] |= dtrefs

            refresh(self.lakehouse.lake, self.lakehouse.engine, SILVER[name], report)
        return found

    def existing(self) -> dict[str, list[date]]:
        """The dtRefs that each table has."""
        days = event_days(self.lakehouse.lake, self.now)
        spans = {name: existing(name, days, local_day(self.now), self.lakehouse.settings.first_day) for name in FILES}
        return {
            name: [span.first + timedelta(number) for number in range((span.last - span.first).days + 1)]
            if span
            else []
            for name, span in spans.items()
        }

    def make(self, asked: Mapping[str, Iterable[date]]) -> None:
        """Compute and replace the dtRefs that are asked for, of each table; those that do not exist become empty.

        From daily aggregates, which are brought up to date first.
        """
        exist = self.existing()
        for name in sorted(asked.keys() - {SCORES}):
            days = sorted(set(asked[name]) & set(exist[name]))
            lake, engine, sql = self.lakehouse.lake, self.lakehouse.engine, KEPT[name]
            tables = current_tables(lake, engine, sql)
            rows = run_by_portions(engine, daily_query(sql, days, self.now, tables))
            lake.replace(name, rows, partitions={"dtRef": sorted(asked[name])})

    def computed(self, name: str, days: Iterable[date]) -> dict[date, Keyed]:
        """What a table's query gives for these dtRefs now, over all of silver."""
        rows = self.lakehouse.engine.run(daily_query(FILES[name], list(days), self.now)).read_all()
        return by_dt_ref(rows.drop_columns([COMPUTED]), KEYS[name])

    def held(self, name: str) -> dict[date, Keyed]:
        """What a table holds."""
        if (table := self.lakehouse.lake.find(name)) is None:
            return {}
        return by_dt_ref(table.to_pyarrow_table().drop_columns([COMPUTED]), KEYS[name])
