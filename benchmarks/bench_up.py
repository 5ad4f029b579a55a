"""How long a newcomer waits: `upsell up` with the default data in an empty home, and what it leaves running.

The oracle: every asset is made, and silver has as many transactions as bronze. Cases: `complete graph` (seconds from
the command to the complete graph), `at rest` and `with runs` (least and greatest memory of the whole process tree,
PSS, in the minute after it).
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

UPSELL = Path(sys.executable).parent / "upsell"
OUT = Path(__file__).parent / "out" / "up.json"


def main() -> None:
    """Run, print, write the rows."""
    with tempfile.TemporaryDirectory() as folder:
        environment = {**os.environ, "UPSELL_HOME": f"{folder}/home"}
        began = time.monotonic()
        with Path(f"{folder}/log").open("w+b") as log:
            process = subprocess.Popen([UPSELL, "up"], env=environment, stdout=log, stderr=log)
            while b"complete after" not in Path(f"{folder}/log").read_bytes():
                if process.poll() is not None:
                    sys.exit(Path(f"{folder}/log").read_text())
                time.sleep(0.5)
            seconds = time.monotonic() - began
            samples = []
            for _ in range(20):  # customers chat meanwhile: runs come and go
                time.sleep(3)
                samples.append(tree_mb(f"{folder}/home"))
            process.send_signal(signal.SIGINT)
            process.wait(120)
        # What was under way when it was stopped flows through, then both ends must agree.
        subprocess.run([UPSELL, "up", "--once"], env=environment, capture_output=True, check=True)
        status = subprocess.run([UPSELL, "status", "--json"], env=environment, capture_output=True, check=True)
        rows = {table["table"]: table["rows"] for table in json.loads(status.stdout)["tables"]}
        right = all(count for count in rows.values())
        right &= rows["bronze.upsell.transactions"] == rows["silver.upsell.transacoes"]
    report(seconds, min(samples), max(samples), right)


def tree_mb(home: str) -> float:
    """Proportional memory of every process that names the home in its environment or arguments."""
    total = 0
    for entry in Path("/proc").glob("[0-9]*"):
        try:
            named = home.encode() in (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
            if named:
                lines = (entry / "smaps_rollup").read_text().splitlines()
                total += next(int(line.split()[1]) for line in lines if line.startswith("Pss:"))
        except (FileNotFoundError, PermissionError, ProcessLookupError):
            continue
    return total / 1024


def report(seconds: float, rest: float, live: float, right: bool) -> None:
    """Print the table and write it."""
    oracle = "right" if right else "wrong"
    rows = [
        {"case": "complete graph", "system": "upsell", "median_s": round(seconds, 1), "ratio": None, "peak_mb": None},
        {"case": "at rest", "system": "upsell", "median_s": None, "ratio": None, "peak_mb": round(rest)},
        {"case": "with runs", "system": "upsell", "median_s": None, "ratio": None, "peak_mb": round(live)},
    ]
    for row in rows:
        row["oracle"] = oracle
        print("  ".join(f"{name} {value}" for name, value in row.items() if value is not None))
    OUT.parent.mkdir(exist_ok=True)
    OUT.write_text(json.dumps(rows, indent=2))


if __name__ == "__main__":
    main()
