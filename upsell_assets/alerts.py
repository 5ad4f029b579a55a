"""Alerts: what failed, in the error's own words, sent to where people look.

Where is a setting, `UPSELL_ALERTS`: the log, a webhook, or a function of one's own. Here: what an alert says and how it
is sent. Not here: what is worth one, nor when it is sent again (`alert_sensor`).
"""

from __future__ import annotations

import json
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import asdict, dataclass
from importlib import import_module
from urllib.parse import urlsplit

from upsell_assets.errors import PermanentError, RetryableError

LOG = "log"
TIMEOUT_SECONDS = 10


@dataclass(frozen=True)
class Alert:
    """What failed, why (a line each), and where to see it (an address, if one is known)."""

    what: str
    why: tuple[str, ...] = ()
    link: str | None = None

    @property
    def text(self) -> str:
        """All of it, in lines."""
        return "\n".join([self.what, *self.why, *([self.link] if self.link else [])])


Sink = Callable[[Alert], None]
"""Sends an alert; an exception says that it was not sent, and it is sent again."""


def open_sink(target: str, log: Callable[[str], None]) -> Sink:
    """What the setting names.

    Args:
        target: `log`, a URL to which JSON is posted (text, what, why, link), or `module:function`, which takes an Alert.
        log: writes a text to the log.

    Raises:
        PermanentError: there is no such function.
    """
    if target == LOG:
        return lambda alert: log(alert.text)
    if "://" in target:
        return lambda alert: _post(target, alert)
    return _function(target)


def _function(target: str) -> Sink:
    module, _, name = target.partition(":")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise PermanentError(
            f"UPSELL_ALERTS: {target} cannot be imported ({error}). Name a function as module:function, and install its "
            "module where Dagster's code location runs."
        ) from error
    if not callable(found):
        raise PermanentError(
            f"UPSELL_ALERTS: {target} is no function. It is called with an upsell_assets.alerts.Alert."
        )
    sink: Sink = found
    return sink


def _post(url: str, alert: Alert) -> None:
    """Raises RetryableError where the address does not take it; its path, which may hold a key, is not told."""
    body = json.dumps({"text": alert.text, **asdict(alert)}, ensure_ascii=False).encode()
    request = urllib.request.Request(url, body, {"Content-Type": "application/json"})  # noqa: S310 (http or https, by the setting)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_SECONDS):  # noqa: S310
            return
    except urllib.error.HTTPError as error:
        fault = f"it answered {error.code}"
    except (OSError, urllib.error.URLError) as error:
        fault = str(getattr(error, "reason", error))
    raise RetryableError(
        f"UPSELL_ALERTS: the webhook at {urlsplit(url).hostname} did not take an alert: {fault}. It is sent again."
    )
