"""One running lake for all tests of this folder that need one."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from lake import UserLake, until
from running_lake import RunningLake, write_dump


@pytest.fixture(scope="session")
def lake(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningLake]:
    """A lake of two months that is complete and goes on running, until its last test stops it."""
    folder = tmp_path_factory.mktemp("live")
    write_dump(folder / "dump")
    # The first start is killed while it fills the database: the second finds a half-initialised home, and goes on.
    first = UserLake(folder / "home")
    process = first.start("up", "--seed-from", folder / "dump")
    until(lambda: "source: loading" in first.log(), "the first start to load the dump", 60)
    process.kill()
    process.wait()
    lake = RunningLake(folder / "home", folder / "dump")
    lake.await_complete()
    yield lake
    lake.user.command("reset", "--yes")
    lake.process.wait(60)
