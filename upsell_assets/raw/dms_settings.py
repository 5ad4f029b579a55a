"""Whether what a DMS endpoint writes can be put in order: its S3 settings, and a sample of its files.

Here: which settings lose changes, values or their order, what to do about each, and the contract section that fits
the rest. Not here: how files are taken in (`dms`), which needs no look at an endpoint.
"""

from __future__ import annotations

import csv
import json
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import yaml

from upsell_assets.errors import FileRejectedError, PermanentError
from upsell_assets.raw.formats import first_row, read_csv, read_parquet

SEQUENCE = "dms_seq"
"""The column of the rule that we propose."""
_TIMESTAMP = "committed_at"
_MOMENT = re.compile(r"\d{4}-\d{2}-\d{2} \d{2}:\d{2}:\d{2}\.\d{1,6}")
_CHANGE_SEQ = re.compile(r"\d{35}")
_TOKENS = {
    "YYYYMMDD": ("YYYY", "MM", "DD"),
    "YYYYMMDDHH": ("YYYY", "MM", "DD", "HH"),
    "MMYYYYDD": ("MM", "YYYY", "DD"),
    "DDMMYYYY": ("DD", "MM", "YYYY"),
}
_BETWEEN = {"SLASH": "/", "UNDERSCORE": "_", "DASH": "-", "NONE": ""}
_DELETES = "Deletes are not shipped: deleted rows would live for ever"


@dataclass(frozen=True)
class Unsafe:
    """Something that the endpoint loses, and what to do about it."""

    what: str
    remedy: str

    def __str__(self) -> str:
        """One line."""
        return f"{self.what}. {self.remedy}."


class S3Settings:
    """An endpoint's S3 settings, names compared without case, with the defaults of DMS."""

    def __init__(self, said: Mapping[str, Any]) -> None:
        self._said = {name.lower(): value for name, value in said.items() if value is not None}

    def text(self, name: str, default: str = "") -> str:
        """A setting as text."""
        return str(self._said.get(name.lower(), default))

    def flag(self, name: str, *, default: bool = False) -> bool:
        """A setting that is on or off, in the words that DMS takes."""
        return self.text(name, str(default)).lower() in ("true", "y", "yes", "1")

    @property
    def parquet(self) -> bool:
        """Whether files are parquet, else CSV."""
        return self.text("DataFormat", "csv").lower() == "parquet"

    @property
    def header(self) -> bool:
        """Whether CSV files begin with the names of the columns."""
        return not self.parquet and self.flag("AddColumnName")

    @property
    def delimiter(self) -> str:
        """What stands between two values of CSV."""
        return self.text("CsvDelimiter", ",").replace("\\t", "\t")

    @property
    def null_value(self) -> str:
        """What stands for null in CSV."""
        return self.text("CsvNullValue", "NULL")


@dataclass(frozen=True)
class Sample:
    """What a file of changes shows. Columns are named by its header, or by their number from 1."""

    name: str
    columns: tuple[str, ...]
    operations: frozenset[str]
    timestamp: str | None
    sequence: str | None
    at_one_moment: int


def parse(text: str, name: str) -> S3Settings:
    """The settings in a JSON text: S3Settings itself, or what `aws dms describe-endpoints` prints.

    Raises:
        PermanentError: there are none in it.
    """
    try:
        found = json.loads(text)
    except ValueError as error:
        raise PermanentError(f"{name}: not valid JSON ({error}). Give the S3Settings of the endpoint.") from error
    if isinstance(found, dict) and isinstance(endpoints := found.get("Endpoints"), list):
        found = next((one for one in endpoints if isinstance(one, dict) and "S3Settings" in one), None)
    if isinstance(found, dict):
        found = found.get("Endpoint", found)
        found = found.get("S3Settings", found)
    if not isinstance(found, dict) or not {"bucketname", "bucketfolder", "dataformat"} & {key.lower() for key in found}:
        raise PermanentError(
            f"{name}: no S3 settings in it; S3Settings with BucketName are needed. Take them from: aws dms "
            "describe-endpoints"
        )
    return S3Settings(found)


