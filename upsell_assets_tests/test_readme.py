"""The README tells the truth: every setting and every command is in it."""

from __future__ import annotations

from pathlib import Path

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
    names = [command.name or (command.callback and command.callback.__name__) for command in app.registered_commands]
    names += [
        f"{group.name} {command.name}"
        for group in app.registered_groups
        if group.typer_instance
        for command in group.typer_instance.registered_commands
    ]

    assert names
    assert not [name for name in names if f"`upsell {name}" not in README]
