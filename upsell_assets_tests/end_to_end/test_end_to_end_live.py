"""A running lake: changes made by hand in PostgreSQL show in silver, and exactly the touched dtRefs are computed."""

from __future__ import annotations

import csv
import json
import re
import shutil
import subprocess
from collections.abc import Iterator
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any
from zoneinfo import ZoneInfo

import psycopg
import pytest
from lake import UserLake, interrupt, until

from upsell_assets.services.postgres import SUPERUSER, PostgresServer
from upsell_assets.services.state import State

LOCAL = ZoneInfo("America/Sao_Paulo")
NOW = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
DAYS = 60
# Chromium asks its maker for this and that; on a closed machine each question is refused, loudly.
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")
TABLES = ("fs_geral", "fs_pontos", "fs_transacoes", "fs_dia_horario", "daily_report", "monthly_report", "churn_report")


def write_dump(folder: Path) -> None:
    """Two months of a small community: everybody chats every few days at noon, each with lines of a cart."""
    folder.mkdir()
    tables: dict[str, list[list[Any]]] = {
        "customers": [["idCustomer", "PointsCustomer", "flEmail"]],
        "transactions": [["idTransaction", "idCustomer", "dtTransaction", "pointsTransaction"]],
        "transactions_product": [["idTransactionCart", "idTransaction", "NameProduct", "QuantityProduct"]],
    }
    for person in range(40):
        tables["customers"].append([f"c{person}", person, person % 2])
        # A third of them fades, so that there are churners to learn from.
        gone = DAYS if person % 3 else 20 + person
        for day in range(person % 4, gone, 2 + person % 4):
            at = NOW - timedelta(days=DAYS - day, hours=1)
            name = f"t{person}-{day}"
            tables["transactions"].append([name, f"c{person}", at.isoformat(sep=" "), 1 + day])
            tables["transactions_product"].append([f"l{person}-{day}", name, "ChatMessage", 1])
    for table, rows in tables.items():
        with (folder / f"{table}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


class RunningLake:
    def __init__(self, home: Path, dump: Path) -> None:
        self.user = UserLake(home, {"UPSELL_SENSOR_SECONDS": "5", "UPSELL_CAPTURE_SECONDS": "5"})
        self.process: subprocess.Popen[bytes] = self.user.start("up", "--seed-from", dump)

    def await_complete(self) -> None:
        self.await_line("complete after")

    def await_line(self, text: str) -> None:
        def said() -> bool:
            assert self.process.poll() is None, self.user.log()
            return text in self.user.log()

        until(said, f"{text!r} in the output", 400)

    def execute(self, *statements: str) -> None:
        """As somebody does by hand, in one transaction."""
        dsn = PostgresServer(State(self.user.home)).dsn(SUPERUSER, database="points")
        with psycopg.connect(dsn) as connection:
            for statement in statements:
                connection.execute(statement)

    def computed(self) -> dict[str, dict[date, str]]:
        """Table -> dtRef -> when it was computed."""
        found = {}
        for table in TABLES:
            layer = "feature_store" if table.startswith("fs_") else "gold"
            rows = self.user.query(
                f"SELECT dtRef, MAX(_computed_at) AS at FROM {layer}.upsell.{table} GROUP BY dtRef ORDER BY dtRef"
            )
            found[table] = {date.fromisoformat(row["dtRef"]): row["at"] for row in rows}
        return found


@pytest.fixture(scope="module")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLake]:
    folder = tmp_path_factory.mktemp("live")
    write_dump(folder / "dump")
    # The first start is killed while it fills the database: the second finds a half-initialised home, and goes on.
    first = UserLake(folder / "home")
    process = first.start("up", "--seed-from", folder / "dump")
    until(lambda: "source: loading" in first.log(), "the first start to load the dump", 60)
    process.kill()
    process.wait()
    lake = RunningLake(folder / "home", folder / "dump")
    lake.await_complete()
    yield lake
    lake.user.command("reset", "--yes")
    lake.process.wait(60)


def days(first: date, last: date) -> set[date]:
    return {first + timedelta(number) for number in range((last - first).days + 1)}


@pytest.mark.timeout(900)
def test_an_update_a_delete_and_an_insert_of_ten_days_ago_refresh_exactly_the_touched_dtrefs(lake: RunningLake) -> None:
    moment = NOW - timedelta(days=10, hours=1)  # an hour at which the dump has events, whatever local day that is
    event = moment.replace(tzinfo=UTC).astimezone(LOCAL).date()
    before = lake.computed()
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
        after = lake.computed()
        return {table: {day for day, at in after[table].items() if before[table].get(day) != at} for table in TABLES}

    until(lambda: refreshed() == expected, f"exactly these to be computed again: {expected}; are {refreshed()}", 240)
    rows = lake.user.query(f"SELECT * FROM feature_store.upsell.fs_pontos WHERE dtRef = date'{last}'")
    assert "nobody-known" in {row["idCliente"] for row in rows}, "a customer without a row survives everywhere"


@pytest.mark.browser
@pytest.mark.skipif(shutil.which("chromium") is None, reason="needs Chromium: no chromium was found")
def test_the_web_interface_shows_every_layer_and_a_scored_table(lake: RunningLake) -> None:
    from playwright.sync_api import expect, sync_playwright

    address = re.search(r"http://127\.0\.0\.1:\d+", lake.user.log().partition("complete after")[2])
    assert address is not None
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", *QUIET])
        page = browser.new_page(viewport={"width": 1700, "height": 1000})
        page.goto(f"{address[0]}/asset-groups")
        for layer in ("raw", "bronze", "silver", "feature_store", "gold", "model"):
            expect(page.get_by_text(layer, exact=True).first).to_be_visible(timeout=60_000)
        page.goto(f"{address[0]}/assets/silver/upsell/transacoes?view=overview")
        expect(page.get_by_text("nrPontosTransacao").first).to_be_visible(timeout=60_000)
        browser.close()


@pytest.mark.timeout(900)
def test_ctrl_c_ends_every_child_and_the_next_start_resumes_with_nothing_lost(lake: RunningLake) -> None:
    processes = [process for process in State(lake.user.home).processes().values() if process.alive]
    assert len(processes) > 3

    assert interrupt(lake.process) == 0, lake.user.log()

    assert not [process for process in processes if process.alive]
    before = lake.user.status()
    done = lake.user.command("up", "--once")
    assert done.returncode == 0, done.stderr
    assert json.dumps(before["tables"]) == json.dumps(lake.user.status()["tables"])