def unsafe(settings: S3Settings, samples: Sequence[Sample | Unsafe] = ()) -> list[Unsafe]:
    """What is lost by the settings, and in the files."""
    seen = [sample for sample in samples if isinstance(sample, Sample)]
    return [
        *_lost_changes(settings),
        *_lost_values(settings),
        *_lost_order(settings, seen),
        *(sample for sample in samples if isinstance(sample, Unsafe)),
        *(fault for sample in seen for fault in _faults(sample, settings)),
    ]


def look(name: str, body: bytes, settings: S3Settings) -> Sample | Unsafe:
    """What a file shows, read as the settings say."""
    try:
        rows = _read(body, settings)
    except (FileRejectedError, UnicodeDecodeError, csv.Error) as error:
        return Unsafe(f"{name} is {error}", "It would be quarantined; have settings and file agree")
    texts = {column: _texts(rows[column]) for column in rows.column_names}
    said = settings.text("TimestampColumnName").lower()
    named = [column for column in texts if column.lower() == said]
    timestamp = next(iter(named or [column for column, found in texts.items() if _all(found, _MOMENT)]), None)
    moments = Counter(texts[timestamp]) if timestamp else Counter()
    return Sample(
        name,
        tuple(texts),
        frozenset(next(iter(texts.values()), [])),
        timestamp,
        next((column for column, found in texts.items() if _all(found, _CHANGE_SEQ)), None),
        max(moments.values(), default=0),
    )


def is_load(name: str) -> bool:
    """Whether a file is a part of a full load."""
    return name.rpartition("/")[2].startswith("LOAD")


def sequence_rule() -> dict[str, Any]:
    """The rule of a task's table mappings that adds the change sequence to every table."""
    return {
        "rule-type": "transformation",
        "rule-id": "900",
        "rule-name": "add-change-sequence",
        "rule-target": "column",
        "object-locator": {"schema-name": "%", "table-name": "%"},
        "rule-action": "add-column",
        "value": SEQUENCE,
        "expression": "$AR_H_CHANGE_SEQ",
        "data-type": {"type": "string", "length": 50},
    }


def contract_section(settings: S3Settings, samples: Sequence[Sample | Unsafe] = ()) -> str:
    """The lines of a contract that fit the settings."""
    seen = [sample for sample in samples if isinstance(sample, Sample)]
    folder = settings.text("BucketFolder").strip("/")
    named = next((sample.sequence for sample in seen if sample.sequence and not sample.sequence.isdigit()), SEQUENCE)
    files: dict[str, Any] = {
        "layout": "dms",
        "path": "/".join(filter(None, [folder, "SCHEMA", "TABLE"])),
        "timestamp": settings.text("TimestampColumnName") or _TIMESTAMP,
        "change_seq": named,
    }
    if settings.parquet:
        files["format"] = "parquet"
    else:
        of_csv = {"header": settings.header, "op_in_full_load": settings.flag("IncludeOpForFullLoad")}
        files |= {name: True for name, value in of_csv.items() if value}
        files |= {"delimiter": settings.delimiter} if settings.delimiter != "," else {}
        files |= {"null_value": settings.null_value} if settings.null_value != "NULL" else {}
    if day_folder := _day_folder(settings):
        files["day_folder"] = day_folder
    section = {
        "order": ["modified_date", "change_seq"],
        "change_seq_type": "decimal(38,0)",
        "full_load": {"as_of": "YYYY-MM-DDTHH:MM:SS", "files": 1},
        "files": files,
    }
    text = yaml.safe_dump(section, sort_keys=False, default_flow_style=None, width=120)
    return text + "".join(sorted({f"# {hint}\n" for sample in seen for hint in _hints(sample)}))


def _lost_changes(settings: S3Settings) -> Iterator[Unsafe]:
    for name in ("CdcInsertsOnly", "CdcInsertsAndUpdates"):
        if settings.flag(name):
            yield Unsafe(f"{name} is true. {_DELETES}", f"Set {name}=false")
    if settings.flag("PreserveTransactions"):
        yield Unsafe(
            "PreserveTransactions is true. The changes of all tables lie in the files of one folder, which are not read",
            "Set PreserveTransactions=false; the change sequence keeps the order",
        )


