"""Where a component's lake is: attributes that stand for settings, and how they become `Settings`.

An attribute has the name of the setting that it takes the place of; what is left out is as the `UPSELL_*` variables say.
Secrets are never attributes: `..._env` names the environment variable that holds one.
"""

from __future__ import annotations

import os
import re
from datetime import date
from typing import Annotated

import dagster as dg
from pydantic import AfterValidator, Field, SecretStr

from upsell_assets.errors import PermanentError
from upsell_assets.settings import Settings, load_settings

VARIABLE = r"^[A-Za-z_][A-Za-z0-9_]*$"
"""A name that an environment variable can have: a secret that was written down by mistake mostly has none."""


DAY = r"^\d{4}-\d{2}-\d{2}$"


def existing_day(value: str | None) -> str | None:
    """Validates that a day written as yyyy-mm-dd is one.

    Raises:
        ValueError: it is none.
    """
    if value is not None:
        date.fromisoformat(value)
    return value


class LakeModel(dg.Model, dg.Resolvable):
    """What every component says of its lake."""

    s3_bucket: str | None = Field(None, description="Bucket of the lake; left out: UPSELL_S3_BUCKET.", min_length=1)
    s3_endpoint: str | None = Field(
        None,
        description="URL of an S3 server; left out: UPSELL_S3_ENDPOINT, else AWS.",
        pattern=r"^(https?://\S+|\{\{.*\}\})$",
    )
    s3_region: str | None = Field(None, description="Region of the bucket; left out: UPSELL_S3_REGION, else us-east-1.")
    s3_access_key_id_env: str | None = Field(
        None,
        description="Environment variable that holds a static key; left out: UPSELL_S3_ACCESS_KEY_ID, else the default "
        "AWS chain.",
        pattern=VARIABLE,
    )
    s3_secret_access_key_env: str | None = Field(
        None, description="Environment variable that holds the secret of the static key.", pattern=VARIABLE
    )
    first_day: Annotated[str | None, AfterValidator(existing_day)] = Field(
        None,
        description="First day with a partition, yyyy-mm-dd; left out: UPSELL_FIRST_DAY, else 2020-01-01.",
        pattern=DAY,
    )

    def settings(self, **more: object) -> Settings:
        """The settings of this lake.

        Raises:
            PermanentError: an environment variable that an attribute names is not set, there is no bucket, or a
                setting is not what it must be.
        """
        given = {
            "s3_bucket": self.s3_bucket,
            "s3_endpoint": self.s3_endpoint,
            "s3_region": self.s3_region,
            "s3_access_key_id": secret("s3_access_key_id_env", self.s3_access_key_id_env),
            "s3_secret_access_key": secret("s3_secret_access_key_env", self.s3_secret_access_key_env),
            "first_day": self.first_day,
        }
        plain = {
            name: value.get_secret_value() if isinstance(value, SecretStr) else value for name, value in given.items()
        }
        settings = load_settings(**{name: value for name, value in plain.items() if value is not None}, **more)
        if settings.s3_bucket is None:
            raise PermanentError(
                f"{type(self).__name__}: no bucket is named. Give s3_bucket in defs.yaml, or set UPSELL_S3_BUCKET."
            )
        return settings


def secret(attribute: str, variable: str | None) -> SecretStr | None:
    """What the environment variable holds that an attribute names; None where it names none.

    Raises:
        PermanentError: the variable is not set.
    """
    if variable is None:
        return None
    if not (value := os.environ.get(variable)):
        raise PermanentError(
            f"{attribute}: the environment variable {variable} is not set. Set it where Dagster's code location runs, "
            "or correct its name in defs.yaml."
        )
    return SecretStr(value)


def name_of(context: dg.ComponentLoadContext) -> str:
    """What the sensors and jobs of a component begin with: its folder below `defs`."""
    parts = context.path.absolute().relative_to(context.defs_module_path.absolute()).parts
    return re.sub(r"\W", "_", "_".join(parts))
