"""Bronze tables for silver's tests, made by the real merge, and what silver must hold, said in plain Python.

Here: changes and full loads of the points system, merging them (or only the first of the merge's two commits), and a
fold of all of them into silver's rows, from the spec alone. Not here: the law's harder parts (equal order), which are
bronze's to prove.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from upsell_assets.bronze.history import remember
from upsell_assets.bronze.merge import end_load, merge, table_name
from upsell_assets.clock import Clock, utc_now
from upsell_assets.contracts import load_contracts
from upsell_assets.lake.tables import Lake
from upsell_assets.raw.files import FILE, MODIFIED, OP, ROW, SEQUENCE, Position, change_schema
from upsell_assets.raw.landing import full_load_prefix
from upsell_assets.silver.tables import SilverTable, silver_tables

CONTRACTS = load_contracts()
SILVER: dict[str, SilverTable] = {table.name.rpartition(".")[2]: table for table in silver_tables(CONTRACTS)}
START = datetime(2024, 2, 1, tzinfo=UTC)

Row = tuple[Any, ...]


@dataclass(frozen=True)
class Change:
    """One change of a source table; `seq` orders all of them, `hour` counts from START. Rows of a full load name it."""

    table: str
    key: str
    op: str
    seq: int
    values: Row = ()
    hour: int = 0
    load: str = ""
    file: str = "f"

    @property
    def at(self) -> datetime:
        return START + timedelta(hours=self.hour)

    @property
    def place(self) -> tuple[int, int]:
        """Rows of a load stand above its end, and that above changes."""
        return self.seq, 2 if self.load else 0


@dataclass(frozen=True)
class End:
    """The end of a full load, which stands at `seq` of its table; its rows are changes that name it."""

    table: str
    seq: int
    hour: int = 0

    @property
    def place(self) -> tuple[int, int]:
        return self.seq, 1

    def of(self, key: str) -> Change:
        """The delete that it means for a key."""
        return Change(self.table, key, "D", self.seq, hour=self.hour)


def arrow(table: str, changes: Iterable[Change]) -> pa.Table:
    contract = CONTRACTS[table]
    names = [name for name in contract.columns if name not in contract.key]
    rows = [
        {
            contract.key[0]: change.key,
            **(dict(zip(names, change.values, strict=True)) if change.op != "D" else {}),
            OP: change.op,
            MODIFIED: change.at,
            SEQUENCE: f"{change.seq:06d}",
            FILE: f"{full_load_prefix(contract) + change.load if change.load else f'raw/upsell/cdc/{table}'}/{change.file}",
            ROW: number,
        }
        for number, change in enumerate(changes)
    ]
    return pa.Table.from_pylist(rows, change_schema(contract))


def take_in(lake: Lake, *changes: Change, clock: Clock = utc_now) -> None:
    """Merge changes into their tables, as an ingestion does; tables without changes are made, too."""
    for table, contract in CONTRACTS.items():
        of_table = [change for change in changes if change.table == table]
        if of_table or not lake.exists(table_name(contract)):
            rows = arrow(table, of_table)
            if contract.history:
                remember(lake, contract, rows, clock)
            merge(lake, contract, rows)


def end(lake: Lake, end: End, clock: Clock = utc_now) -> None:
    """End a full load, as an ingestion does once its rows are in."""
    at = START + timedelta(hours=end.hour)
    end_load(lake, CONTRACTS[end.table], Position(at, f"{end.seq:06d}"), f"load {end.seq}", clock)


def take_in_and_crash(lake: Lake, *changes: Change) -> None:
    """Merge changes of one table and die before the live table's first commit: its files stay, no log entry names them."""
    (table,) = {change.table for change in changes}
    name = table_name(CONTRACTS[table])
    before = lake.open(name).version()
    take_in(lake, *changes)
    for version in range(before + 1, lake.open(name).version() + 1):
        for entry in log_entries(lake, name, version):
            entry.unlink(missing_ok=True)


def log_entries(lake: Lake, name: str, version: int) -> list[Path]:
    """The files of a table's log that know of a version."""
    log = Path(lake.uri(name)) / "_delta_log"
    commit = f"{version:020d}"
    return [log / f"{commit}.json", log / "_last_checkpoint", *log.glob(f"{commit}.checkpoint.*")]


