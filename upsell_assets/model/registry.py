"""Where models are kept: numbered versions in the lake's own bucket, each with its training set and its card.

Here: `models/churn/v00001/{model.skops, training_set.parquet, card.json}`, written in this order. Not here: fitting
(`training`) and use (`scoring`).

The card is written last: a version without a card does not exist, and a crash leaves a number unused, no more. The
model file claims the number, by a write that the store refuses if the object is there already, so that two
trainings at the same time get two numbers. Files are skops, never pickle: loading one runs no code of its own, only
the types in `TRUSTED`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from hashlib import sha256
from importlib.metadata import version
from typing import Any, Literal

import pyarrow as pa
import pyarrow.parquet as pq
import skops.io
from botocore.exceptions import BotoCoreError, ClientError
from sklearn.pipeline import Pipeline
from skops.io.exceptions import UntrustedTypesFoundException

from upsell_assets.errors import PermanentError, RetryableError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.model.training import Trained
from upsell_assets.model.training_set import fingerprint

TRUSTED = ["numpy.dtype"]
"""Types beyond skops' own (scikit-learn and NumPy) that a model file may hold: the imputer keeps its input's dtype."""

LIBRARIES = ("scikit-learn", "skops", "numpy", "pyarrow")

_TAKEN = {"PreconditionFailed", "412", "ConditionalRequestConflict", "409"}


@dataclass(frozen=True)
class Origin:
    """How a training set was made: the Delta version of every table that it was read from, and its settings."""

    versions: dict[str, int]
    grid: Literal["monday", "month"]
    rows_per_customer: int
    features_as: Literal["latest", "known at dtRef"] = "latest"


@dataclass(frozen=True)
class ModelVersion:
    """A registered model, not loaded; `card` is what was written with it."""

    name: str
    number: int
    card: Mapping[str, Any]


@dataclass(frozen=True)
class LoadedModel:
    """A model to score with; `features` gives the columns that it reads, in its order."""

    name: str
    number: int
    pipeline: Pipeline
    features: list[str]


@dataclass(frozen=True)
class Registry:
    """The versions of one model, below `prefix`, whose last part is the model's name."""

    store: ObjectStore
    prefix: str = "models/churn"

    @property
    def name(self) -> str:
        """The model's name, as in descModelName."""
        return self.prefix.rsplit("/", 1)[-1]

    def register(self, trained: Trained, training_set: pa.Table, origin: Origin) -> int:
        """Keep a model with what it was made from, and return its new version number.

        Args:
            trained: what `train` returned.
            training_set: the very table that it was given.
            origin: where that table came from.
        """
        model = skops.io.dumps(trained.pipeline)
        parquet = pa.BufferOutputStream()
        pq.write_table(training_set, parquet, compression="zstd")
        number = self._claim(model)
        card = {
            "name": self.name,
            "version": number,
            "created_at_utc": datetime.now(UTC).isoformat(timespec="seconds"),
            "model_sha256": sha256(model).hexdigest(),
            "features": trained.features,
            "seed": trained.seed,
            "training_set": {"fingerprint": fingerprint(training_set), "rows": training_set.num_rows, **asdict(origin)},
            "evaluation": trained.evaluation.as_json(),
            "libraries": {library: version(library) for library in LIBRARIES},
        }
        self.store.write(self._key(number, "training_set.parquet"), parquet.getvalue().to_pybytes())
        self.store.write(
            self._key(number, "card.json"), json.dumps(card, indent=2, ensure_ascii=False, allow_nan=False).encode()
        )
        return number

    def versions(self) -> list[int]:
        """Numbers of the versions that have a card, oldest first."""
        return sorted(number for number, file in self._files() if file == "card.json")

    def latest(self) -> ModelVersion | None:
        """The newest version; None where no model is registered."""
        numbers = self.versions()
        return self.version(numbers[-1]) if numbers else None

    def version(self, number: int) -> ModelVersion:
        """The card of one version.

        Raises:
            PermanentError: there is no such version.
        """
        return ModelVersion(self.name, number, json.loads(self._read(number, "card.json")))

    def load(self, number: int) -> LoadedModel:
        """Load one version, to score with it.

        Raises:
            PermanentError: there is no such version, its file is not the one that its card describes, or it holds
                types that are not trusted.
        """
        card = self.version(number).card
        model = self._read(number, "model.skops")
        where = self.store.uri(self._key(number, "model.skops"))
        if sha256(model).hexdigest() != card["model_sha256"]:
            raise PermanentError(
                f"{where}: refused, it is not the file that its card describes (SHA-256 differs). Find out who "
                "changed it, and train a new version."
            )
        try:
            pipeline = skops.io.loads(model, trusted=TRUSTED)
        except UntrustedTypesFoundException as error:
            raise PermanentError(
                f"{where}: refused, it holds types that no model of ours has: {error}. Find out who wrote it, and "
                "train a new version."
            ) from None
        return LoadedModel(self.name, number, pipeline, list(card["features"]))

    def _claim(self, model: bytes) -> int:
        number = max((number for number, _ in self._files()), default=0) + 1
        while not self._create(self._key(number, "model.skops"), model):
            number += 1
        return number

    def _create(self, key: str, body: bytes) -> bool:
        """Write an object unless there is one; whether it was written."""
        try:
            self.store.client.put_object(Bucket=self.store.bucket, Key=key, Body=body, IfNoneMatch="*")
        except (ClientError, BotoCoreError) as error:
            if isinstance(error, ClientError) and error.response["Error"].get("Code") in _TAKEN:
                return False
            raise RetryableError(
                f"{self.store.uri(key)}: could not be written ({error}). No model was registered; train again."
            ) from error
        return True

    def _files(self) -> list[tuple[int, str]]:
        form = re.compile(re.escape(self.prefix) + r"/v(\d{5,})/([^/]+)")
        found = (form.fullmatch(stored.key) for stored in self.store.list(f"{self.prefix}/v"))
        return [(int(match[1]), match[2]) for match in found if match]

    def _key(self, number: int, file: str) -> str:
        return f"{self.prefix}/v{number:05d}/{file}"

    def _read(self, number: int, file: str) -> bytes:
        try:
            return self.store.read(self._key(number, file))
        except FileNotFoundError:
            known = ", ".join(map(str, self.versions())) or "none"
            raise PermanentError(
                f"model {self.name}: version {number} has no {file} in {self.store.uri(self.prefix)} (versions with a "
                f"card: {known}). Choose one of them, or train a model."
            ) from None
