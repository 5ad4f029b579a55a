"""A bounded look at files of raw: headers, and the first rows of a few files.

Here: which files are looked at, and how little of each is read. Not here: what follows from it (`propose`, and
`upsell_assets.drift`), nor whether a file is accepted (`files`).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.parquet as pq

from upsell_assets.errors import FileRejectedError
from upsell_assets.lake.store import ObjectStore, StoredObject
from upsell_assets.raw.landing import is_marker

FILES, FILE_ROWS = 20, 10_000
"""So many files are sampled of a folder, and so many rows of each."""

KINDS = ("cdc", "full_load")


@dataclass(frozen=True)
class Sampled:
    """The beginning of a file."""

    key: str
    rows: pa.Table

    @property
    def columns(self) -> dict[str, pa.Field]:
        """The columns by lower-case name."""
        return {field.name.lower(): field for field in self.rows.schema}


def data_files(store: ObjectStore, prefix: str) -> list[StoredObject]:
    """The files below a prefix, oldest upload first, without markers and unfinished ones (see `landing`)."""
    found = (entry for entry in store.list(prefix) if not is_marker(entry.key[len(prefix) :]))
    return sorted(found, key=lambda entry: (entry.modified, entry.key))


def spread(files: Sequence[StoredObject]) -> list[StoredObject]:
    """At most `FILES` of them, the first and the last among them: old files have other columns than new ones."""
    if len(files) <= FILES:
        return list(files)
    step = (len(files) - 1) / (FILES - 1)
    return [files[round(number * step)] for number in range(FILES)]


def sampled(store: ObjectStore, files: Iterable[StoredObject], *, rows: int = FILE_ROWS) -> Iterator[Sampled]:
    """The beginnings of the files; those that are gone or not readable are left out."""
    for entry in files:
        try:
            yield read_head(store, entry.key, rows)
        except (FileNotFoundError, FileRejectedError):
            continue


def read_head(store: ObjectStore, key: str, rows: int) -> Sampled:
    """The columns of a file and its first rows; no more of it is read than holds them.

    Raises:
        FileRejectedError: it is not readable as parquet.
        FileNotFoundError: it is gone.
    """
    try:
        with store.arrow_files().open_input_file(key) as body:
            file = pq.ParquetFile(body)
            batches = [next(file.iter_batches(batch_size=rows), None)] if rows else []
            return Sampled(key, pa.Table.from_batches([b for b in batches if b], file.schema_arrow))
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise FileRejectedError(f"not readable as parquet ({str(error).splitlines()[0]})") from error
