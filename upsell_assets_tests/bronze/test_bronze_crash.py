"""kill -9 of a real `upsell ingest` on S3, at any moment: the next one makes it good."""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import yaml
from arrivals import holds
from histories import CONTRACTS, START, Change, Load, dated_values, landed, law
from proof import KILLS

from upsell_assets.bronze.ingest import ingest
from upsell_assets.contracts import Contract
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.raw.landing import cdc_prefix, full_load_prefix
from upsell_assets.services.embedded import Running

if TYPE_CHECKING:
    from conftest import OpenLakehouse

LOG = logging.getLogger(__name__)
UPSELL = Path(sys.executable).parent / "upsell"
SEED = 20_240_613
NAMES = ("modified_date, change_seq", "composite key", "immutable date as text", "immutable moment")
ROUNDS = 10
"""Kills of one lake, before it grows slow."""


@dataclass
class Table:
    """One table: its contract, and what has landed of it."""

    contract: Contract
    changes: list[Change] = field(default_factory=list)
    loads: list[Load] = field(default_factory=list)


class Site:
    """A lake in a bucket, with some tables, whose ingest is killed again and again."""

    def __init__(self, lakehouse: Lakehouse, folder: Path, seed: str) -> None:
        self.lakehouse = lakehouse
        self.random = random.Random(seed)
        self.tables = []
        for number, name in enumerate(NAMES):
            renamed = CONTRACTS[name].model_copy(update={"table": f"t{number}", "history": number == 0})
            (folder / f"t{number}.yaml").write_text(yaml.safe_dump(renamed.model_dump(mode="json", by_alias=True)))
            self.tables.append(Table(renamed))
        self.environment = Running(lakehouse.settings, embedded_store=True).environment()
        self.lines, self.pause = 0, 0.0

    def land(self, number: int) -> None:
        """Files of every table, one of them twice, and of some a full load."""
        for table in self.tables:
            for name in ("a", "b"):
                key = f"{cdc_prefix(table.contract)}2024/06/13/{number}{name}.parquet"
                self._put(table, key, self._changes(table.contract, key))
            again = f"{cdc_prefix(table.contract)}2024/06/14/{number}.parquet"
            self._put(table, again, [self._change(table.contract, again, 0)])
            if self.random.random() < 0.3:
                self._load(table, number)

    def _put(self, table: Table, key: str, rows: list[Change]) -> None:
        self.lakehouse.store.write(key, landed(table.contract, rows))
        table.changes += rows

    def _changes(self, of: Contract, file: str) -> list[Change]:
        return [self._change(of, file, row) for row in range(self.random.randint(1, 12))]

    def _change(self, of: Contract, file: str, row: int) -> Change:
        """A change of one of few keys, with many ties of order."""
        key = self._key(of)
        op = self.random.choice("IUD")
        seq = self.random.choice([None, *range(5)] if of.order[0] != "change_seq" else range(40))
        values = dated_values(of, key, self.random.choice("xyz"), row)
        return Change(
            key,
            op,
            START + timedelta(hours=self.random.randrange(20)),
            None if seq is None or "change_seq" not in of.order else _spelled(of, seq),
            file,
            row,
            () if op == "D" and self.random.random() < 0.5 else values,
        )

    def _key(self, of: Contract) -> tuple[str | int, ...]:
        return (self.random.choice("abcdefgh"), self.random.randrange(2))[: len(of.key)]

    def _load(self, table: Table, number: int) -> None:
        """A full load of one part: its rows, and the manifest that ends it."""
        of = table.contract
        moment = (
            START + timedelta(hours=self.random.randrange(15), minutes=number) if of.order[0] != "change_seq" else None
        )
        seq = None if moment else _spelled(of, number)
        name = f"L{number}"
        file = f"{full_load_prefix(of)}{name}/part.parquet"
        keys = sorted({self._key(of) for _ in range(5)})
        rows = [
            Change(k, "I", moment, seq, file, n, dated_values(of, k, "loaded", n), name) for n, k in enumerate(keys)
        ]
        etag = self.lakehouse.store.write(file, landed(of, rows))
        at = {"modified_date": moment.isoformat()} if moment else {"change_seq": seq}
        manifest = {"position": at, "files": [{"key": file, "etag": etag}]}
        self.lakehouse.store.write(f"{full_load_prefix(of)}{name}/_manifest.json", json.dumps(manifest).encode())
        table.loads.append(Load(name, moment, seq, ended=True, rows=tuple(rows)))

    def start(self) -> subprocess.Popen[str]:
        return subprocess.Popen(
            [UPSELL, "ingest"],
            env={**os.environ, **self.environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def run(self) -> None:
        """Ingest to the end, and remember how it went."""
        with self.start() as process:
            assert process.stdout
            lines = [process.stdout.readline()]
            began = time.monotonic()
            lines += process.stdout.readlines()
        assert process.returncode == 0, "".join(lines)
        self.lines = len(lines)
        self.pause = (time.monotonic() - began) / self.lines

    def kill(self) -> bool:
        """Kill an ingest a while after a line that it prints; whether it was not done yet."""
        lines, pause = self.random.randint(1, self.lines), self.random.uniform(0, self.pause)
        with self.start() as process:
            assert process.stdout
            for _ in range(lines):
                process.stdout.readline()
            time.sleep(pause)
            process.kill()
        return process.returncode == -signal.SIGKILL

    def finish(self) -> None:
        """What the command does, without the time that it takes to start."""
        for table in self.tables:
            done = ingest(self.lakehouse.store, self.lakehouse.lake, table.contract)
            assert done.quarantined == []

    def commits(self) -> int:
        """To all tables, so far."""
        store = self.lakehouse.store
        objects = [found.key for prefix in ("bronze/", "raw/s/_ledger/") for found in store.list(prefix)]
        return sum("/_delta_log/" in key and key.endswith(".json") for key in objects)

    def wrong(self) -> list[str]:
        """The tables that do not hold what the oracle says."""
        return [
            table.contract.table
            for table in self.tables
            if holds(self.lakehouse.lake, table.contract) != law(table.contract).oracle(table.changes, table.loads)
        ]


def _spelled(of: Contract, seq: int) -> int | str:
    return f"{seq:03d}" if of.change_seq_type == "string" else seq


def test_a_killed_ingest_is_made_good_by_the_next(open_lakehouse: OpenLakehouse, tmp_path: Path) -> None:
    wrong: list[str] = []
    halfway = kills = 0
    while kills < KILLS.count:
        site = Site(open_lakehouse(contracts=tmp_path), tmp_path, f"{SEED} {kills}")
        site.land(0)
        site.run()
        for number in range(1, ROUNDS + 1):
            site.land(number)
            before = site.commits()
            killed = site.kill()
            at = site.commits()
            site.finish()
            after = site.commits()
            LOG.info("seed %s, kill %s: after %s of %s commits", SEED, kills, at - before, after - before)
            wrong += [f"kill {kills}: {table}" for table in site.wrong()]
            kills += killed
            halfway += before < at < after
            if kills == KILLS.count:
                break
        site.run()
        assert site.commits() == after

    assert wrong == []
    assert halfway > KILLS.count / 2
