"""docs/features.md is what its command writes, and readers find it."""

from __future__ import annotations

import pytest
from features_page import PAGE, page

WRITTEN = PAGE.read_text(encoding="utf-8")


def test_the_page_is_what_make_docs_writes() -> None:
    assert page() == WRITTEN, "docs/features.md is not of these comments: run `make docs`"


@pytest.mark.parametrize(
    "row",
    [
        "| `idCliente` | string | customer, uuid |  |  |  |",
        "| `nrRecencia` | bigint | days since the last activity | days | D28 | dtRef - local day of the last transaction |",
        "| `nrAvgMinutosDia` | double | minutes of activity per active day | minutes per day | D28"
        " | nrQtdeMinutos / nrQtdeDias |",
        "| `nrQtdeChurn` | bigint | customers of the base who did not come back | customers | 56 days"
        " | qtdeBaseOld - qtdeBaseNewNotChurn |",
        "| `dtRef` | date | last local day of the 28 |  |  |  |",
    ],
)
def test_a_column_is_a_row_of_its_table(row: str) -> None:
    assert f"\n{row}\n" in WRITTEN


def test_readme_and_architecture_lead_to_the_page() -> None:
    root = PAGE.parents[1]

    assert "](docs/features.md)" in (root / "README.md").read_text(encoding="utf-8")
    assert "](features.md)" in (root / "docs" / "architecture.md").read_text(encoding="utf-8")
