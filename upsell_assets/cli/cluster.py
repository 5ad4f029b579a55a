"""Commands for a Spark cluster on this machine."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from upsell_assets.cli.common import AsJson, print_json, print_table, progress

if TYPE_CHECKING:
    from upsell_assets.services.state import State

app = typer.Typer(help="A Spark cluster on this machine, to try the Spark engine on.", no_args_is_help=True)


@app.command()
def up(
    workers: Annotated[int, typer.Option(min=1, help="Workers.")] = 2,
    cores: Annotated[int, typer.Option(min=1, help="Cores of each worker.")] = 1,
    memory: Annotated[str, typer.Option(help="Memory of each worker, such as 512m or 2g.")] = "1g",
) -> None:
    """Start a standalone Spark master and its workers, and print the variables by which the lake uses them.

    Example: env $(upsell cluster up) upsell query "SELECT COUNT(*) AS n FROM silver.upsell.transacoes"
    """
    import shlex

    from upsell_assets.services.spark_cluster import Size, SparkCluster, memory_mb
    from upsell_assets.services.state import State
    from upsell_assets.settings import load_settings

    try:
        size = Size(workers, cores, memory_mb(memory))
    except ValueError as error:
        raise typer.BadParameter(str(error), param_hint="--memory") from None
    state = State.open(load_settings().home)
    cluster = SparkCluster(state)
    with state.lock():
        progress(f"Spark cluster: {size}")
        cluster.start(size)
        progress(f"its page: {cluster.status().nodes[0].page}")
        typer.echo(" ".join(f"{name}={shlex.quote(value)}" for name, value in cluster.environment().items()))


@app.command()
def down() -> None:
    """Stop the cluster and what still runs on it."""
    from upsell_assets.services.spark_cluster import SparkCluster

    state = _home()
    stopped = []
    if state:
        with state.lock():
            stopped = SparkCluster(state).stop()
    progress(f"stopped: {', '.join(stopped)}" if stopped else "nothing was running")


@app.command()
def status(as_json: AsJson = False) -> None:
    """Master, workers and the applications on them; exit code 1 if no cluster runs."""
    from upsell_assets.errors import PermanentError
    from upsell_assets.services.spark_cluster import SparkCluster

    state = _home()
    if state is None:
        raise PermanentError("Spark cluster: none runs here. Start one: upsell cluster up.")
    found = SparkCluster(state).status()
    if as_json:
        print_json(found.as_json())
        return
    rows = [
        [node.name, node.state, str(node.pid), node.page, *(str(size or "-") for size in (node.cores, node.memory_mb))]
        for node in found.nodes
    ]
    print_table(["name", "state", "process", "page", "cores", "MB"], rows)
    typer.echo(f"{found.master}: {', '.join(found.applications) or 'no applications'}")


def _home() -> State | None:
    from upsell_assets.services.state import State
    from upsell_assets.settings import load_settings

    return State.find(load_settings().home)
