"""The web interface on a running lake, in Chromium: what a person sees of tables, late files, checks and runs.

One test a page, and each keeps a picture of it under its own name: of what was asserted, or of what was there instead.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Iterator
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Any

import pytest
from lake import PATIENCE
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
    pytest.mark.timeout(900 * PATIENCE),
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
    """A file for each table and late day, that says what the database says: c1 to c3 as they are, deletes of what never was.

    So bronze equals its source, no dtRef is touched, and what other tests say of them stays true.
    """
    for number, day in enumerate(LATE_DAYS, start=1):
        sale = f"late-{day}"
        columns = {
            "customers": {"idCustomer": f"c{number}", "PointsCustomer": number, "flEmail": number % 2},
            "transactions": {
                "idTransaction": sale,
                "idCustomer": "c1",
                "dtTransaction": f"{day}",
                "pointsTransaction": 1,
            },
            "transactions_product": {"idTransactionCart": sale, "idTransaction": sale, "QuantityProduct": 1},
        }
        for table, row in columns.items():
            lake.land(table, day, "late", [change(day, "U" if table == "customers" else "D", **row)])


def test_late_files_make_their_landing_days_fresh(web: Web, lake: RunningLake) -> None:
    web.open_asset("bronze/upsell/customers", "partitions")
    web.await_text("Materialized (1)")
    web.await_text("Missing (3)")

    land_late_files(lake)

    web.await_text("Materialized (4)", seconds=240)
    web.await_text("Missing (0)")
    # In the list; the day also stands below the bar.
    web.shown(LATE_DAYS[0].isoformat()).last.click()
    web.await_text("rows_written")
    arrived = lake.user.query("SELECT _file FROM bronze.upsell.customers WHERE idCustomer IN ('c1', 'c2', 'c3')")
    assert {row["_file"] for row in arrived} == {
        f"raw/upsell/cdc/customers/{day:%Y/%m/%d}/late.parquet" for day in LATE_DAYS
    }


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
    assert web.shown("Failed").count() == 0


def test_numbers_of_a_table_are_plotted(web: Web) -> None:
    web.open_asset("bronze/upsell/customers")

    web.open_by(web.await_text("Plots"), web.page.locator("canvas").first).scroll_into_view_if_needed()
    web.await_text("rows_written")


def test_lineage_shows_the_tables_around_a_table(web: Web) -> None:
    web.open_asset("silver/upsell/cliente_historico", "lineage")

    for table in ("customers", "cliente_historico", "fs_geral"):
        web.await_text(table)


def test_a_table_shows_what_its_columns_are_made_from(web: Web) -> None:
    web.open_asset("feature_store/upsell/fs_geral")

    row = web.page.get_by_role("row").filter(has_text="lineage").filter(has_text="Show Markdown")
    picture = web.page.get_by_role("img", name="columns of feature_store.upsell.fs_geral")
    drawn = web.open_by(row.get_by_text("Show Markdown"), picture)
    # Asked at once: news of the table closes what was opened.
    width, links = drawn.evaluate(
        "picture => [picture.naturalWidth, "
        "Object.fromEntries([...document.links].map(link => [link.textContent, link.getAttribute('href')]))]"
    )
    assert width > 0
    assert links["silver.upsell.transacoes"] == "/assets/silver/upsell/transacoes"


def test_a_run_shows_its_steps(web: Web) -> None:
    web.open_asset("silver/upsell/cliente", "events")

    made = web.page.get_by_label("run_success").first  # the newest event may be that it was drawn
    web.open_by(made, web.shown(re.compile(r"^Materialized in run")).first)
    web.page.locator("a[href^='/runs/']").first.click()
    web.await_text("Success")
    # By the log: above their bars the names are shortened anywhere.
    web.await_text(re.compile(r'^Finished execution of step "silver__upsell__\w+"'))
    web.await_text("STEP_SUCCESS")