def held(lake: Lake, name: str) -> list[Row]:
    """A table's rows; a key that stands there twice is seen twice."""
    rows = lake.open(SILVER[name].name).to_pyarrow_dataset().to_table()
    return sorted((tuple(row.values()) for row in rows.select(COLUMNS[name]).to_pylist()), key=repr)


COLUMNS = {
    "cliente": ["idCliente", "nrPontosCliente", "flEmailCliente"],
    "transacoes": ["idTransacao", "idCliente", "dtTransacao", "nrPontosTransacao"],
    "transacao_produto": ["idTransacaoProduto", "idTransacao", "descNomeProduto", "nrQuantidadeProduto"],
    "produtos": ["descProduto"],
    "cliente_historico": ["idCliente", "dtInicio", "dtFim", "nrPontosCliente", "flEmailCliente"],
}


@dataclass
class Bronze:
    """What bronze holds: the newest of each key with its place, and all that was ever said of customers."""

    newest: dict[tuple[str, str], tuple[tuple[int, int], Change]] = field(default_factory=dict)
    customers: list[Change] = field(default_factory=list)
    ends: list[End] = field(default_factory=list)

    def take(self, changes: Iterable[Change], *, only_deletes: bool = False) -> None:
        """Fold changes in; `only_deletes`: of a crashed merge only the tombstones were written."""
        batch: dict[tuple[str, str], tuple[tuple[int, int], Change]] = {}
        for change in changes:
            if change.table == "customers" and change not in self.customers:
                self.customers.append(change)
            key = change.table, change.key
            batch[key] = max((change.place, change), batch.get(key, ((-1, 0), change)), key=lambda said: said[0])
        for (table, key), said in batch.items():
            ends = [(end.place, end.of(key)) for end in self.ends if end.table == table]
            newest = max([said, *ends], key=lambda said: said[0])
            before = self.newest.get((table, key), newest)
            if newest[0] >= before[0] and (newest[1].op == "D" or not only_deletes):
                self.newest[table, key] = newest

    def end(self, end: End) -> None:
        """A full load ends: who was last heard of below it is deleted."""
        self.ends.append(end)
        for (table, key), (place, _) in self.newest.items():
            if table == end.table and place < end.place:
                self.newest[table, key] = end.place, end.of(key)

    def silver(self, name: str) -> list[Row]:
        """The rows of a silver table."""
        return sorted(getattr(self, f"_{name}")(), key=repr)

    def _live(self, table: str) -> list[Row]:
        return [(c.key, *c.values) for (of, _), (_, c) in self.newest.items() if of == table and c.op != "D"]

    def _cliente(self) -> list[Row]:
        return self._live("customers")

    def _transacoes(self) -> list[Row]:
        return [(key, customer, read(text), points) for key, customer, text, points in self._live("transactions")]

    def _transacao_produto(self) -> list[Row]:
        return self._live("transactions_product")

    def _produtos(self) -> list[Row]:
        return [(name,) for name in {row[2] for row in self._transacao_produto()} - {None}]

    def _cliente_historico(self) -> list[Row]:
        """In the order of the sequence; a clock that steps back is held, of one instant the last state counts."""
        states: dict[str, dict[datetime, Row | None]] = defaultdict(dict)
        said = [(change.place, change) for change in self.customers]
        keys = {change.key for change in self.customers}
        said += [(end.place, end.of(key)) for end in self.ends if end.table == "customers" for key in keys]
        for _, change in sorted(said, key=lambda said: said[0]):
            life = states[change.key]
            life[max([change.at, *life])] = None if change.op == "D" else change.values
        rows = []
        for customer, life in states.items():
            joined: list[tuple[datetime | None, Row | None]] = []
            for at, state in life.items():
                if state != (joined[-1][1] if joined else None):
                    joined.append((at, state))
            for (at, state), (end, _) in pairwise([*joined, (None, None)]):
                if state is not None:
                    rows.append((customer, at, end, *state))
        return rows


def read(text: str | None) -> datetime | None:
    """A date of these tests: ISO with a blank, in UTC, or no date."""
    try:
        return datetime.fromisoformat(text or "").replace(tzinfo=UTC)
    except ValueError:
        return None
