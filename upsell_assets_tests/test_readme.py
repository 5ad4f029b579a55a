"""The README tells the truth: every setting and every command is in it, and its contracts are valid."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import typer
import yaml

from upsell_assets.cli import app
from upsell_assets.contracts import Contract
from upsell_assets.settings import Settings

README = (Path(__file__).parents[1] / "README.md").read_text(encoding="utf-8")


def test_every_setting_is_listed_with_its_own_description() -> None:
    missing = [
        name
        for name, field in Settings.model_fields.items()
        if f"| `UPSELL_{name.upper()}` | {field.description}" not in README
    ]

    assert not missing


def test_every_command_is_listed() -> None:
    names = list(_commands(app))

    assert names
    assert not [name for name in names if f"`upsell {name}" not in README]


def test_the_contract_sections_for_other_producers_are_valid() -> None:
    sections = [yaml.safe_load(block) for block in re.findall(r"```yaml\n(.*?)```", README, re.DOTALL)]
    of_others = [section for section in sections if "files" in section]

    table = {"schema": "shop", "table": "orders", "key": ["id"], "columns": {"id": "bigint"}}
    assert {Contract.model_validate({**table, **said}).files.layout for said in of_others} == {"dms", "debezium"}


def _commands(of: typer.Typer, group: str = "") -> Iterator[str]:
    for command in of.registered_commands:
        yield f"{group}{command.name or (command.callback and command.callback.__name__)}"
    for inner in of.registered_groups:
        assert inner.typer_instance is not None
        yield from _commands(inner.typer_instance, f"{group}{inner.name} " if isinstance(inner.name, str) else group)
