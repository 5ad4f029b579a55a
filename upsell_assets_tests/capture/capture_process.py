"""A capture in a process of its own, to be killed: it loads what is due, then drains without pause.

Its files, portions and rounds are made so small that a few rows take several of each.
"""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from threading import Event

from capture_place import Place

from upsell_assets.capture import changes, full_load, landing, stream
from upsell_assets.capture.job import Capture
from upsell_assets.contracts import Contract
from upsell_assets.errors import RetryableError
from upsell_assets.lake.store import ObjectStore

BEGUN, LOADED, DRAINED = "begun", "loaded", "drained"
_PATIENCE = 120
_CONTEXT = multiprocessing.get_context("forkserver")  # imports what a capture needs once
_CONTEXT.set_forkserver_preload(["upsell_assets.capture.job", "upsell_assets.bronze.ingest"])


@dataclass
class Capturing:
    """The process as the test sees it."""

    process: BaseProcess
    said: Connection

    def wait_for(self, word: str) -> None:
        """Wait until it says that it has begun, loaded or drained (once more)."""
        while self.said.poll(_PATIENCE):
            if self.said.recv() == word:
                return
        raise AssertionError(f"the capture has not {word} within {_PATIENCE} s")

    def forget_what_it_said(self) -> None:
        """Forget what it has said so far."""
        while self.said.poll():
            self.said.recv()


@contextmanager
def capturing(place: Place) -> Iterator[Capturing]:
    """A capture at work, which is killed at the end of the context."""
    said, says = _CONTEXT.Pipe(duplex=False)
    # A store that has a client already cannot be sent to another process.
    arguments = place.dsn, replace(place.store), place.contracts, place.name, says
    process = _CONTEXT.Process(target=_capture, args=arguments, daemon=True)
    process.start()
    says.close()
    with said, process_ended(process):
        found = Capturing(process, said)
        found.wait_for(BEGUN)
        yield found


@contextmanager
def process_ended(process: BaseProcess) -> Iterator[None]:
    """Kill -9 at the end; fails if the process has ended by itself before."""
    try:
        yield
    finally:
        process.kill()
        process.join()
    assert process.exitcode == -signal.SIGKILL, "the capture ended by itself: see its traceback"
    process.close()


def _capture(dsn: str, store: ObjectStore, contracts: dict[str, Contract], name: str, says: Connection) -> None:
    make_small()
    capture = Capture(dsn, store, contracts, name=name, schema="public")
    says.send(BEGUN)
    while True:
        try:
            capture.ensure_full_load()
            says.send(LOADED)
            for _ in capture.follow(Event(), seconds=0):
                says.send(DRAINED)
        except RetryableError:
            time.sleep(0.02)


def make_small(put: Callable[[object, str, int], None] = setattr) -> None:
    """Several files, portions and rounds for a few rows."""
    put(full_load, "_CHUNK_BYTES", 20_000)
    put(landing, "FILE_ROWS", 300)
    put(changes, "_BATCH_ROWS", 20)
    put(stream, "ROUND_BYTES", 100_000)
