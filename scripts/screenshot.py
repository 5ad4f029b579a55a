"""Takes the README's picture: the asset graph of a running lake.

upsell up --port 3000 &   # wait until it is complete
python scripts/screenshot.py http://127.0.0.1:3000 docs/images/graph.png
"""

from __future__ import annotations

import shutil
import sys

from playwright.sync_api import sync_playwright

QUIET = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--no-first-run")


def main(url: str, picture: str) -> None:
    """Open the graph and save what a person sees."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", *QUIET])
        page = browser.new_page(viewport={"width": 1500, "height": 640})
        page.goto(f"{url}/asset-groups")
        page.get_by_text("bronze", exact=True).first.wait_for()
        page.wait_for_timeout(8000)  # the groups' states are filled in bit by bit, which no event tells
        page.screenshot(path=picture)
        browser.close()


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