def _lost_values(settings: S3Settings) -> Iterator[Unsafe]:
    if settings.flag("AddTrailingPaddingCharacter"):
        yield Unsafe(
            "AddTrailingPaddingCharacter is true. Texts are not those of the source",
            "Set AddTrailingPaddingCharacter=false",
        )
    if settings.parquet:
        if settings.flag("ParquetTimestampInMillisecond"):
            yield Unsafe(
                "ParquetTimestampInMillisecond is true. Microseconds are cut off",
                "Set ParquetTimestampInMillisecond=false",
            )
        return
    if not settings.flag("Rfc4180", default=True):
        yield Unsafe("Rfc4180 is false. Quotes and line ends in values break rows", "Set Rfc4180=true")
    if settings.flag("UseCsvNoSupValue"):
        yield Unsafe(
            "UseCsvNoSupValue is true. Columns that the source did not log come as a text that is no value",
            "Have the source log all columns (supplemental logging), and set UseCsvNoSupValue=false",
        )
    if settings.text("CsvRowDelimiter", "\n").replace("\\n", "\n").replace("\\r", "\r") not in ("\n", "\r\n"):
        yield Unsafe("CsvRowDelimiter is no line end. Rows cannot be told apart", "Set CsvRowDelimiter=\\n")
    if len(settings.delimiter) != 1:
        yield Unsafe("CsvDelimiter has several characters. Values cannot be told apart", "Set CsvDelimiter=,")


def _lost_order(settings: S3Settings, seen: list[Sample]) -> Iterator[Unsafe]:
    if not settings.text("TimestampColumnName"):
        yield Unsafe(
            "TimestampColumnName is not set. Nothing orders the changes: late files would overwrite newer data",
            f"Set TimestampColumnName={_TIMESTAMP}",
        )
    if seen and all(sample.sequence for sample in seen):
        return
    tied = max(seen, key=lambda sample: sample.at_one_moment, default=None)
    shown = f" ({tied.name} has {tied.at_one_moment} rows of one)" if tied and tied.at_one_moment > 1 else ""
    yield Unsafe(
        f"No change sequence was seen. Nothing orders changes within a timestamp{shown}",
        f"Add the rule below to the table mappings of the task, which adds $AR_H_CHANGE_SEQ as {SEQUENCE}; then give "
        "this command a file that has it",
    )


def _faults(sample: Sample, settings: S3Settings) -> Iterator[Unsafe]:
    if not sample.operations <= {"I", "U", "D"}:
        first = ", ".join(sorted(map(str, sample.operations))[:3])
        yield Unsafe(
            f"{sample.name} does not begin with an operation (I, U, D), but with {first}. {_DELETES}",
            "Set CdcInsertsOnly=false and CdcInsertsAndUpdates=false",
        )
    if settings.text("TimestampColumnName") and sample.timestamp is None:
        yield Unsafe(
            f"{sample.name} has no column {settings.text('TimestampColumnName')}. Nothing orders its changes",
            "It was written before TimestampColumnName was set: have the table loaded again",
        )


def _hints(sample: Sample) -> Iterator[str]:
    """What the contract must know of a file without a header, where it is not as usual."""
    if not sample.columns or not sample.columns[0].isdigit():
        return
    usual = {"timestamp": (sample.timestamp, "2"), "change sequence": (sample.sequence, str(len(sample.columns)))}
    for name, (found, expected) in usual.items():
        if found not in (None, expected):
            yield f"files.columns must name the {len(sample.columns)} columns: the {name} is number {found}"


def _day_folder(settings: S3Settings) -> str | None:
    """The folders of days as they look; those of months tell no day."""
    tokens = _TOKENS.get(settings.text("DatePartitionSequence", "YYYYMMDD").upper())
    if not settings.flag("DatePartitionEnabled") or tokens is None:
        return None
    return _BETWEEN.get(settings.text("DatePartitionDelimiter", "SLASH").upper(), "/").join(tokens)


def _read(body: bytes, settings: S3Settings) -> pa.Table:
    if settings.parquet:
        return read_parquet(body)
    csv_of = {"delimiter": settings.delimiter[:1], "null_value": settings.null_value}
    if settings.header:
        return read_csv(body, None, **csv_of)
    names = [str(number) for number, _ in enumerate(first_row(body, csv_of["delimiter"]), start=1)]
    return read_csv(body, names, **csv_of)


def _texts(values: pa.ChunkedArray) -> list[str]:
    return [str(value) for value in values.to_pylist() if value is not None]


def _all(texts: list[str], form: re.Pattern[str]) -> bool:
    return bool(texts) and all(form.fullmatch(text) for text in texts)
