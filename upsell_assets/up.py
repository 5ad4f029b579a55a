"""`upsell up`: everything in one command, from an empty folder to a lake that runs by itself.

Here: the order of the steps, and what is said on the way. Not here: the services (`services`), the rows (`source`),
capture, or what Dagster runs.
"""

from __future__ import annotations

import json
import os
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

from upsell_assets.capture.job import Capture
from upsell_assets.capture.setup import prepare
from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.launch import LOCATION, run_job
from upsell_assets.services.embedded import CAPTURE_ROLE, Running, embedded
from upsell_assets.services.process import free_ports, require_port
from upsell_assets.services.state import State
from upsell_assets.services.supervisor import Supervisor, supervised
from upsell_assets.settings import Settings
from upsell_assets.source.database import connect, event_days, is_filled
from upsell_assets.source.live import LiveActivity

if TYPE_CHECKING:
    from upsell_assets.outlook import Outlook
    from upsell_assets.progress import Reporter

ROOT = Path(__file__).parent
WEBSERVER = "webserver"
LOOK_SECONDS = 3.0
STUCK_SECONDS = 300
BURSTS_PER_SECOND = 0.3

Say = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What the command line asks for; `port` 0 means any free one."""

    once: bool = False
    seed_from: Path | None = None
    customers: int = 3000
    days: int = 180
    port: int = 0
    activity: bool = True


def run(settings: Settings, options: Options, report: Reporter) -> None:
    """Bring the lake up and keep it up, or with `once` until all there is has been processed.

    Raises:
        UpsellError: a step failed, or (with `once`) an asset did.
    """
    if settings.profile != "embedded":
        raise PermanentError(
            f"upsell up brings up a lake of one machine, and UPSELL_PROFILE is {settings.profile}. Run the processes of "
            "docs/operations.md, or leave the profile out."
        )
    if options.port:
        require_port(options.port)
    started = time.time()
    say = report.line
    say(f"home {settings.home}")
    with embedded(settings) as running:
        say(_services_line(running))
        simulated = _fill_source(running, options, say)
        _first_load(running, say)
        running = _with_calendar(running)
        with Supervisor(settings.home) as supervisor:
            url = _start_dagster(supervisor, running, options.port, say)
            if _complete(supervisor, running, options, started, report) and not options.once:
                _draw_first(supervisor, settings.home, url, say)
                chatting = simulated and options.activity
                say(_what_to_look_at(url, chatting=chatting))
                with _live_activity(running, say, on=chatting):
                    supervisor.wait()


def _services_line(running: Running) -> str:
    source = "embedded PostgreSQL" if running.owner_dsn else "PostgreSQL of UPSELL_SOURCE_DSN"
    store = "embedded S3 server" if running.embedded_store else "S3 of UPSELL_S3_ENDPOINT"
    return f"services: {source}, {store} {running.settings.s3_endpoint or ''}"


def _fill_source(running: Running, options: Options, say: Say) -> bool:
    """Fill an empty embedded database; whether its rows are simulated."""
    from upsell_assets.source.loader import load_dump
    from upsell_assets.source.simulator import simulate

    settings = running.settings
    if running.owner_dsn is None:
        if options.seed_from is not None:
            raise PermanentError(
                "--seed-from: fills the embedded database only, and UPSELL_SOURCE_DSN names another. "
                "Leave one of the two out."
            )
        return False
    mark = settings.home / "source.json"
    with connect(running.owner_dsn) as connection:
        if not is_filled(connection, settings.source_schema):
            progress = _counted(say)
            if options.seed_from is not None:
                say(f"source: loading the dump in {options.seed_from}")
                load_dump(connection, options.seed_from, settings.source_schema, progress)
            else:
                say(f"source: simulating {options.customers:,} customers over {options.days} days")
                simulate(
                    connection,
                    customers=options.customers,
                    days=options.days,
                    seed=settings.seed,
                    schema=settings.source_schema,
                    progress=progress,
                )
            mark.write_text(json.dumps({"simulated": options.seed_from is None}))
    return bool(mark.exists() and json.loads(mark.read_text())["simulated"])


def _counted(say: Say) -> Callable[[str, int], None]:
    return lambda table, rows: say(f"  {table}: {rows:,} rows")


def _first_load(running: Running, say: Say) -> None:
    settings = running.settings
    lakehouse = Lakehouse(settings)
    lakehouse.store.check()
    if settings.source_dsn is None:
        say("capture: no database (UPSELL_SOURCE_DSN is not set); drop files into raw")
        return
    if not lakehouse.captured:
        say("capture: other producers write the files of all tables")
        return
    owner = running.owner_dsn or settings.source_dsn.get_secret_value()
    role = CAPTURE_ROLE if running.owner_dsn else None
    with connect(owner) as connection:
        prepare(
            connection,
            lakehouse.captured,
            name=settings.capture_name,
            schema=settings.source_schema,
            capture_role=role,
        )
    capture = Capture(
        settings.source_dsn.get_secret_value(),
        lakehouse.store,
        lakehouse.captured,
        name=settings.capture_name,
        schema=settings.source_schema,
    )
    loads = capture.ensure_full_load()
    for load in loads:
        say(f"capture: full load of {load.table}, {load.rows:,} rows")
    if not loads:
        say("capture: the full load is there, the stream goes on where it was")


def _with_calendar(running: Running) -> Running:
    """The days on which the calendars begin, from the data at the first start, and kept from then on."""
    settings = running.settings
    mark = settings.home / "calendar.json"
    if not mark.exists():
        days = None
        if settings.source_dsn is not None and _is_points_system(running):
            with connect(settings.source_dsn.get_secret_value()) as connection:
                days = event_days(connection, settings.source_schema)
        first = settings.first_day or (days[0] if days else None)
        landing = settings.first_landing_day or datetime.now(UTC).date()
        mark.write_text(
            json.dumps({"first_day": first and first.isoformat(), "first_landing_day": landing.isoformat()})
        )
    return Running(with_calendar(settings), running.owner_dsn, running.app_dsn, running.embedded_store)


def with_calendar(settings: Settings) -> Settings:
    """The settings with the days on which this home's calendars begin, where they do not say so and it knows."""
    mark = settings.home / "calendar.json"
    if not mark.exists():
        return settings
    known = {name: date.fromisoformat(day) for name, day in json.loads(mark.read_text()).items() if day}
    values = {name: getattr(settings, name) for name in Settings.model_fields}
    chosen = {name: day for name, day in known.items() if values[name] is None}
    return Settings(**{**values, **chosen})


