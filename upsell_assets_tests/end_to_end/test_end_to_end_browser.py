"""The web interface on a running lake, in Chromium: what a person sees of tables, late files, checks and runs.

One test a page, and each keeps a picture of it under its own name: of what was asserted, or of what was there instead.
"""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest
from running_lake import LATE_DAYS, RunningLake

if TYPE_CHECKING:
    from playwright.sync_api import Browser
    from web import Web

CHROMIUM = shutil.which("chromium")
GREEN, LOADING = "var(--color-background-green)", "var(--color-background-light)"
LINES = "transacti…_product"  # the graph shortens long names
TABLES = {
    "raw": ["customers", "transactions", LINES],
    "bronze": ["customers", "transactions", LINES],
    "silver": ["cliente", "transacoes", "transacao_produto", "produtos", "cliente_historico"],
    "feature_store": ["fs_geral", "fs_pontos", "fs_transacoes", "fs_dia_horario", "models"],
    "gold": ["daily_report", "monthly_report", "churn_report"],
    "model": ["churn"],
}
pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium: no chromium was found"),
    pytest.mark.timeout(900),
]


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    from web import open_browser

    assert CHROMIUM is not None
    with open_browser(CHROMIUM) as browser:
        yield browser


@pytest.fixture
def web(lake: RunningLake, browser: Browser, request: pytest.FixtureRequest) -> Iterator[Web]:
    """A page that nobody has used before; a picture is kept of what it shows in the end."""
    from web import Web

    context = browser.new_context(viewport={"width": 1440, "height": 900}, device_scale_factor=2)
    web = Web(context.new_page(), lake.address)
    yield web
    web.keep(request.node.name.removeprefix("test_"))
    context.close()


def change(day: date, operation: str, **columns: Any) -> dict[str, Any]:
    """A row of a late file, newer than all that the database's log will ever say of its key."""
    place = {"change_seq": f"7FFFFFFFFFFFFFFF-{day:%Y%m%d}00", "modified_date": datetime.now(UTC)}
    return {"OP": operation, **columns, **place}


def land_late_files(lake: RunningLake) -> None:
    """A file for each table and late day: somebody who bought nothing, and deletes of what never was.

    So no dtRef is touched, and what other tests say of them stays true.
    """
    for day in LATE_DAYS:
        name = f"late-{day}"
        person = change(day, "I", idCustomer=name, PointsCustomer=7, flEmail=None)
        sale = change(
            day, "D", idTransaction=name, idCustomer=name, dtTransaction=f"{day} 12:00:00", pointsTransaction=7
        )
        line = change(
            day, "D", idTransactionCart=name, idTransaction=name, NameProduct="ChatMessage", QuantityProduct=1
        )
        lake.land("transactions_product", day, name, [line])
        lake.land("transactions", day, name, [sale])
        lake.land("customers", day, name, [person])


def test_late_files_make_their_landing_days_fresh(web: Web, lake: RunningLake) -> None:
    web.open_asset("bronze/upsell/customers", "partitions")
    web.await_text("Materialized (1)")
    web.await_text("Missing (3)")

    land_late_files(lake)

    web.await_text("Materialized (4)", seconds=240)
    web.await_text("Missing (0)")
    # In the list; the day also stands below the bar.
    web.page.get_by_text(LATE_DAYS[0].isoformat(), exact=True).last.click()
    web.await_text("rows_written")
    arrived = lake.user.query("SELECT idCustomer FROM bronze.upsell.customers WHERE PointsCustomer = 7")
    assert {row["idCustomer"] for row in arrived} == {"c7", *(f"late-{day}" for day in LATE_DAYS)}


def test_the_graph_shows_every_table_of_every_layer(web: Web) -> None:
    web.open_graph()

    boxes = web.page.locator("[style*='--minimal-bg']")
    web.await_seen(boxes.filter(has_text="fs_geral"))
    assert sorted(boxes.all_inner_texts()) == sorted(table for tables in TABLES.values() for table in tables)
    web.await_none(web.page.locator(f"[style*='--minimal-bg: {LOADING}']"))
    for table in TABLES["silver"]:
        web.await_seen(web.page.locator(f"[style*='--minimal-bg: {GREEN}']").get_by_text(table, exact=True))


def test_a_silver_table_shows_its_columns(web: Web) -> None:
    web.open_asset("silver/upsell/transacoes")

    web.await_text("nrPontosTransacao")
    web.await_text("674")  # rows


def test_a_table_shows_its_checks(web: Web) -> None:
    web.open_asset("bronze/upsell/customers", "checks")

    for check in ("contract_holds", "no_quarantined_files"):
        web.await_text(check)
    web.await_text("Passed")


def test_numbers_of_a_table_are_plotted(web: Web) -> None:
    web.open_asset("bronze/upsell/customers")

    web.await_text("Plots").click()
    web.await_seen(web.page.locator("canvas").first).scroll_into_view_if_needed()
    web.await_text("rows_written")


def test_lineage_shows_what_a_table_is_made_of_and_what_is_made_of_it(web: Web) -> None:
    web.open_asset("silver/upsell/transacoes", "lineage")

    for table in ("transactions", "transacoes", "fs_pontos"):
        web.await_text(table)


def test_a_run_shows_its_steps(web: Web) -> None:
    web.open_asset("silver/upsell/cliente", "events")

    web.page.locator("a[href^='/runs/']").first.click()
    web.await_text("Success")
    web.await_text("silver__upsell__cliente")
    web.await_text("STEP_SUCCESS")
