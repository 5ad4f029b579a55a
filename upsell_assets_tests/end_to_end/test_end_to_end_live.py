"""A running lake: changes made by hand in PostgreSQL show in silver, and exactly the touched dtRefs are computed."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime, timedelta
from zoneinfo import ZoneInfo

import dagster as dg
import pytest
from lake import PATIENCE, interrupt, until
from running_lake import NOW, RunningLake

from upsell_assets.services.state import State

LOCAL = ZoneInfo("America/Sao_Paulo")
TABLES = ("fs_geral", "fs_pontos", "fs_transacoes", "fs_dia_horario", "daily_report", "monthly_report", "churn_report")


def computed(lake: RunningLake) -> dict[str, dict[date, str]]:
    """Table -> dtRef -> when it was computed."""
    found = {}
    for table in TABLES:
        layer = "feature_store" if table.startswith("fs_") else "gold"
        rows = lake.user.query(
            f"SELECT dtRef, MAX(_computed_at) AS at FROM {layer}.upsell.{table} GROUP BY dtRef ORDER BY dtRef"
        )
        found[table] = {date.fromisoformat(row["dtRef"]): row["at"] for row in rows}
    return found


def days(first: date, last: date) -> set[date]:
    return {first + timedelta(number) for number in range((last - first).days + 1)}


@pytest.mark.timeout(900 * PATIENCE)
def test_an_update_a_delete_and_an_insert_of_ten_days_ago_refresh_exactly_the_touched_dtrefs(lake: RunningLake) -> None:
    moment = NOW - timedelta(days=10, hours=1)  # an hour at which the dump has events, whatever local day that is
    event = moment.replace(tzinfo=UTC).astimezone(LOCAL).date()
    before = computed(lake)
    known = {row["idTransacao"]: row for row in lake.user.query("SELECT * FROM silver.upsell.transacoes")}
    on_that_day = sorted(
        name
        for name, row in known.items()
        if datetime.fromisoformat(row["dtTransacao"]).astimezone(LOCAL).date() == event
    )
    updated, deleted = on_that_day[:2]

    lake.execute(
        f"""UPDATE transactions SET "pointsTransaction" = 77777 WHERE "idTransaction" = '{updated}'""",
        f"""DELETE FROM transactions WHERE "idTransaction" = '{deleted}'""",
        f"""INSERT INTO transactions VALUES ('by-hand', 'nobody-known', '{moment}', 5)""",
    )

    def shown() -> bool:
        rows = {row["idTransacao"]: row for row in lake.user.query("SELECT * FROM silver.upsell.transacoes")}
        return deleted not in rows and "by-hand" in rows and rows[updated]["nrPontosTransacao"] == 77777

    until(shown, "the changes in silver", 240)
    last = max(before["fs_geral"])
    expected = {
        "fs_geral": days(event + timedelta(1), last),
        "fs_pontos": days(event + timedelta(1), last),
        "fs_transacoes": days(event + timedelta(1), last),
        "fs_dia_horario": days(event + timedelta(1), last),
        "daily_report": {event},
        "monthly_report": days(event, max(before["monthly_report"])),
        "churn_report": days(event, max(before["churn_report"])),
    }

    def refreshed() -> dict[str, set[date]]:
        after = computed(lake)
        return {table: {day for day, at in after[table].items() if before[table].get(day) != at} for table in TABLES}

    until(lambda: refreshed() == expected, f"exactly these to be computed again: {expected}; are {refreshed()}", 240)
    rows = lake.user.query(f"SELECT * FROM feature_store.upsell.fs_pontos WHERE dtRef = date'{last}'")
    assert "nobody-known" in {row["idCliente"] for row in rows}, "a customer without a row survives everywhere"


@pytest.mark.timeout(900 * PATIENCE)
def test_a_new_lake_is_drawn_at_once_and_only_once(lake: RunningLake) -> None:
    with dg.DagsterInstance.from_config(str(lake.user.home / "dagster")) as instance:

        def plots(name: str) -> set[str]:
            records = instance.fetch_observations(dg.AssetKey(name.split(".")), limit=1).records
            return {plot for record in records if (seen := record.asset_observation) for plot in seen.metadata}

        until(lambda: plots("gold.upsell.churn_report") == {"growth", "churn"}, "plots of a report", 240)
        until(lambda: plots("feature_store.upsell.models") == {"growth"}, "plots of the last table", 60)
        assert instance.get_runs_count(dg.RunsFilter(job_name="pictures")) == 1


@pytest.mark.timeout(900 * PATIENCE)
def test_ctrl_c_ends_every_child_and_the_next_start_resumes_with_nothing_lost(lake: RunningLake) -> None:
    processes = [process for process in State(lake.user.home).processes().values() if process.alive]
    assert len(processes) > 3

    assert interrupt(lake.process) == 0, lake.user.log()

    assert not [process for process in processes if process.alive]
    before = lake.user.status()
    done = lake.user.command("up", "--once")
    assert done.returncode == 0, done.stderr
    assert json.dumps(before["tables"]) == json.dumps(lake.user.status()["tables"])
