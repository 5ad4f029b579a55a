"""The `upsell` command.

Here: what commands there are, and exit codes (0 done, 1 failed, 2 usage). What a command does lives in the layers,
which are imported only when their command runs.
"""

from __future__ import annotations

import signal
import sys
from typing import Annotated

import typer

from upsell_assets.cli import bronze, capture, cluster, contract, dms, lake, lineage, quarantine, source, why
from upsell_assets.cli.common import HELP
from upsell_assets.errors import UpsellError

app = typer.Typer(
    help="The upsell lakehouse: a points database becomes bronze, silver, features and churn scores.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings=HELP,
)
for commands in (lake, source, capture, bronze, lineage, why):
    app.add_typer(commands.app)
app.add_typer(contract.app, name="contract")
app.add_typer(quarantine.app, name="quarantine")
app.add_typer(dms.app, name="dms")
app.add_typer(cluster.app, name="cluster")

Debug = Annotated[bool, typer.Option("--debug", help="Show tracebacks of errors.")]


@app.callback()
def _options(context: typer.Context, debug: Debug = False) -> None:
    context.obj = {"debug": debug}


def main() -> None:
    """Entry point: an error that a person can act on is one line on stderr and exit code 1."""
    # As Ctrl-C does: what was begun is put in order on the way out.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        app()
    except UpsellError as error:
        if "--debug" in sys.argv:
            raise
        typer.echo(f"upsell: {error}", err=True)
        raise SystemExit(1) from None
    except KeyboardInterrupt:
        typer.echo("upsell: stopped", err=True)
        raise SystemExit(130) from None
