"""The Spark engine's start: when it happens, with what configuration, and what is said where it cannot happen."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from pydantic import SecretStr

from upsell_assets.lake.engines import open_engine
from upsell_assets.lake.engines.spark_session import JAVA, java_version, s3a_options, spark_config
from upsell_assets.lake.store import ObjectStore
from upsell_assets.settings import Settings

START = """
from upsell_assets.errors import PermanentError
from upsell_assets.lake.engines import open_engine
from upsell_assets.lake.store import ObjectStore
from upsell_assets.settings import load_settings
settings = load_settings()
try:
    open_engine(settings, ObjectStore.from_settings(settings)).spark.session
except PermanentError as error:
    print(error)
"""


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    for name in ("SPARK_CONF_DIR", "SPARK_HOME"):
        monkeypatch.delenv(name, raising=False)
    return Settings(
        home=tmp_path / "home",
        engine="spark",
        s3_endpoint="http://127.0.0.1:9000",
        s3_bucket="lake",
        s3_access_key_id="its-key",
        s3_secret_access_key=SecretStr("its-secret"),
    )


def said_by(program: str, tmp_path: Path, **environment: str) -> str:
    """Standard output of a program in a process of its own, where no other test has started a JVM."""
    done = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "UPSELL_HOME": str(tmp_path / "home"), "UPSELL_ENGINE": "spark", **environment},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_loading_the_definitions_and_opening_the_engine_import_no_spark(tmp_path: Path) -> None:
    program = """
import sys
import upsell_assets.definitions
from upsell_assets.lake.lakehouse import Lakehouse
from upsell_assets.settings import load_settings
engine = Lakehouse(load_settings()).engine
engine.close()
print(type(engine).__name__, sorted({"pyspark", "py4j", "dagster_pyspark"} & sys.modules.keys()))
"""
    assert said_by(program, tmp_path) == "SparkEngine []\n"


def test_without_java_the_first_query_says_what_is_missing(tmp_path: Path) -> None:
    said = said_by(START, tmp_path, PATH=str(tmp_path), JAVA_HOME="")

    assert said == (
        "the Spark engine needs Java 17 or newer, and none was found. Install it and let JAVA_HOME name its folder, "
        "or set UPSELL_ENGINE=duckdb.\n"
    )


def test_an_older_java_is_named(tmp_path: Path) -> None:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text("#!/bin/sh\necho 'openjdk version \"1.8.0_292\"' >&2\nexit 1\n")
    java.chmod(0o755)

    said = said_by(START, tmp_path, JAVA_HOME=str(tmp_path))

    assert "needs Java 17 or newer, and Java 8 was found" in said


@pytest.mark.spark
@pytest.mark.skipif(
    (java_version() or 0) < JAVA, reason=f"needs Java {JAVA} or newer: skipped because java was not found"
)
def test_jars_that_cannot_be_had_are_named(tmp_path: Path) -> None:
    (tmp_path / "spark-defaults.conf").write_text("spark.jars.ivySettings /no/such/file.xml\n")

    said = said_by(START, tmp_path, SPARK_CONF_DIR=str(tmp_path))

    assert "did not start on local[2]" in said
    assert "io.delta:delta-spark_4.2_2.13:4.4.0" in said
    assert said.count("\n") == 1


def test_no_credential_is_in_the_configuration_or_printed(settings: Settings) -> None:
    store = ObjectStore.from_settings(settings)

    assert "its-" not in str(spark_config(settings))
    assert "its-secret" not in repr(open_engine(settings, store))
    assert s3a_options(store)["fs.s3a.secret.key"] == "its-secret"


def test_without_a_static_key_the_default_chain_is_asked(settings: Settings) -> None:
    store = ObjectStore.from_settings(settings.model_copy(update={"s3_access_key_id": None, "s3_endpoint": None}))

    assert s3a_options(store) == {
        "fs.s3a.endpoint.region": "us-east-1",
        "fs.s3a.aws.credentials.provider": "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider",
    }


def test_a_session_token_goes_with_its_key(settings: Settings) -> None:
    store = ObjectStore.from_settings(settings.model_copy(update={"s3_session_token": SecretStr("its-token")}))

    options = s3a_options(store)

    assert options["fs.s3a.session.token"] == "its-token"
    assert options["fs.s3a.aws.credentials.provider"].endswith(".TemporaryAWSCredentialsProvider")


def test_a_local_driver_listens_on_loopback_only(settings: Settings) -> None:
    config = spark_config(settings)

    assert (config["spark.driver.host"], config["spark.driver.bindAddress"]) == ("127.0.0.1", "127.0.0.1")
    assert config["spark.ui.enabled"] == "false"


def test_executors_of_a_cluster_can_reach_the_driver(settings: Settings) -> None:
    config = spark_config(settings.model_copy(update={"spark_master": "spark://master:7077"}))

    assert config["spark.master"] == "spark://master:7077"
    assert "spark.driver.host" not in config
    assert "spark.sql.shuffle.partitions" not in config


def test_values_of_spark_defaults_win_where_results_do_not_rest_on_them(
    settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SPARK_CONF_DIR", str(tmp_path))
    (tmp_path / "spark-defaults.conf").write_text(
        "# of this cluster\n\n"
        "spark.driver.memory   8g\n"
        "spark.jars.packages\n"
        "spark.executor.extraJavaOptions=-Da=b -Dc=d  \n"
        "spark.sql.session.timeZone America/Sao_Paulo\n"
        "spark.sql.ansi.enabled: false\n"
        "other.key 1\n"
    )

    config = spark_config(settings)

    assert config["spark.driver.memory"] == "8g"
    assert config["spark.jars.packages"] == ""
    assert config["spark.executor.extraJavaOptions"] == "-Da=b -Dc=d"
    assert config["spark.sql.session.timeZone"] == "UTC"
    assert config["spark.sql.ansi.enabled"] == "true"
    assert "other.key" not in config
