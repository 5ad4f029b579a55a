"""Writes docs/images: the pictures that README and docs show, from those that the browser test has kept.

python scripts/pictures.py (`make pictures` runs the test before)
"""

from __future__ import annotations

import sys
from pathlib import Path

from PIL import Image

ROOT = Path(__file__).parents[1]
KEPT = ROOT / "upsell_assets_tests" / "out" / "pictures"
IMAGES = ROOT / "docs" / "images"
MAX_BYTES = 300_000
SHOWN = {
    "graph": "the_graph_shows_every_table_of_every_layer",
    "late-files": "late_files_make_their_landing_days_fresh",
    "columns": "a_table_shows_what_its_columns_are_made_from",
}
"""Picture of the docs -> picture of the test."""


def shrink(kept: Path, image: Path) -> int:
    """Write a picture with 128 colours, which a page of text and lines does not miss; its size in bytes.

    Raises:
        SystemExit: it is larger than a page should load, or the test has not kept it.
    """
    if not kept.exists():
        raise SystemExit(f"{kept}: no such picture. Run `make pictures`, and see which test failed.")
    with Image.open(kept) as opened:
        opened.convert("RGB").quantize(128, dither=Image.Dither.NONE).save(image, optimize=True)
    size = image.stat().st_size
    if size > MAX_BYTES:
        raise SystemExit(f"{image}: has {size:,} bytes, more than {MAX_BYTES:,}. Show less in the picture.")
    return size


if __name__ == "__main__":
    for name, kept in SHOWN.items():
        image = IMAGES / f"{name}.png"
        sys.stdout.write(f"{image.relative_to(ROOT)}: {shrink(KEPT / f'{kept}.png', image):,} bytes\n")
