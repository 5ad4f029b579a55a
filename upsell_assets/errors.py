"""The errors that a person reads.

Every message says what happened, to which table, file or setting, and what to do next. `PermanentError` will
fail again until somebody changes something; `RetryableError` may pass by itself. Only Dagster-facing modules
translate them; what is a bug stays an ordinary exception with its traceback.
"""


class UpsellError(Exception):
    """Something that a person can act on; its text is shown as one line, without a traceback."""


class PermanentError(UpsellError):
    """Trying again changes nothing: a setting, a file or a table must be changed first."""


class RetryableError(UpsellError):
    """The outside world refused for now (a conflict, a lost connection): trying again may succeed."""


class ContractError(PermanentError):
    """A contract file, or data held against it, is not what it must be."""


class SlotLostError(PermanentError):
    """The source database can no longer say what was committed after the watermark: a new full load is needed."""


class FileRejectedError(PermanentError):
    """One raw file breaks its contract; it goes to quarantine with this text as the reason."""
