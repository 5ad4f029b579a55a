"""Commits to Delta tables that no other writer can slip between: how they are made, and how they are tried again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

from deltalake import CommitProperties, Transaction
from deltalake.exceptions import CommitFailedError

from upsell_assets.errors import RetryableError

T = TypeVar("T")


def commit_properties(watermarks: Mapping[str, int] | None = None) -> CommitProperties:
    """Properties of a commit that fails when anybody else committed since the table was opened.

    Retrying inside the library is not safe: two bounded merges of one new key would both commit. The caller
    opens the table again and decides anew. `watermarks` (application -> version) commit with the data.
    """
    transactions = [Transaction(name, version) for name, version in (watermarks or {}).items()]
    return CommitProperties(max_commit_retries=0, app_transactions=transactions or None)


def retry_conflicts(what: str, attempt: Callable[[], T], *, attempts: int = 20) -> T:
    """Run `attempt`, which opens its tables itself, until no other writer commits in between.

    Raises:
        RetryableError: another writer won each time.
    """
    for _ in range(attempts):
        try:
            return attempt()
        except CommitFailedError:
            continue
    raise RetryableError(
        f"{what}: other writers committed {attempts} times in between. Nothing was written; run it again."
    )
