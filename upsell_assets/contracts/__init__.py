"""The source tables as data: one YAML file per table, from which raw, bronze, tombstones and checks follow.

Here: the contract's model and how a folder of contracts is read. Not here: what is done with a table. Nothing
else in the code names a source column, except the SQL of silver. `UPSELL_CONTRACTS` points to another folder,
so that another database needs no code.
"""

from __future__ import annotations

import re
from datetime import datetime
from pathlib import Path
from typing import Annotated, Literal

import pyarrow as pa
import yaml
from pydantic import AfterValidator, Field, StringConstraints, ValidationError, model_validator

from upsell_assets.contracts.files import Column, DebeziumFiles, DmsFiles, Files, Model, OwnFiles
from upsell_assets.errors import ContractError

SHIPPED = Path(__file__).parent / "upsell"

RESERVED = frozenset({"op", "modified_date", "change_seq"})
"""Names (in lower case) that no declared column may have, beside all that begin with `_`."""

Name = Annotated[str, StringConstraints(pattern=r"^[A-Za-z][A-Za-z0-9_]*$", max_length=63)]

_ARROW: dict[str, pa.DataType] = {
    "string": pa.string(),
    "boolean": pa.bool_(),
    "tinyint": pa.int8(),
    "smallint": pa.int16(),
    "int": pa.int32(),
    "bigint": pa.int64(),
    "float": pa.float32(),
    "double": pa.float64(),
    "date": pa.date32(),
    "timestamp": pa.timestamp("us", tz="UTC"),
    "binary": pa.binary(),
}


def arrow_type(name: str) -> pa.DataType:
    """The Arrow type of a contract's type name (Spark's names; timestamps are instants, in UTC).

    Raises:
        ValueError: a decimal of so many digits does not exist.
    """
    if name.startswith("decimal"):
        precision, scale = (int(part) for part in name[len("decimal(") : -1].split(","))
        if scale > precision:
            raise ValueError(f"{name} has more digits after the point than in all")
        return pa.decimal128(precision, scale)
    return _ARROW[name]


def undeclarable(name: str) -> str | None:
    """Why no contract can declare a column of this name; None: one can."""
    if name.startswith("_") or name.lower() in RESERVED:
        return "the lake keeps this name for itself"
    if not re.fullmatch(r"\w+", name):
        return "its name has more than letters, digits and '_'"
    return None


def _with_arrow_type(name: str) -> str:
    arrow_type(name)
    return name


Type = Annotated[
    str,
    StringConstraints(
        pattern=r"^(string|boolean|tinyint|smallint|int|bigint|float|double|date|timestamp|binary"
        r"|decimal\(\d{1,2},\d{1,2}\))$"
    ),
    AfterValidator(_with_arrow_type),
]


class Operations(Model):
    """Where a change file says what was done, and in which words (compared without case)."""

    column: str = "OP"
    insert: tuple[str, ...] = ("I",)
    update: tuple[str, ...] = ("U",)
    delete: tuple[str, ...] = ("D",)

    @model_validator(mode="after")
    def _words_mean_one_thing(self) -> Operations:
        words = [word.upper() for word in (*self.insert, *self.update, *self.delete)]
        if repeated := sorted({word for word in words if words.count(word) > 1}):
            raise ValueError(f"{', '.join(repeated)} would mean more than one operation")
        return self


class FullLoad(Model):
    """What a full load without a manifest of its own needs to be told."""

    as_of: datetime | None = None
    files: int | None = Field(None, ge=1)