def web_url(settings: Settings) -> str | None:
    """The address of this home's web interface; None where no lake runs."""
    state = State.find(settings.home)
    webserver = state and supervised(state, WEBSERVER)
    return f"http://127.0.0.1:{webserver.ports['http']}" if webserver and webserver.ports else None


def _is_points_system(running: Running) -> bool:
    """Whether the contracts have the transactions whose days begin the calendars; another database has none."""
    return "upsell.transactions" in {contract.name for contract in Lakehouse(running.settings).contracts.values()}


def _start_dagster(supervisor: Supervisor, running: Running, port: int, say: Say) -> str:
    from upsell_assets.resume import launch_again, unfinished_runs

    home = running.settings.home / "dagster"
    home.mkdir(exist_ok=True)
    shutil.copyfile(ROOT / "dagster.yaml", home / "dagster.yaml")
    grpc, free = free_ports(2)
    port = port or free
    url = f"http://127.0.0.1:{port}"
    environment = {
        "UPSELL_WEB_URL": url,
        **os.environ,
        **running.environment(),
        "DAGSTER_HOME": str(home),
        "PYTHONUNBUFFERED": "1",
    }
    workspace = home / "workspace.yaml"
    workspace.write_text(
        yaml.safe_dump({"load_from": [{"grpc_server": {"host": "127.0.0.1", "port": grpc, "location_name": LOCATION}}]})
    )
    bin_folder = Path(sys.executable).parent
    unfinished = unfinished_runs(home)
    say("dagster: starting the code location, the daemon and the web interface")
    supervisor.start(
        "code",
        [
            bin_folder / "dagster", "code-server", "start", "-m", "upsell_assets.definitions", "--host", "127.0.0.1",
            "--port", str(grpc), "--location-name", LOCATION, "--inject-env-vars-from-instance",
        ],
        env=environment,
    )  # fmt: skip
    supervisor.start("daemon", [bin_folder / "dagster-daemon", "run", "-w", str(workspace)], env=environment)
    supervisor.start(
        WEBSERVER,
        [bin_folder / "dagster-webserver", "-w", str(workspace), "-h", "127.0.0.1", "-p", str(port)],
        env=environment,
        ports={"http": port},
    )
    if unfinished:
        launch_again(url, unfinished)
        say(f"dagster: launched again {len(unfinished)} runs that were not finished")
    return url


