"""Commands at the beginning of the way: activity in the points database, and its capture into raw."""

from __future__ import annotations

from typing import Annotated

import typer

from upsell_assets.cli.common import lakehouse_of_settings, progress
from upsell_assets.errors import PermanentError

app = typer.Typer()


@app.command()
def simulate(
    bursts: Annotated[int, typer.Option(min=0, help="Stop after so many bursts; 0: go on until Ctrl-C.")] = 0,
    rate: Annotated[float, typer.Option(min=0.01, help="Bursts of activity a second.")] = 1.0,
) -> None:
    """Let customers chat, earn and spend in the embedded points database."""
    import threading
    import time
    from collections import Counter

    from upsell_assets.source.live import LiveActivity

    done: Counter[str] = Counter()
    with lakehouse_of_settings() as (lakehouse, running):
        if running.app_dsn is None:
            raise PermanentError(
                "simulate: invents rows, and UPSELL_SOURCE_DSN names a database of yours. Unset it to simulate."
            )
        stop = threading.Event()
        with LiveActivity(running.app_dsn, seed=int(time.time()), schema=lakehouse.settings.source_schema) as live:
            number = 0
            while not bursts or number < bursts:
                number += 1
                step = live.step()
                done.update(step)
                progress(f"burst {number}: {', '.join(f'{count} {kind}' for kind, count in step.items()) or 'nobody'}")
                if number != bursts and stop.wait(1 / rate):
                    break
    typer.echo(", ".join(f"{count} {kind}" for kind, count in sorted(done.items())))


@app.command()
def capture(
    follow: Annotated[bool, typer.Option("--follow/--once", help="Go on until Ctrl-C, or drain once.")] = False,
) -> None:
    """Database to raw: the full load if it is due, then every change committed by now."""
    import threading

    from upsell_assets.capture.assets import open_capture

    with lakehouse_of_settings() as (lakehouse, _):
        found = open_capture(lakehouse)
        if found is None:
            raise PermanentError("capture: there is no database, or no table of it to capture. Set UPSELL_SOURCE_DSN.")
        for load in found.ensure_full_load():
            progress(f"full load of {load.table}: {load.rows:,} rows")
        if not follow:
            drained = found.drain()
            typer.echo(f"{sum(drained.changes.values()):,} changes, position {drained.position}")
            return
        for drained in found.follow(threading.Event()):
            if drained.changes:
                typer.echo(f"{sum(drained.changes.values()):,} changes, position {drained.position}")
