"""The web interface as a person sees it: a page in Chromium, what stands on it, and pictures of it.

Pictures lie in `upsell_assets_tests/out/pictures`, which git ignores; `make pictures` makes those of the docs from them.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import quote

from lake import PATIENCE
from playwright.sync_api import Browser, Locator, Page, expect, sync_playwright

PICTURES = Path(__file__).parents[1] / "out" / "pictures"
LAYERS = ("raw", "bronze", "silver", "feature_store", "gold", "model")
# Chromium asks its maker for this and that; on a closed machine each question is refused, loudly.
QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


@contextmanager
def open_browser(chromium: str) -> Iterator[Browser]:
    """The system's Chromium, as long as the context lasts."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=chromium, args=["--no-sandbox", *QUIET])
        yield browser
        browser.close()


class Web:
    """One page of the web interface at `address`."""

    def __init__(self, page: Page, address: str) -> None:
        self.page = page
        self._address = address
        page.set_default_timeout(60_000 * PATIENCE)
        # Graphs show names alone: with all that a box can show, a screen has room for a third of them.
        page.add_init_script("localStorage.setItem('asset-node-facets', '[]')")

    def open_asset(self, key: str, tab: str = "overview") -> None:
        """The page of an asset, `key` as `silver/upsell/cliente`."""
        self.page.goto(f"{self._address}/assets/{key}?view={tab}")

    def open_graph(self) -> None:
        """The whole graph with every table in it, small enough for one picture."""
        self.page.set_viewport_size({"width": 1440, "height": 1180})
        expanded = ",".join(f"global@global:{layer}" for layer in LAYERS)
        self.page.goto(f"{self._address}/asset-groups~{quote('not group:touched')}/?expanded={expanded}")
        self.page.get_by_text("Hide navigation").click()
        self.page.locator("button:has([aria-label='panel_show_right'])").click()

    def shown(self, text: str | re.Pattern[str]) -> Locator:
        """Where exactly this text can be seen now; it measures texts in places that cannot be seen."""
        return self.page.get_by_text(text, exact=True).filter(visible=True)

    def await_text(self, text: str | re.Pattern[str], seconds: float = 60) -> Locator:
        """Wait until exactly this text can be seen, and return where (first).

        Raises:
            AssertionError: it did not come in time.
        """
        return self.await_seen(self.shown(text).first, seconds)

    def await_seen(self, what: Locator, seconds: float = 60) -> Locator:
        """Wait until something can be seen, and return it.

        Raises:
            AssertionError: it did not come in time.
        """
        expect(what).to_be_visible(timeout=seconds * PATIENCE * 1000)
        return what

    def open_by(self, button: Locator, what: Locator) -> Locator:
        """Click something until what it opens can be seen, and return that: a page that is drawn anew swallows clicks.

        Raises:
            AssertionError: it did not open.
        """
        for _ in range(3):
            button.click()
            with suppress(AssertionError):
                return self.await_seen(what, 15)
        button.click()
        return self.await_seen(what)

    def await_none(self, what: Locator, seconds: float = 60) -> None:
        """Wait until nothing of this kind is there any more.

        Raises:
            AssertionError: something stayed.
        """
        expect(what).to_have_count(0, timeout=seconds * PATIENCE * 1000)

    def keep(self, name: str) -> None:
        """A picture of what is in the window now."""
        PICTURES.mkdir(parents=True, exist_ok=True)
        self.page.screenshot(path=PICTURES / f"{name}.png", animations="disabled")
