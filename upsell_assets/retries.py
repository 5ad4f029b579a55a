"""What is tried again within a run: only what may pass by itself, and later each time.

A conflict with another writer or a lost connection is. A setting, a file or a table that must be changed first is not
(`PermanentError`), nor is a bug: both would only fail later. A run that was given up is asked for again by the clock
(`automation`), one whose process died by Dagster itself (`dagster.yaml`).
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from inspect import isgeneratorfunction
from typing import Any, TypeVar

import dagster as dg
from deltalake.exceptions import CommitFailedError

from upsell_assets.errors import RetryableError

RETRIES = 3
FIRST_WAIT_SECONDS = 10
"""Then twice as long each time: a minute and ten seconds in all, well below the ten minutes after which runs are repeated."""

Compute = TypeVar("Compute", bound=Callable[..., Any])


@contextmanager
def tried_again(earlier: int) -> Iterator[None]:
    """Ask Dagster for another attempt of the step where one may succeed; after the last the error itself is raised.

    Args:
        earlier: how many attempts failed before this one.
    """
    try:
        yield
    except (RetryableError, CommitFailedError) as error:
        if earlier >= RETRIES:
            raise
        raise dg.RetryRequested(max_retries=RETRIES, seconds_to_wait=FIRST_WAIT_SECONDS * 2**earlier) from error


def retried(compute: Compute) -> Compute:
    """The function of an asset or op, whose first argument is the context: see `tried_again`."""

    @wraps(compute)
    def attempt(context: Any, *arguments: Any, **named: Any) -> Any:
        with tried_again(context.retry_number):
            return compute(context, *arguments, **named)

    @wraps(compute)
    def yielding(context: Any, *arguments: Any, **named: Any) -> Iterator[Any]:
        with tried_again(context.retry_number):
            yield from compute(context, *arguments, **named)

    return yielding if isgeneratorfunction(compute) else attempt  # type: ignore[return-value]
