"""The README tells the truth: every setting and every command is in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import typer

from upsell_assets.cli import app
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


def _commands(of: typer.Typer, group: str = "") -> Iterator[str]:
    for command in of.registered_commands:
        yield f"{group}{command.name or (command.callback and command.callback.__name__)}"
    for inner in of.registered_groups:
        assert inner.typer_instance is not None
        yield from _commands(inner.typer_instance, f"{group}{inner.name} " if isinstance(inner.name, str) else group)
