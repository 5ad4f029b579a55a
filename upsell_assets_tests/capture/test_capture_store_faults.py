"""A real S3 server behind a line that fails: requests refused, stalled, or carried out and never answered."""

from __future__ import annotations

import logging
import random
import selectors
import socket
import struct
import threading
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

import pytest
from capture_place import opened
from capture_process import make_small
from capture_writers import fill, writing
from proof import STORE_FAULTS

from upsell_assets.capture.job import Capture
from upsell_assets.errors import RetryableError
from upsell_assets.lake.store import ObjectStore

pytestmark = pytest.mark.services

LOG = logging.getLogger(__name__)
SEED = 20_240_613
FAULTS = 30
"""Harm done to one capture, before there is a new database with a new lake."""

REFUSED, STALLED, UNANSWERED = "refused", "stalled", "stored, and never answered"


@dataclass
class FailingLine:
    """A TCP proxy before the store, which does harm to some of the requests, as the dice say.

    What it refuses it refuses for some connections in a row: more, at times, than the client tries again.
    """

    server: tuple[str, int]
    dice: random.Random
    harm: float = 0.15
    done: Counter[str] = field(default_factory=Counter)
    _refusals: int = 0
    _stop: threading.Event = field(default_factory=threading.Event)
    _threads: list[threading.Thread] = field(default_factory=list)

    @contextmanager
    def open(self) -> Iterator[str]:
        """Carry connections as long as the context lasts; yields the address to use."""
        with socket.create_server(("127.0.0.1", 0)) as listener:
            listener.settimeout(0.05)
            accepting = threading.Thread(target=self._accept, args=[listener])
            accepting.start()
            try:
                yield f"http://127.0.0.1:{listener.getsockname()[1]}"
            finally:
                self._stop.set()
                for thread in [accepting, *self._threads]:
                    thread.join()

    def _accept(self, listener: socket.socket) -> None:
        while not self._stop.is_set():
            with suppress(TimeoutError):
                client, _ = listener.accept()
                if self._refusals:
                    self._refusals -= 1
                    self.done[REFUSED] += 1
                    _reset(client)
                else:
                    thread = threading.Thread(target=self._carry, args=[client])
                    self._threads.append(thread)
                    thread.start()

    def _carry(self, client: socket.socket) -> None:
        """Carry the requests of one connection, one after another, to their answers, or to their harm."""
        with (
            suppress(ConnectionError),
            client,
            socket.create_connection(self.server) as server,
            selectors.DefaultSelector() as ready,
        ):
            ready.register(client, selectors.EVENT_READ)
            ready.register(server, selectors.EVENT_READ)
            harm, answered = None, True
            while not self._stop.is_set():
                for found, _ in ready.select(0.05):
                    data = _received(found.fileobj)
                    if not data:
                        return
                    if found.fileobj is client:
                        if answered:
                            harm, answered = self._harm(), False
                            if harm in (REFUSED, STALLED):
                                _reset(client)
                                return
                        server.sendall(data)
                    elif data.startswith(b"HTTP/1.1 100 ") or harm is None:
                        answered = not data.startswith(b"HTTP/1.1 100 ")
                        client.sendall(data)
                    else:
                        _reset(client)  # what the store answers after it has done what it was asked
                        return

    def _harm(self) -> str | None:
        """What happens to the next request."""
        if self.dice.random() > self.harm:
            return None
        harm = self.dice.choice([REFUSED, STALLED, UNANSWERED, UNANSWERED])
        self.done[harm] += 1
        if harm == REFUSED:
            self._refusals = self.dice.randint(0, 5)
        if harm == STALLED:
            self._stop.wait(self.dice.uniform(0.1, 1))
        return harm


def _received(connection: object) -> bytes:
    assert isinstance(connection, socket.socket)
    with suppress(ConnectionError):
        return connection.recv(1 << 16)
    return b""


def _reset(connection: socket.socket) -> None:
    """Close at once, so that the other end sees a connection that was cut and not one that ended."""
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def test_a_store_that_fails_at_any_request_loses_nothing(
    servers: tuple[str, ObjectStore], monkeypatch: pytest.MonkeyPatch
) -> None:
    cluster, store = servers
    make_small(monkeypatch.setattr)
    address = urlsplit(store.endpoint)
    line = FailingLine((str(address.hostname), int(address.port or 0)), random.Random(SEED))
    wrong: list[str] = []
    given_up = 0
    with line.open() as endpoint:
        while line.done.total() < STORE_FAULTS.count:
            enough = min(line.done.total() + FAULTS, STORE_FAULTS.count)
            with opened(cluster, store) as place:
                fill(place.owner)
                behind_the_line = replace(place.store, endpoint=endpoint)
                capture = Capture(place.dsn, behind_the_line, place.contracts, name=place.name, schema="public")
                with writing(place.owner_dsn, f"{SEED} {enough}"):
                    while line.done.total() < enough:
                        try:
                            capture.ensure_full_load()
                            capture.drain()
                        except RetryableError as error:
                            given_up += 1
                            LOG.info("%s", error)
                place.capture().ensure_full_load()
                place.capture().drain()
                wrong += [f"after {dict(line.done)}: {difference}" for difference in place.differences()]
    LOG.info("seed %s: %s, %s times in vain to the end", SEED, dict(line.done), given_up)

    assert wrong == []
    assert min(line.done[harm] for harm in (REFUSED, STALLED, UNANSWERED)) > 0
    assert given_up > 0
