"""How a table's raw files lie in the bucket and what shape their rows have: our own, AWS DMS's, Debezium's.

Here: what a contract may say of a producer, and which combinations are refused. Not here: how such files are listed
(`raw.landing`) and read (`raw.dms`, `raw.debezium`).
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StringConstraints, model_validator

Column = Annotated[str, StringConstraints(pattern=r"^\w+$")]
Folder = Annotated[str, StringConstraints(pattern=r"^[^/]+(/[^/]+)*$")]


class Model(BaseModel):
    """What contracts are made of: nothing undeclared, nothing changed later."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def _tells_the_day(pattern: str) -> str:
    if any(pattern.count(token) != 1 for token in ("YYYY", "MM", "DD")):
        raise ValueError(
            f"{pattern!r} must have YYYY, MM and DD once each; where folders do not tell the day leave day_folder out: "
            "files then count by the day of their upload"
        )
    if -1 < pattern.find("HH") < max(pattern.index(token) for token in ("YYYY", "MM", "DD")):
        raise ValueError(f"{pattern!r} must have HH after YYYY, MM and DD")
    return pattern


DayFolder = Annotated[str, StringConstraints(pattern=r"^[^/{}]+(/[^/{}]+)*$"), AfterValidator(_tells_the_day)]
"""The folders that tell a file's day, as they look: YYYY/MM/DD, DD_MM_YYYY, year=YYYY/month=MM/day=DD."""


class OwnFiles(Model):
    """Our own layout: `raw/<schema>/cdc/<table>/` and `raw/<schema>/full_load/<table>/`, parquet with OP."""

    layout: Literal["own"] = "own"
    day_folder: DayFolder = "YYYY/MM/DD"


class DmsFiles(Model):
    """An S3 target of AWS DMS.

    Attributes:
        path: the table's folder in the bucket: BucketFolder, schema and table, as far as there are such.
        format: DataFormat.
        timestamp: TimestampColumnName.
        change_seq: the column that a transformation rule fills with $AR_H_CHANGE_SEQ.
        day_folder: DatePartitionSequence and -Delimiter, as the folders look; None: files count by their upload.
        header, delimiter, null_value: AddColumnName, CsvDelimiter, CsvNullValue.
        op_in_full_load: IncludeOpForFullLoad.
        columns: those of a change file without a header; by default operation, timestamp, the contract's columns,
            change_seq.
    """

    layout: Literal["dms"]
    path: Folder
    format: Literal["csv", "parquet"] = "csv"
    timestamp: Column
    change_seq: Column | None = None
    day_folder: DayFolder | None = None
    header: bool = False
    delimiter: str = Field(",", min_length=1, max_length=1)
    null_value: str = "NULL"
    op_in_full_load: bool = False
    columns: tuple[Column, ...] | None = None

    @model_validator(mode="after")
    def _fits_the_format(self) -> DmsFiles:
        of_csv = {"header", "delimiter", "null_value", "op_in_full_load", "columns"} & self.model_fields_set
        if self.format == "parquet" and of_csv:
            raise ValueError(f"{', '.join(sorted(of_csv))} say something of csv, and format is parquet")
        if self.header and self.columns:
            raise ValueError("columns are those of files without a header, and header is true")
        if self.columns and (missing := {self.timestamp, self.change_seq} - {None, *self.columns}):
            raise ValueError(f"columns lack {', '.join(sorted(filter(None, missing)))}")
        return self


class DebeziumFiles(Model):
    """Debezium's events in files, as a sink writes them.

    Attributes:
        path: the folder of the table's topic in the bucket.
        format: parquet, or one JSON object a line.
        shape: envelope (before, after, op, source), or flat: what ExtractNewRecordState makes of it.
        day_folder: the folders of a sink that partitions by time, as they look; None: files count by their upload.
        placeholder: unavailable.value.placeholder.
        sequence, timestamp, deleted: where flat rows have source.sequence, source.ts_ms and the mark of a delete.
    """

    layout: Literal["debezium"]
    path: Folder
    format: Literal["parquet", "json"] = "parquet"
    shape: Literal["envelope", "flat"] = "envelope"
    day_folder: DayFolder | None = None
    placeholder: str = Field("__debezium_unavailable_value", min_length=1)
    sequence: Column = "__source_sequence"
    timestamp: Column = "__source_ts_ms"
    deleted: Column = "__deleted"

    @model_validator(mode="after")
    def _fits_the_shape(self) -> DebeziumFiles:
        of_flat = {"sequence", "timestamp", "deleted"} & self.model_fields_set
        if self.shape == "envelope" and of_flat:
            raise ValueError(f"{', '.join(sorted(of_flat))} name columns of flat rows, and shape is envelope")
        return self

    @property
    def operation(self) -> str:
        """The column that says what was done, where the contract does not name one."""
        return "op" if self.shape == "envelope" else "__op"


Files = Annotated[OwnFiles | DmsFiles | DebeziumFiles, Field(discriminator="layout")]