@contextmanager
def _live_activity(running: Running, say: Say, *, on: bool) -> Iterator[None]:
    """Customers who go on chatting, as long as the context lasts."""
    if not on or running.app_dsn is None:
        yield
        return
    stop = threading.Event()

    def live(dsn: str) -> None:
        with LiveActivity(dsn, seed=int(time.time()), schema=running.settings.source_schema) as activity:
            while not stop.is_set():
                try:
                    activity.run(stop, BURSTS_PER_SECOND)
                except RetryableError as error:
                    say(f"live activity: {error}")
                    stop.wait(5)

    thread = threading.Thread(target=live, args=(running.app_dsn,), name="live activity", daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join(10)


def _complete(supervisor: Supervisor, running: Running, options: Options, started: float, report: Reporter) -> bool:
    """Say how the graph fills until every asset is there (with `once`: until all has flowed through).

    Returns whether it is; False: somebody asked to stop before.
    """
    import dagster as dg

    from upsell_assets.definitions import build_defs
    from upsell_assets.outlook import look

    lakehouse = Lakehouse(running.settings)
    assets = sorted(build_defs(running.settings).resolve_asset_graph().executable_asset_keys)
    began = moved = time.time()
    last = None
    with dg.DagsterInstance.from_config(str(running.settings.home / "dagster")) as instance:
        while not supervisor.wait(LOOK_SECONDS):
            view = look(instance, lakehouse, assets, began, closely=options.once)
            report.graph(view.made, _note(view))
            if view != last:
                last, moved = view, time.time()
            if options.once:
                _fail_if_stuck(view, time.time() - moved)
            if view.settled if options.once else view.complete:
                break
        else:
            return False
    report.line(f"complete after {time.time() - started:.0f} s")
    return True


def _draw_first(supervisor: Supervisor, home: Path, url: str, say: Say) -> None:
    """Ask for the plots of a new lake, which has none before the night, as soon as the web interface answers."""
    import dagster as dg

    from upsell_assets.pictures.assets import JOB
    from upsell_assets.resume import READY_SECONDS

    with dg.DagsterInstance.from_config(str(home / "dagster")) as instance:
        if instance.get_runs_count(dg.RunsFilter(job_name=JOB)):
            return
    deadline = time.monotonic() + READY_SECONDS
    while (fault := run_job(url, JOB).fault) is not None:
        if time.monotonic() > deadline:
            say(f"pictures: could not be asked for ({fault}); they are drawn with the next audit")
            return
        if supervisor.wait(1):
            return


def _fail_if_stuck(view: Outlook, quiet_seconds: float) -> None:
    if view.failed and not view.runs:
        raise PermanentError(f"{len(view.failed)} runs failed: {'; '.join(view.failed)}")
    if quiet_seconds > STUCK_SECONDS:
        raise RetryableError(
            f"nothing has moved for {STUCK_SECONDS} s; waiting for: {', '.join(view.waiting) or 'runs'}. "
            "See the logs in the home folder, and run it again."
        )


def _note(view: Outlook) -> str:
    parts = [f"{view.runs} running or queued"] if view.runs else []
    parts += [f"waiting for {', '.join(view.waiting)}"] if view.waiting else []
    parts += [f"failed: {'; '.join(view.failed)}"] if view.failed else []
    return "; ".join(parts)


def _what_to_look_at(url: str, *, chatting: bool) -> str:
    goes_on = "Customers go on chatting; " if chatting else ""
    return f"""
  graph     {url}/asset-groups    every table of each layer, and what runs
  runs      {url}/runs            what the sensors start as activity flows through
  churn     {url}/assets/model/upsell/churn    the model, its check and its reliability plot
  query     upsell query "SELECT * FROM gold.upsell.churn_report ORDER BY dtRef DESC LIMIT 5"
  status    upsell status

{goes_on}Ctrl-C stops everything, `upsell up` goes on where it was."""
