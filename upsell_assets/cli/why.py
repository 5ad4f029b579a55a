"""Commands that ask why an asset was made or was not, and that run again what failed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from upsell_assets.cli.common import AsJson, print_facts, print_json
from upsell_assets.errors import PermanentError

if TYPE_CHECKING:
    from dagster import DagsterInstance, DagsterRun

    from upsell_assets.settings import Settings
    from upsell_assets.why import Why

app = typer.Typer()


@app.command()
def why(
    asset: Annotated[str, typer.Argument(help="An asset: gold.upsell.daily_report, or with slashes.")],
    partition: Annotated[str | None, typer.Argument(help="One of its days: a dtRef, or a landing day.")] = None,
    as_json: AsJson = False,
) -> None:
    """Why an asset (or one of its days) was made, and why it is not made now, by Dagster's own records.

    Example: upsell why gold.upsell.daily_report 2024-06-14
    """
    from datetime import UTC, datetime

    from upsell_assets.definitions import build_defs
    from upsell_assets.settings import load_settings
    from upsell_assets.up import web_url, with_calendar
    from upsell_assets.why import find_asset
    from upsell_assets.why import why as ask

    settings = with_calendar(load_settings())
    graph = build_defs(settings).resolve_asset_graph()
    key = find_asset(graph, asset)
    with _instance(settings) as instance:
        found = ask(instance, graph, key, partition, datetime.now(UTC))
    url = web_url(settings)
    if as_json:
        print_json(asdict(found) | {"url": f"{url}/assets/{'/'.join(key.path)}" if url else None})
    else:
        print_facts(list(_facts(found, url)))


def _facts(found: Why, url: str | None) -> Iterator[tuple[str, str]]:
    yield "asset", f"{found.asset} {found.partition or ''}".rstrip()
    for made in found.made:
        run = f" by run {made.run}" if made.run else ""
        yield "made", f"{made.at:%Y-%m-%d %H:%M:%S} UTC{run}{f', {made.partitions}' if made.partitions else ''}"
        if url and made.run:
            yield "", f"{url}/runs/{made.run}"
        for line in made.because:
            yield "because", line
    if not found.made:
        yield "made", "never"
    for line in found.failed:
        yield "failed", line
    for line in found.now:
        yield "now", line


@app.command()
def retry(
    runs: Annotated[list[str] | None, typer.Argument(help="Ids of runs, or their beginnings.")] = None,
    failed: Annotated[
        bool, typer.Option("--failed", help="All runs that failed and were not made good since.")
    ] = False,
    since: Annotated[float, typer.Option("--since", min=0.0, help="With --failed: of the last so many hours.")] = 24.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only say what would be launched.")] = False,
) -> None:
    """Launch runs again, with the same assets and days; exit code 1 if one could not be.

    Example: upsell retry --failed --since 6
    """
    from upsell_assets.launch import run_again
    from upsell_assets.settings import load_settings
    from upsell_assets.up import web_url

    if bool(runs) == failed:
        raise typer.BadParameter("name runs, or give --failed")
    settings = load_settings()
    with _instance(settings) as instance:
        again = _failed(instance, since) if failed else [_finished(instance, run) for run in runs or ()]
        said = [(run.run_id, _what(instance, run)) for run in again]
    if not said:
        typer.echo("nothing failed that was not made good since")
        return
    url = web_url(settings)
    if url is None and not dry_run:
        raise PermanentError(
            f"home {settings.home}: no lake runs here that could run {len(said)} runs again. Start it with `upsell up`, "
            "which itself runs again what failed last."
        )
    faults = False
    for run, what in said:
        if dry_run:
            typer.echo(f"would launch again {run}: {what}")
            continue
        assert url is not None
        done = run_again(url, run)
        faults |= done.fault is not None
        typer.echo(
            f"{run}: " + (f"launched again as {done.run}" if done.run else f"not launched, {done.fault}") + f" ({what})"
        )
    if faults:
        raise typer.Exit(1)


def _failed(instance: DagsterInstance, hours: float) -> list[DagsterRun]:
    from datetime import UTC, datetime, timedelta

    from upsell_assets.resume import failed_runs

    return [record.dagster_run for record in failed_runs(instance, datetime.now(UTC) - timedelta(hours=hours))]


def _finished(instance: DagsterInstance, name: str) -> DagsterRun:
    """The run of an id, or of the beginning of one."""
    import dagster as dg

    run = instance.get_run_by_id(name)
    recent = [] if run else [run for run in instance.get_runs(limit=1000) if run.run_id.startswith(name)]
    if run is None and len(recent) != 1:
        many = f"{len(recent)} runs begin so" if recent else "there is no such run"
        raise PermanentError(f"run {name}: {many}. Take its whole id from `upsell why`, or from the list of runs.")
    found = run or recent[0]
    if found.status not in (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED):
        raise PermanentError(f"run {found.run_id}: is {found.status.value.lower()}; wait until it has ended.")
    return found


def _what(instance: DagsterInstance, run: DagsterRun) -> str:
    from upsell_assets.why import work_of

    return work_of(instance, run)


@contextmanager
def _instance(settings: Settings) -> Iterator[DagsterInstance]:
    """Dagster's records of this home."""
    home = Path(os.environ.get("DAGSTER_HOME") or settings.home / "dagster")
    if not (home / "dagster.yaml").exists():
        raise PermanentError(f"home {home}: Dagster has never run here. Start it with `upsell up`, or set UPSELL_HOME.")
    import dagster as dg

    with dg.DagsterInstance.from_config(str(home)) as instance:
        yield instance
