"""How long work shows that it moves: bars on a terminal, plain lines elsewhere; always on stderr.

Here: two reporters with one face. Not here: what there is to say (`up`, the layers).
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from time import monotonic
from typing import TYPE_CHECKING, ParamSpec, Protocol, TextIO

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


P = ParamSpec("P")


def seldom(say: Callable[P, object], seconds: float = 2.0) -> Callable[P, None]:
    """The same, called at most every so many seconds; what comes in between is not said."""
    said = monotonic()

    def now_and_then(*arguments: P.args, **named: P.kwargs) -> None:
        nonlocal said
        if monotonic() - said >= seconds:
            said = monotonic()
            say(*arguments, **named)

    return now_and_then


class Reporter(Protocol):
    """Says lines, and shows how many assets of each layer are made."""

    def line(self, text: str) -> None:
        """Say something once."""

    def graph(self, made: Mapping[str, tuple[int, int]], note: str) -> None:
        """Show the graph as it is now: layer -> (made, all); `note` says what runs or failed."""


class PlainReporter:
    """Lines only; a graph that has not changed is not said again."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self._last = ""

    def line(self, text: str) -> None:
        """See `Reporter.line`."""
        print(text, file=self._out, flush=True)

    def graph(self, made: Mapping[str, tuple[int, int]], note: str) -> None:
        """See `Reporter.graph`."""
        layers = "  ".join(f"{layer} {done}/{total}" for layer, (done, total) in made.items())
        text = f"assets: {layers}" + (f"  ({note})" if note else "")
        if text != self._last:
            self._last = text
            self.line(text)


class TerminalReporter:
    """A bar for each layer below the lines."""

    def __init__(self, bars: Progress) -> None:
        self._bars = bars
        self._tasks: dict[str, TaskID] = {}

    def line(self, text: str) -> None:
        """See `Reporter.line`."""
        self._bars.console.print(text, highlight=False, markup=False)

    def graph(self, made: Mapping[str, tuple[int, int]], note: str) -> None:
        """See `Reporter.graph`."""
        for layer, (done, total) in made.items():
            if layer not in self._tasks:
                self._tasks[layer] = self._bars.add_task(layer, total=total, note="")
            self._bars.update(self._tasks[layer], completed=done, note="")
        if self._tasks:
            self._bars.update(list(self._tasks.values())[-1], note=note)
        if all(done == total for done, total in made.values()):
            self._bars.stop()


@contextmanager
def reporter(out: TextIO | None = None) -> Iterator[Reporter]:
    """The reporter that suits where stderr goes."""
    out = out or sys.stderr
    if not out.isatty():
        yield PlainReporter(out)
        return
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn

    columns = (
        TextColumn("{task.description:>14}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TextColumn("[dim]{task.fields[note]}"),
    )
    with Progress(*columns, console=Console(file=out)) as bars:
        yield TerminalReporter(bars)
