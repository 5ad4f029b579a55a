"""`upsell dms check`: what is unsafe, what to do, and a contract that then holds. Files are generated as documented."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from producers import COLUMNS, Change, dms_csv, dms_rows, parquet
from typer.testing import CliRunner

from upsell_assets.cli import app
from upsell_assets.contracts import Contract
from upsell_assets.contracts.files import DmsFiles
from upsell_assets.errors import PermanentError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.dms_settings import S3Settings, contract_section, parse, unsafe
from upsell_assets.services.embedded import Running

SAFE = {"BucketName": "lake", "BucketFolder": "dms", "TimestampColumnName": "committed_at"}
CHANGES = [Change("I", 1, 1, 11, "a", 1), Change("U", 1, 2, 21, "b", 2), Change("U", 1, 2, 22, "c", 3)]


@pytest.fixture
def check(tmp_path: Path) -> Callable[..., tuple[int, str]]:
    """Runs the command over settings and files; its exit code and what it printed."""

    def check_(settings: Any, *bodies: bytes, names: tuple[str, ...] = ("20240613-120000000.csv",)) -> tuple[int, str]:
        (tmp_path / "settings.json").write_text(json.dumps(settings), encoding="utf-8")
        for name, body in zip(names, bodies, strict=False):
            (tmp_path / name).write_bytes(body)
        files = [str(tmp_path / name) for name, _ in zip(names, bodies, strict=False)]
        done = CliRunner().invoke(app, ["dms", "check", str(tmp_path / "settings.json"), *files])
        if isinstance(done.exception, PermanentError):
            raise done.exception
        return done.exit_code, done.stdout

    return check_


def section(output: str) -> dict[str, Any]:
    """The contract section that was printed."""
    return dict(yaml.safe_load(output.partition("\ncontract")[2].partition(":\n")[2]))


def contract(output: str) -> Contract:
    said = section(output)
    said["full_load"] = {"as_of": "2024-06-13T12:00:00"}
    return Contract.model_validate({"schema": "s", "table": "t", "key": ["id"], "columns": COLUMNS, **said})


def test_a_safe_endpoint_passes_and_gets_its_contract(check: Callable[..., tuple[int, str]]) -> None:
    code, output = check(SAFE, dms_csv(dms_rows(CHANGES)))

    assert (code, "unsafe" in output, "rule for" in output) == (0, False, False)
    files = contract(output).files
    assert isinstance(files, DmsFiles)
    assert (files.path, files.timestamp, files.change_seq) == ("dms/SCHEMA/TABLE", "committed_at", "dms_seq")


def test_without_a_change_sequence_the_rule_is_printed_ready_to_paste(check: Callable[..., tuple[int, str]]) -> None:
    code, output = check(SAFE, dms_csv(dms_rows(CHANGES, sequence=False)))

    assert code == 1
    assert "unsafe: No change sequence was seen. Nothing orders changes within a timestamp (" in output
    assert "20240613-120000000.csv has 2 rows of one)" in output
    rule = json.loads(output.partition("table mappings:\n")[2].partition("\n\ncontract")[0])
    assert (rule["rule-action"], rule["expression"], rule["value"]) == ("add-column", "$AR_H_CHANGE_SEQ", "dms_seq")


def test_settings_alone_cannot_show_a_change_sequence(check: Callable[..., tuple[int, str]]) -> None:
    code, output = check(SAFE)

    assert (code, output.count("unsafe: ")) == (1, 1)


@pytest.mark.parametrize(
    ("settings", "what", "remedy"),
    [
        ({"CdcInsertsOnly": True}, "CdcInsertsOnly is true. Deletes are not shipped", "Set CdcInsertsOnly=false"),
        ({"cdcInsertsAndUpdates": "y"}, "CdcInsertsAndUpdates is true. Deletes are not", "Set CdcInsertsAndUpdates=false"),
        ({"TimestampColumnName": ""}, "TimestampColumnName is not set. Nothing orders", "Set TimestampColumnName="),
        ({"PreserveTransactions": True}, "PreserveTransactions is true. The changes of all tables", "PreserveTransactions=f"),
        ({"Rfc4180": False}, "Rfc4180 is false. Quotes and line ends", "Set Rfc4180=true"),
        ({"UseCsvNoSupValue": True}, "UseCsvNoSupValue is true. Columns that the source did not log", "supplemental logging"),
        ({"AddTrailingPaddingCharacter": True}, "Texts are not those of the source", "AddTrailingPaddingCharacter=false"),
        ({"CsvRowDelimiter": "|"}, "CsvRowDelimiter is no line end", "Set CsvRowDelimiter"),
        ({"CsvDelimiter": "||"}, "CsvDelimiter has several characters", "Set CsvDelimiter=,"),
        ({"DataFormat": "parquet", "ParquetTimestampInMillisecond": True}, "Microseconds are cut off", "Millisecond=false"),
    ],
)  # fmt: skip
def test_each_unsafe_setting_is_named_with_what_to_do(settings: dict[str, Any], what: str, remedy: str) -> None:
    found = [fault for fault in unsafe(S3Settings({**SAFE, **settings})) if "change sequence was" not in fault.what]

    assert len(found) == 1
    assert what in found[0].what
    assert remedy in found[0].remedy


@pytest.mark.parametrize(
    "settings", [{"CdcInsertsOnly": "false"}, {"CsvRowDelimiter": "\\n"}, {"DataFormat": "parquet", "Rfc4180": False}]
)
def test_what_is_as_it_must_be_is_not_named(settings: dict[str, Any]) -> None:
    assert len(unsafe(S3Settings({**SAFE, **settings}))) == 1


@pytest.mark.parametrize(
    ("settings", "body", "fault"),
    [
        ({}, b"1,a,2\n2,b,3\n", "does not begin with an operation (I, U, D), but with 1, 2. Deletes are not shipped"),
        ({}, b"I,1,a\n", "has no column committed_at. Nothing orders its changes"),
        ({}, b"I,1,a\nU,1\n", "is not readable as CSV"),
        ({"DataFormat": "parquet"}, b"I,1,a\n", "is not readable as parquet"),
        ({"AddColumnName": True}, b"Op,id\nI,1\n", "has no column committed_at"),
    ],
)
def test_what_is_wrong_with_a_file_is_named(
    check: Callable[..., tuple[int, str]], settings: dict[str, Any], body: bytes, fault: str
) -> None:
    code, output = check({**SAFE, **settings}, body)

    assert code == 1
    assert fault in output


@pytest.mark.parametrize(
    ("settings", "files"),
    [
        ({"DataFormat": "parquet"}, {"format": "parquet"}),
        ({"AddColumnName": True, "IncludeOpForFullLoad": True}, {"header": True, "op_in_full_load": True}),
        ({"CsvDelimiter": "\\t", "CsvNullValue": ""}, {"delimiter": "\t", "null_value": ""}),
        ({"DatePartitionEnabled": True}, {"day_folder": "YYYY/MM/DD"}),
        ({"DatePartitionEnabled": True, "DatePartitionSequence": "DDMMYYYY", "DatePartitionDelimiter": "DASH"},
         {"day_folder": "DD-MM-YYYY"}),
        ({"DatePartitionEnabled": True, "DatePartitionSequence": "YYYYMMDDHH", "DatePartitionDelimiter": "NONE"},
         {"day_folder": "YYYYMMDDHH"}),
        ({"DatePartitionEnabled": True, "DatePartitionSequence": "YYYYMM"}, {"day_folder": None}),
        ({"BucketFolder": ""}, {"path": "SCHEMA/TABLE"}),
    ],
)  # fmt: skip
def test_the_contract_section_follows_the_settings(settings: dict[str, Any], files: dict[str, Any]) -> None:
    said = contract_section(S3Settings({**SAFE, **settings}))

    found = contract(f"\ncontract:\n{said}").files.model_dump()
    assert {name: found[name] for name in files} == files


def test_the_name_of_the_change_sequence_is_taken_from_the_files(check: Callable[..., tuple[int, str]]) -> None:
    rows = [{("ar_seq" if name == "dms_seq" else name): v for name, v in row.items()} for row in dms_rows(CHANGES)]

    code, output = check({**SAFE, "DataFormat": "parquet"}, parquet(rows))

    assert (code, section(output)["files"]["change_seq"]) == (0, "ar_seq")


def test_columns_that_stand_elsewhere_than_usual_are_pointed_out(check: Callable[..., tuple[int, str]]) -> None:
    order = ["Op", "dms_seq", "id", "name", "points", "committed_at"]

    _, output = check(SAFE, dms_csv([{name: row[name] for name in order} for row in dms_rows(CHANGES)]))

    assert "# files.columns must name the 6 columns: the timestamp is number 6" in output
    assert "# files.columns must name the 6 columns: the change sequence is number 2" in output


@pytest.mark.parametrize("wrapped", [{"S3Settings": SAFE}, {"Endpoint": {"S3Settings": SAFE}},
                                     {"Endpoints": [{"EndpointType": "SOURCE"}, {"S3Settings": SAFE}]}])  # fmt: skip
def test_settings_are_found_in_what_aws_prints(wrapped: dict[str, Any]) -> None:
    assert parse(json.dumps(wrapped), "x.json").text("BucketFolder") == "dms"


@pytest.mark.parametrize("text", ["[]", "{}", '{"Endpoints": []}', '{"Endpoints": [{"KafkaSettings": {}}]}'])
def test_json_without_settings_is_one_clear_line(text: str) -> None:
    with pytest.raises(PermanentError, match=r"x\.json: no S3 settings in it; S3Settings with BucketName"):
        parse(text, "x.json")


def test_what_is_no_json_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(PermanentError, match=r"x\.json: not valid JSON"):
        parse("BucketName=x", "x.json")
    missing = CliRunner().invoke(app, ["dms", "check", str(tmp_path / "none.json")])
    assert "none.json: cannot be read" in str(missing.exception)


def test_files_of_the_bucket_are_looked_at_by_prefix(
    services: Running, open_lakehouse: Callable[..., Lakehouse], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lakehouse = open_lakehouse()
    for name, value in services.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("UPSELL_S3_BUCKET", lakehouse.settings.bucket)
    (tmp_path / "settings.json").write_text(json.dumps(SAFE), encoding="utf-8")
    lakehouse.store.write("dms/sales/t/LOAD00000001.csv", b"1,a,1\n")
    lakehouse.store.write("dms/sales/t/2024/06/13/20240613-120000000.csv", dms_csv(dms_rows(CHANGES)))

    done = CliRunner().invoke(app, ["dms", "check", str(tmp_path / "settings.json"), "dms/sales/t/"])
    nothing = CliRunner().invoke(app, ["dms", "check", str(tmp_path / "settings.json"), "dms/other/"])

    assert (done.exit_code, "looked at 1 files" in done.stderr) == (0, True)
    assert "no file of changes in dms/other/" in str(nothing.exception)
