"""Every setting of the lake, read once from `UPSELL_*` environment variables into one typed object.

Settings belong here and nowhere else: no other module reads the environment. Secrets are `SecretStr`, so that
they are not printed by accident. What is left out is embedded: without `UPSELL_SOURCE_DSN` an own PostgreSQL is
started, without `UPSELL_S3_ENDPOINT` and `UPSELL_S3_BUCKET` an own S3 server (see `services`). A lake that is deployed
says so (`UPSELL_PROFILE`), and then nothing is started in the place of what was forgotten.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from datetime import date
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from shutil import which
from typing import Literal
from zoneinfo import ZoneInfo

from pydantic import Field, SecretStr, ValidationError, field_validator, model_validator
from pydantic_settings import BaseSettings, SettingsConfigDict

from upsell_assets.errors import PermanentError

LOCAL_ZONE = ZoneInfo("America/Sao_Paulo")
"""The zone of every day in features, gold and labels (spec: the lake)."""

EMBEDDED_BUCKET = "upsell"


class Settings(BaseSettings):
    """One value per `UPSELL_*` variable; the field's description is what the README lists."""

    model_config = SettingsConfigDict(env_prefix="UPSELL_", env_ignore_empty=True, frozen=True)

    profile: Literal["embedded", "production", "spark"] = Field(
        "embedded",
        description="What must be named: nothing (embedded); the bucket and Dagster's database (production); and a cluster "
        "(spark).",
    )
    home: Path = Field(Path(".upsell"), description="Folder of all local state: services, Dagster, logs.")

    source_dsn: SecretStr | None = Field(
        None, description="PostgreSQL of the points system; unset: an embedded one is started."
    )
    source_owner_dsn: SecretStr | None = Field(
        None, description="Owner of the source tables, for `upsell capture --setup`; unset: the user of the source DSN."
    )
    source_schema: str = Field("public", description="Database schema of the source tables.")
    capture_name: str = Field("upsell", description="Name of the publication and of the replication slot.")
    capture_resync: bool = Field(
        False, description="Whether capture takes a new full load by itself when its replication slot is lost."
    )
    capture_max_seconds: int = Field(
        900,
        ge=1,
        description="Age of the oldest change that raw has not seen, beyond which the check of the lag fails.",
    )
    verify_schedule: str = Field(
        "0 5 * * *", description="When bronze is compared with the source database (cron, America/Sao_Paulo)."
    )

    s3_endpoint: str | None = Field(
        None, description="URL of an S3 server; unset together with the bucket: an embedded one is started."
    )
    s3_bucket: str | None = Field(None, description="Bucket of raw files and of all Delta tables.")
    s3_region: str = Field("us-east-1", description="Region of the bucket.")
    s3_access_key_id: str | None = Field(
        None, description="Static key; unset: the default AWS chain (profile, role, web identity)."
    )
    s3_secret_access_key: SecretStr | None = Field(None, description="Secret of the static key.")
    s3_session_token: SecretStr | None = Field(None, description="Session token of the static key, if it has one.")

    contracts: Path | None = Field(
        None, description="Folder of table contracts (YAML); unset: those of the points system."
    )
    engine: Literal["duckdb", "spark"] = Field("duckdb", description="What runs the SQL: duckdb or spark.")
    spark_master: str = Field("local[2]", description="Master URL of the Spark engine.")
    merge_rows: int = Field(
        200_000, ge=1, description="Changes of one merge into bronze, about; a cluster takes millions at once."
    )
    spark_min_files: int = Field(
        16, ge=0, description="Files from which on a step is Spark's; of fewer DuckDB makes shorter work, beside it."
    )

    first_day: date | None = Field(
        None, description="First dtRef with a partition; `upsell up` sets it from its data. Unset: 2020-01-01."
    )
    first_landing_day: date | None = Field(
        None, description="First landing day with a partition; earlier files count to it. Unset: as the first dtRef."
    )
    recent_days: int = Field(3, ge=1, description="Landing days listed at each sensor tick.")
    sweep_minutes: int = Field(15, ge=1, description="Minutes between two listings of all other landing days.")
    capture_seconds: int = Field(5, ge=1, description="Seconds between two looks of the capture sensor at the slot.")
    sensor_seconds: int = Field(15, ge=1, description="Seconds between two looks of the landing sensor.")

    freshness_hours: int = Field(
        24,
        ge=1,
        description="Hours without anything new from the source, after which raw, bronze and silver are stale.",
    )
    audit_schedule: str = Field(
        "0 4 * * *", description="When all rows of all tables are checked, and plots drawn (cron, America/Sao_Paulo)."
    )
    keep_days: int = Field(
        7,
        ge=1,
        le=3650,
        description="Days that versions of tables stay readable; what only older ones name is deleted.",
    )
    upkeep_schedule: str = Field(
        "0 3 * * *", description="When all tables are compacted, expired and vacuumed (cron, America/Sao_Paulo)."
    )

    training_grid: Literal["monday", "month"] = Field(
        "monday", description="dtRefs of the training set: every Monday, or the first of each month."
    )
    training_rows_per_customer: int = Field(8, ge=1, description="At most this many training rows a customer.")
    training_known_at: Literal["latest", "dtref"] = Field(
        "latest", description="Features of the training set: as they are now, or as they were known at dtRef (dtref)."
    )
    skew_max_share: float = Field(
        0.01,
        ge=0,
        le=1,
        description="Share of a dtRef's customers whose features may differ from those served, before the check warns.",
    )
    skew_schedule: str = Field(
        "0 6 * * *", description="When features as served are compared with those of now (cron, America/Sao_Paulo)."
    )
    instance_dsn: SecretStr | None = Field(
        None,
        description="PostgreSQL of Dagster's own runs and events, `postgresql+psycopg2://...`, for `deploy/dagster.yaml`.",
    )
    alerts: SecretStr = Field(
        SecretStr("log"),
        description="Where failures are told: `log`, the URL of a webhook, or a function of one's own, `module:function`.",
    )
    web_url: str | None = Field(None, description="Address of Dagster's web interface, for the links in alerts.")
    seed: int = Field(42, description="Seed of the simulator, of sampling and of training.")

    @field_validator("home", "contracts")
    @classmethod
    def _absolute(cls, value: Path | None) -> Path | None:
        return value.expanduser().absolute() if value else value

    @field_validator("instance_dsn")
    @classmethod
    def _driver(cls, value: SecretStr | None) -> SecretStr | None:
        # Without a driver SQLAlchemy takes psycopg 3, by which Dagster's storage cannot write events.
        if value and not value.get_secret_value().startswith("postgresql+psycopg2://"):
            raise ValueError("expected postgresql+psycopg2://user:password@host:port/database")
        return value

    @field_validator("alerts")
    @classmethod
    def _sink(cls, value: SecretStr) -> SecretStr:
        if not re.fullmatch(r"log|https?://\S+|[A-Za-z_][\w.]*:[A-Za-z_]\w*", value.get_secret_value()):
            raise ValueError("expected log, the URL of a webhook, or module:function")
        return value

    @field_validator("s3_endpoint", "web_url")
    @classmethod
    def _url(cls, value: str | None) -> str | None:
        if value and not re.fullmatch(r"https?://\S+", value):
            raise ValueError("expected a URL such as http://127.0.0.1:8333")
        return value

    @model_validator(mode="after")
    def _whole_key(self) -> Settings:
        if (self.s3_access_key_id is None) != (self.s3_secret_access_key is None):
            raise ValueError("UPSELL_S3_ACCESS_KEY_ID and UPSELL_S3_SECRET_ACCESS_KEY are given together or not at all")
        return self

    @model_validator(mode="before")
    @classmethod
    def _engine_of_profile(cls, values: dict[str, object]) -> dict[str, object]:
        return {"engine": "spark", **values} if values.get("profile") == "spark" else values

    @model_validator(mode="after")
    def _complete(self) -> Settings:
        if missing := list(self._missing()):
            raise ValueError(f"UPSELL_PROFILE={self.profile} is not complete: {'; '.join(missing)}")
        return self

    def _missing(self) -> Iterator[str]:
        """What the profile needs and does not have; a lake of several processes must not begin with half of it."""
        if self.profile == "embedded":
            return
        if self.s3_bucket is None:
            yield "UPSELL_S3_BUCKET is not set"
        if self.instance_dsn is None:
            yield "UPSELL_INSTANCE_DSN is not set"
        if find_spec("dagster_postgres") is None:
            yield "dagster-postgres is not installed (pip install 'upsell-assets[postgres]')"
        home = os.environ.get("DAGSTER_HOME")
        if not home or not (Path(home) / "dagster.yaml").is_file():
            yield "DAGSTER_HOME names no folder with a dagster.yaml (such as deploy/dagster.yaml)"
        if self.profile == "spark":
            if self.engine != "spark":
                yield f"UPSELL_ENGINE is {self.engine}"
            if self.spark_master.startswith("local"):
                yield "UPSELL_SPARK_MASTER names no cluster"
            if which("java", path=os.environ.get("PATH")) is None and not os.environ.get("JAVA_HOME"):
                yield "there is no java on PATH and JAVA_HOME is not set"

    @cached_property
    def embedded_source(self) -> bool:
        """Whether the points database is ours to start."""
        return self.source_dsn is None and self.profile == "embedded"

    @cached_property
    def embedded_store(self) -> bool:
        """Whether the S3 server is ours to start."""
        return self.s3_endpoint is None and self.s3_bucket is None

    @property
    def bucket(self) -> str:
        """The bucket's name."""
        return self.s3_bucket or EMBEDDED_BUCKET


def load_settings(**given: object) -> Settings:
    """Read the environment; a setting that is given by name counts more than its variable.

    Raises:
        PermanentError: a variable's value is not what its setting takes; every such variable is named.
    """
    try:
        return Settings(**given)  # type: ignore[arg-type]  # pydantic looks at each
    except ValidationError as error:
        faults = "; ".join(
            f"UPSELL_{str(fault['loc'][0]).upper()}: {fault['msg']}" if fault["loc"] else fault["msg"]
            for fault in error.errors()
        )
        raise PermanentError(f"settings: {faults}. Correct the environment variables and try again.") from None
