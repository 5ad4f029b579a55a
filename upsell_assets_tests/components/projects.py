"""Projects of components in a folder: what a person would write, and its definitions."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path
from textwrap import dedent
from uuid import uuid4

import dagster as dg
import pytest

CONTRACT = """\
schema: {schema}
table: orders
key: [order_id]
columns: {{order_id: bigint, placed_at: timestamp, amount: double}}
"""
TABLES = "type: upsell_assets.components.LakeTables\nattributes: {contracts: contracts}\n"
WHOLE = "SELECT o.order_id, o.amount FROM bronze.shop.orders AS o\n"
DAILY = "SELECT r.dtRef, COUNT(*) AS n FROM dtrefs AS r CROSS JOIN bronze.shop.orders AS o GROUP BY r.dtRef\n"


def sql_tables(**attributes: object) -> str:
    """The defs.yaml of queries in `gold`."""
    lines = [f"  {name}: {value}" for name, value in {"lake_schema": "shop", **attributes}.items()]
    return "type: upsell_assets.components.SqlTables\nattributes:\n" + "\n".join(lines) + "\n"


def write_project(root: Path, files: Mapping[str, str]) -> Path:
    """A project whose `defs` has these files; its package, named as no other."""
    package = root / f"project_{uuid4().hex[:8]}"
    for name, text in {"__init__.py": "", **{f"defs/{name}": text for name, text in files.items()}}.items():
        path = package / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(dedent(text), encoding="utf-8")
    (root / "pyproject.toml").write_text(
        f'[tool.dg]\ndirectory_type = "project"\n[tool.dg.project]\nroot_module = "{package.name}"\n'
    )
    return package


def load_project(root: Path, files: Mapping[str, str]) -> dg.Definitions:
    """The definitions of such a project."""
    return load(write_project(root, files))


def load(package: Path) -> dg.Definitions:
    """The definitions of a project that is there."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys, "path", [str(package.parent), *sys.path])
        return dg.load_from_defs_folder(path_within_project=package)
