"""A lake that `upsell up` keeps running: what its tests do to it from outside, by hand in PostgreSQL or in raw."""

from __future__ import annotations

import csv
import io
import re
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.parquet as pq
from lake import UserLake, until

from upsell_assets.lake.store import ObjectStore
from upsell_assets.services.embedded import embedded
from upsell_assets.services.postgres import SUPERUSER, PostgresServer
from upsell_assets.services.state import State
from upsell_assets.settings import Settings

NOW = datetime.now(UTC).replace(tzinfo=None, microsecond=0)
DAYS = 60
LATE_DAYS = [NOW.date() - timedelta(back) for back in (3, 2, 1)]
"""Landing days of before the lake began, to which files come late; the sensor looks at them at each tick."""

_ENVIRONMENT = {
    "UPSELL_SENSOR_SECONDS": "5",
    "UPSELL_CAPTURE_SECONDS": "5",
    "UPSELL_FIRST_LANDING_DAY": LATE_DAYS[0].isoformat(),
}


def write_dump(folder: Path) -> None:
    """Two months of a small community: everybody chats every few days at noon, each with lines of a cart."""
    folder.mkdir()
    tables: dict[str, list[list[Any]]] = {
        "customers": [["idCustomer", "PointsCustomer", "flEmail"]],
        "transactions": [["idTransaction", "idCustomer", "dtTransaction", "pointsTransaction"]],
        "transactions_product": [["idTransactionCart", "idTransaction", "NameProduct", "QuantityProduct"]],
    }
    for person in range(40):
        tables["customers"].append([f"c{person}", person, person % 2])
        # A third of them fades, so that there are churners to learn from.
        gone = DAYS if person % 3 else 20 + person
        for day in range(person % 4, gone, 2 + person % 4):
            at = NOW - timedelta(days=DAYS - day, hours=1)
            name = f"t{person}-{day}"
            tables["transactions"].append([name, f"c{person}", at.isoformat(sep=" "), 1 + day])
            tables["transactions_product"].append([f"l{person}-{day}", name, "ChatMessage", 1])
    for table, rows in tables.items():
        with (folder / f"{table}.csv").open("w", newline="") as file:
            csv.writer(file).writerows(rows)


class RunningLake:
    """`upsell up` in a home; `user` asks it by commands."""

    def __init__(self, home: Path, dump: Path) -> None:
        self.user = UserLake(home, _ENVIRONMENT)
        self.process: subprocess.Popen[bytes] = self.user.start("up", "--seed-from", dump)

    def await_complete(self) -> None:
        """Wait until every asset was made."""

        def said() -> bool:
            assert self.process.poll() is None, self.user.log()
            return "complete after" in self.user.log()

        until(said, "'complete after' in the output", 400)

    @property
    def address(self) -> str:
        """Where the web interface is, as the command says once the lake is complete."""
        found = re.search(r"http://127\.0\.0\.1:\d+", self.user.log().partition("complete after")[2])
        assert found is not None, self.user.log()
        return found[0]

    def execute(self, *statements: str) -> None:
        """As somebody does by hand, in one transaction."""
        dsn = PostgresServer(State(self.user.home)).dsn(SUPERUSER, database="points")
        with psycopg.connect(dsn) as connection:
            for statement in statements:
                connection.execute(statement)

    def land(self, table: str, day: date, name: str, rows: Iterable[Mapping[str, Any]]) -> None:
        """A file of changes in the folder of a landing day, as another producer uploads it."""
        buffer = io.BytesIO()
        pq.write_table(pa.Table.from_pylist(list(rows)), buffer)
        with embedded(Settings(home=self.user.home)) as running:
            store = ObjectStore.from_settings(running.settings)
            store.write(f"raw/upsell/cdc/{table}/{day:%Y/%m/%d}/{name}.parquet", buffer.getvalue())