class Contract(Model):
    """One source table.

    `order` names the columns that order two changes of one key, most significant first; they may be internal to
    the change files (`modified_date`, `change_seq`). `immutable_date` is a column whose value never changes for
    a key; it serves layout and pruning only. `tombstone_days`: after so many days a delete is forgotten (never, by
    default), and a change that is older and whose key is not live is set aside as too late. `files`: whose files
    they are, where they lie and how they are shaped; our own capture's, by default.
    """

    schema_name: Name = Field(alias="schema")
    table: Name
    description: str = ""
    source_table: str | None = None
    key: tuple[str, ...] = Field(min_length=1)
    columns: dict[Column, Type] = Field(min_length=1)
    order: tuple[str, ...] = ("modified_date", "change_seq")
    change_seq_type: Type = "bigint"
    immutable_date: str | None = None
    drift: Literal["evolve", "freeze"] = "evolve"
    history: bool = False
    tombstone_days: int | None = Field(None, ge=1)
    operations: Operations = Operations()
    full_load: FullLoad = FullLoad()
    files: Files = OwnFiles()

    @model_validator(mode="after")
    def _speaks_as_its_producer(self) -> Contract:
        """Debezium has words of its own for operations; a contract need not repeat them."""
        if isinstance(self.files, DebeziumFiles) and "operations" not in self.model_fields_set:
            words = Operations(column=self.files.operation, insert=("c", "r"), update=("u",), delete=("d",))
            object.__setattr__(self, "operations", words)
        return self

    @model_validator(mode="after")
    def _columns_exist(self) -> Contract:
        if self.order not in (("modified_date", "change_seq"), ("modified_date",), ("change_seq",)):
            raise ValueError("order must be [modified_date, change_seq], [modified_date] or [change_seq]")
        lowered = [column.lower() for column in self.columns]
        if len(set(lowered)) != len(lowered):
            raise ValueError("columns differ only in case")
        if reserved := [c for c in lowered if c.startswith("_") or c in RESERVED]:
            raise ValueError(f"columns {reserved} are names that the lake keeps for itself")
        if len(set(self.key)) != len(self.key):
            raise ValueError("key names a column twice")
        for name in self.key:
            if name not in self.columns:
                raise ValueError(f"key column {name!r} is not among columns")
        if self.immutable_date is not None and self.immutable_date not in self.columns:
            raise ValueError(f"immutable_date {self.immutable_date!r} is not among columns")
        if self.immutable_date and self.columns[self.immutable_date] not in ("string", "date", "timestamp"):
            raise ValueError(f"immutable_date {self.immutable_date!r} must be a string, a date or a timestamp")
        return self

    @model_validator(mode="after")
    def _files_have_the_order(self) -> Contract:
        if isinstance(self.files, DmsFiles):
            self._check_dms(self.files)
        if isinstance(self.files, DebeziumFiles) and "change_seq" in self.order and self.change_seq_type != "string":
            raise ValueError("change_seq_type must be string: it is made of Debezium's source.sequence")
        return self

    def _check_dms(self, files: DmsFiles) -> None:
        if self.order[0] != "modified_date":
            raise ValueError("order must begin with modified_date: full loads of DMS have no change sequence")
        if files.change_seq and self.order != ("modified_date", "change_seq"):
            raise ValueError("files.change_seq is named, and order does not use it: [modified_date, change_seq]")
        if files.change_seq and self.change_seq_type != "decimal(38,0)":
            raise ValueError("change_seq_type must be decimal(38,0): the change sequence of DMS has 35 digits")
        added = {files.timestamp.lower(), (files.change_seq or files.timestamp).lower(), self.operations.column.lower()}
        if taken := sorted(added & {name.lower() for name in self.columns}):
            raise ValueError(
                f"{', '.join(taken)}: DMS adds such a column to those of the table; columns must not have it"
            )
        if files.columns and files.columns[0].lower() != self.operations.column.lower():
            raise ValueError(f"files.columns must begin with {self.operations.column}, as files of changes do")

    @property
    def name(self) -> str:
        """Schema and table, as in `upsell.customers`."""
        return f"{self.schema_name}.{self.table}"

    def arrow_schema(self) -> pa.Schema:
        """The declared columns, in the contract's order, all nullable but the key."""
        return pa.schema([pa.field(n, arrow_type(t), nullable=n not in self.key) for n, t in self.columns.items()])


def load_contracts(folder: Path | None = None) -> dict[str, Contract]:
    """Read every `*.yaml` of a folder, by table name, in the order of the file names.

    Raises:
        ContractError: the folder has no contract, or one is not valid; the file and every fault are named.
    """
    folder = folder or SHIPPED
    files = sorted(folder.glob("*.yaml"))
    if not files:
        raise ContractError(
            f"contracts: no *.yaml in {folder}. Point UPSELL_CONTRACTS to a folder with one file per source table."
        )
    contracts: dict[str, Contract] = {}
    for file in files:
        contract = _read(file)
        if contract.table in contracts:
            raise ContractError(f"{file}: table {contract.table!r} is declared twice. Keep one of the two files.")
        contracts[contract.table] = contract
    return contracts


def _read(file: Path) -> Contract:
    try:
        content = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        where = getattr(error, "problem_mark", None)
        line = f" line {where.line + 1}" if where else ""
        raise ContractError(f"{file}{line}: not valid YAML. Correct the file.") from error
    if not isinstance(content, dict):
        raise ContractError(f"{file}: expected a mapping with schema, table, key and columns. Correct the file.")
    try:
        return Contract.model_validate(content)
    except ValidationError as error:
        faults = "; ".join(
            f"{'.'.join(str(part) for part in fault['loc']) or 'contract'}: {fault['msg']}" for fault in error.errors()
        )
        raise ContractError(f"{file}: {faults}. Correct the file.") from None
