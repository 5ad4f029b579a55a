"""What a manifest must say, and what a load without one is."""

from __future__ import annotations

import json
from datetime import UTC, date, datetime
from typing import Any

import pytest

from upsell_assets.contracts import Contract
from upsell_assets.errors import FileRejectedError
from upsell_assets.raw.files import Position
from upsell_assets.raw.landing import LandedFile
from upsell_assets.raw.loads import declared_load, flat_load

FOLDER = "raw/s/full_load/t/L/"
MANIFEST = LandedFile(f"{FOLDER}_manifest.json", "m", 1, date(2024, 6, 13), "L")
FILES = [{"key": f"{FOLDER}f", "etag": "e"}]


def contract(**changed: Any) -> Contract:
    return Contract.model_validate({"schema": "s", "table": "t", "key": ["id"], "columns": {"id": "string"}, **changed})


def declared(content: Any, **changed: Any) -> Any:
    return declared_load(json.dumps(content).encode(), MANIFEST, contract(**changed))


def test_a_manifest_names_position_and_files() -> None:
    at = {"modified_date": "2024-06-13T09:00:00-03:00", "change_seq": 5}

    load = declared({"position": at, "files": FILES})

    assert load.position == Position(datetime(2024, 6, 13, 12, tzinfo=UTC), 5)
    assert (load.name, load.files, load.ended) == ("L", {f"{FOLDER}f": "e"}, True)


def test_a_moment_without_a_zone_is_utc() -> None:
    load = declared({"position": {"modified_date": "2024-06-13 12:00:00"}, "files": []})

    assert load.position == Position(datetime(2024, 6, 13, 12, tzinfo=UTC))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ([], "no manifest of a full load"),
        ({"files": FILES}, r"no manifest of a full load \(KeyError\('position'\)\); it needs position"),
        ({"position": {"modified_date": "soon"}, "files": FILES}, "no manifest of a full load .*soon"),
        ({"position": {"modified_date": "2024-06-13"}, "files": [{"key": "k"}]}, "no manifest .*etag.* and files"),
        ({"position": {"modified_date": "2024-06-13", "change_seq": "x"}, "files": []}, "no manifest .*int64"),
        ({"position": {"change_seq": 5}, "files": []}, "the manifest's position has no modified_date, which orders"),
        ({"position": {"modified_date": "2024-06-13"}, "files": [{"key": "raw/s/full_load/t/M/f", "etag": "e"}]},
         "the manifest names raw/s/full_load/t/M/f, which is not in its folder raw/s/full_load/t/L/"),
    ],
)  # fmt: skip
def test_a_manifest_that_is_none_is_rejected(content: Any, reason: str) -> None:
    with pytest.raises(FileRejectedError, match=reason):
        declared(content)


def test_bytes_that_are_no_json_are_rejected() -> None:
    with pytest.raises(FileRejectedError, match="no manifest of a full load"):
        declared_load(b"\xff{", MANIFEST, contract())


def part(name: str) -> LandedFile:
    return LandedFile(f"raw/s/full_load/t/{name}", f"e-{name}", 1, date(2024, 6, 13), "")


@pytest.mark.parametrize(
    ("rule", "position", "ended"),
    [
        ({}, None, False),
        ({"as_of": "2024-06-13T00:00:00"}, Position(datetime(2024, 6, 13, tzinfo=UTC)), False),
        ({"as_of": "2024-06-13T00:00:00", "files": 3}, Position(datetime(2024, 6, 13, tzinfo=UTC)), False),
        ({"as_of": "2024-06-13T00:00:00", "files": 2}, Position(datetime(2024, 6, 13, tzinfo=UTC)), True),
        ({"files": 2}, None, False),
    ],
)
def test_the_flat_folder_is_a_load_as_the_contract_says(
    rule: dict[str, Any], position: Position | None, ended: bool
) -> None:
    load = flat_load(contract(full_load=rule), [part("a"), part("b")])

    assert (load.position, load.ended) == (position, ended)
    assert load.files == {"raw/s/full_load/t/a": "e-a", "raw/s/full_load/t/b": "e-b"}


def test_another_set_of_files_or_another_position_is_another_load() -> None:
    first, second = ({"as_of": f"2024-06-{day}T00:00:00"} for day in (13, 14))
    loads = [
        flat_load(contract(full_load=rule), parts)
        for rule, parts in ((first, [part("a")]), (first, [part("b")]), (second, [part("a")]))
    ]

    assert len({load.token for load in loads}) == 3
