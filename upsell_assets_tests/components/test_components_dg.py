"""The components on Dagster's command line: they are listed, scaffolded and checked, as any others."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from projects import load, write_project

EXAMPLE = Path(__file__).parents[2] / "examples" / "shop"
COMPONENTS = ["upsell_assets.components.LakeTables", "upsell_assets.components.SqlTables"]


def dg_(*arguments: str, within: Path) -> subprocess.CompletedProcess[str]:
    """Run `dg`; nothing answers at the lake's address."""
    bin_ = Path(sys.executable).parent
    return subprocess.run(
        [str(bin_ / "dg"), *arguments],
        cwd=within,
        env={
            **{name: value for name, value in os.environ.items() if not name.startswith("UPSELL_")},
            "PATH": f"{bin_}{os.pathsep}{os.environ['PATH']}",
            "UPSELL_S3_BUCKET": "nowhere",
            "UPSELL_S3_ENDPOINT": "http://127.0.0.1:9",
            "DAGSTER_HOME": "",
            "COLUMNS": "200",
            "NO_COLOR": "1",
            "PYTHONWARNINGS": "ignore",
        },
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.fixture
def example(tmp_path: Path) -> Path:
    """A copy of the example."""
    return shutil.copytree(EXAMPLE, tmp_path / "shop", ignore=shutil.ignore_patterns("__pycache__"))


def test_they_are_listed_with_what_they_do(example: Path) -> None:
    done = dg_("list", "components", "--json", within=example)

    assert done.returncode == 0, done.stderr
    listed = {component["key"]: component["summary"] for component in json.loads(done.stdout)["items"]}
    assert "raw files" in listed[COMPONENTS[0]]
    assert ".sql file" in listed[COMPONENTS[1]]


def test_the_example_passes_the_checks_of_files_and_of_definitions(example: Path) -> None:
    done = dg_("check", "defs", within=example)

    assert done.returncode == 0, (done.stdout, done.stderr)
    assert "All component YAML validated successfully." in done.stdout
    assert "All definitions loaded successfully." in done.stdout


def test_the_check_of_files_finds_attributes_that_are_wrong(example: Path) -> None:
    defs = example / "shop" / "defs"
    (defs / "tables" / "defs.yaml").write_text(
        f"type: {COMPONENTS[0]}\nattributes:\n  contract: contracts\n  source_dsn_env: postgresql://host/db\n"
    )
    (defs / "reports" / "defs.yaml").write_text(
        f"type: {COMPONENTS[1]}\nattributes:\n  folder: reports\n  first_day: 26-1-1\n"
    )

    done = dg_("check", "yaml", within=example)

    assert done.returncode == 1, done.stdout
    said = re.sub(r"\s+", " ", done.stdout)
    for fault in (
        "('contract' was unexpected)",
        "'postgresql://host/db' does not match",
        "'lake_schema' is a required property",
        "'reports' does not match",
        "'26-1-1' does not match",
    ):
        assert fault in said
    assert "tables/defs.yaml:3" in said
    assert "reports/defs.yaml:2" in said


def test_the_check_of_definitions_finds_what_lies_beside_the_attributes(example: Path) -> None:
    query = example / "shop" / "defs" / "reports" / "gold" / "customer_value.sql"
    query.write_text("SELECT * FROM bronze.shop.orders")

    done = dg_("check", "defs", within=example)

    assert done.returncode == 1
    said = re.sub(r"[│\s]+", " ", done.stdout + done.stderr)
    assert "SELECT * does not say which columns the table has. Name each of them." in said


def test_what_is_scaffolded_says_what_to_fill_in_and_loads_as_it_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    package = write_project(tmp_path, {"__init__.py": ""})
    (package / "definitions.py").write_text(
        "from pathlib import Path\nimport dagster as dg\n\n"
        "@dg.definitions\ndef defs():\n    return dg.load_from_defs_folder(path_within_project=Path(__file__).parent)\n"
    )

    for component, name in zip(COMPONENTS, ("tables", "reports"), strict=True):
        done = dg_("scaffold", "defs", component, name, "--lake-schema", "crm", within=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
    checked = dg_("check", "defs", within=tmp_path)

    assert checked.returncode == 0, checked.stdout + checked.stderr
    monkeypatch.setenv("UPSELL_S3_BUCKET", "nowhere")
    assert {key.to_user_string() for key in load(package).resolve_asset_graph().get_all_asset_keys()} == {
        *("raw/crm/orders", "bronze/crm/orders", "gold/crm/daily_orders")
    }
    written = (package / "defs" / "tables" / "defs.yaml").read_text()
    assert "# source_dsn_env: CRM_DSN" in written
    contract = (package / "defs" / "tables" / "contracts" / "orders.yaml").read_text()
    assert f"--into {package.name}/defs/tables/contracts" in contract


def test_our_own_code_location_does_without_them() -> None:
    code = "import sys, upsell_assets.definitions; print('upsell_assets.components' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "False"
