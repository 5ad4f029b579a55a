"""The Spark session: how it is configured, when it starts, and what it says when it does not.

Nothing imports pyspark or starts a JVM before the session is first used. Where Spark finds a `spark-defaults.conf`
(`SPARK_CONF_DIR`, else `SPARK_HOME/conf`), its values win over those of `spark_config`, all but the few on which equal
results rest. Not here: what is read and written in it (`spark`, `spark_files`).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator, Sized
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import unquote

from upsell_assets.errors import PermanentError

if TYPE_CHECKING:
    import pyarrow as pa
    from pyspark.sql import DataFrame, SparkSession

    from upsell_assets.lake.store import ObjectStore
    from upsell_assets.settings import Settings

JAVA = 17
"""The oldest Java that Spark 4 runs on."""

_AWS_SDK = "2.35.4"
PACKAGES = (
    "io.delta:delta-spark_4.2_2.13:4.4.0",
    "org.apache.hadoop:hadoop-aws:3.5.0",
    # In the place of the SDK's bundle: 105 MB of jars instead of 761.
    f"software.amazon.awssdk:s3:{_AWS_SDK}",
    f"software.amazon.awssdk:s3-transfer-manager:{_AWS_SDK}",
    f"software.amazon.awssdk:sts:{_AWS_SDK}",
)


@dataclass
class Spark:
    """One session, from its first use until `close`, and how it reaches the lake.

    Attributes:
        config: what the session is started with.
        options: how a read or a write reaches the object store.
        min_files: files from which on a step is the cluster's; with fewer it is done in this process, which takes less
            time than asking.
    """

    config: dict[str, str]
    options: dict[str, str] = field(repr=False)
    min_files: int
    _session: SparkSession | None = field(default=None, init=False, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings, store: ObjectStore) -> Spark:
        """The session that the settings name; starts nothing."""
        return cls(spark_config(settings), s3a_options(store), settings.spark_min_files)

    @property
    def session(self) -> SparkSession:
        """The session; the first use starts it.

        Raises:
            PermanentError: there is no Java to run it, or it does not start.
        """
        from dagster_pyspark import LazyPySparkResource
        from pyspark.errors import PySparkException

        if self._session is None:
            # Spark says so wherever pandas 3 is installed, whether or not it is used; here it is not.
            warnings.filterwarnings("ignore", "PySpark does not yet fully support pandas", FutureWarning)
            try:
                self._session = LazyPySparkResource(spark_config=self.config).spark_session
            except PySparkException as error:
                raise PermanentError(_why_it_did_not_start(self.config)) from error
        return self._session

    def are_many(self, files: Sized) -> bool:
        """Whether a step that concerns these files is the cluster's."""
        return len(files) >= self.min_files

    def close(self) -> None:
        """Stop the session; the next use starts another."""
        if self._session is not None:
            self._session.stop()
            self._session = None


def spark_config(settings: Settings) -> dict[str, str]:
    """What the session is started with.

    Nothing of the object store is in it, since Spark puts all of it on a command line that every user of the
    machine can see; `s3a_options` go with each read.
    """
    local = settings.spark_master.startswith("local")
    config = {
        "spark.jars.packages": ",".join(PACKAGES),
        "spark.jars.excludes": "software.amazon.awssdk:bundle",
        "spark.sql.extensions": "io.delta.sql.DeltaSparkSessionExtension",
        "spark.sql.catalog.spark_catalog": "org.apache.spark.sql.delta.catalog.DeltaCatalog",
        "spark.sql.warehouse.dir": str(settings.home / "spark-warehouse"),
        "spark.driver.memory": "2g",
        "spark.driver.maxResultSize": "2g",  # a query's rows pass through the driver
        "spark.sql.parquet.compression.codec": "zstd",
        # Logs are short, since tables are compacted: 50 tasks for what a few hold. No sum of what is read once.
        "spark.databricks.delta.snapshotPartitions": "2",
        "spark.databricks.delta.writeChecksumFile.enabled": "false",
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    if local:
        config |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            "spark.sql.shuffle.partitions": "4",  # made for clusters: 200 tasks for what a few hold
        }
    return {
        **config,
        **_spark_defaults(),
        "spark.master": settings.spark_master,
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.caseSensitive": "false",
        "spark.sql.timestampType": "TIMESTAMP_LTZ",
        # As DuckDB and Arrow write them; by itself Spark writes an old type, whose statistics nobody reads.
        "spark.sql.parquet.outputTimestampType": "TIMESTAMP_MICROS",
    }


def s3a_options(store: ObjectStore) -> dict[str, str]:
    """How a read reaches the bucket: the store's static key if it has one, else the AWS default chain."""
    options = {"fs.s3a.endpoint.region": store.region}
    if store.endpoint:
        options |= {"fs.s3a.endpoint": store.endpoint, "fs.s3a.path.style.access": "true"}
    if not (store.access_key_id and store.secret_access_key):
        # S3A's own default knows neither profiles nor web identities.
        chain = "software.amazon.awssdk.auth.credentials.DefaultCredentialsProvider"
        return options | {"fs.s3a.aws.credentials.provider": chain}
    provider = "TemporaryAWSCredentialsProvider" if store.session_token else "SimpleAWSCredentialsProvider"
    options |= {
        "fs.s3a.aws.credentials.provider": f"org.apache.hadoop.fs.s3a.{provider}",
        "fs.s3a.access.key": store.access_key_id,
        "fs.s3a.secret.key": store.secret_access_key,
    }
    return options | ({"fs.s3a.session.token": store.session_token} if store.session_token else {})


def java_version() -> int | None:
    """The major version of the Java that Spark would start; None: there is none."""
    home = os.environ.get("JAVA_HOME")
    java = shutil.which("java", path=str(Path(home, "bin")) if home else None)
    if java is None:
        return None
    said = subprocess.run([java, "-version"], capture_output=True, text=True, check=False).stderr
    found = re.search(r'version "(?:1\.)?(\d+)', said)
    return int(found[1]) if found else None


def _spark_defaults() -> dict[str, str]:
    """The user's own values. Spark's variables are read here as Spark itself reads them; they are no settings of ours."""
    home = os.environ.get("SPARK_HOME")
    folder = os.environ.get("SPARK_CONF_DIR") or (home and str(Path(home, "conf")))
    file = Path(folder, "spark-defaults.conf") if folder else None
    if file is None or not file.is_file():
        return {}
    return dict(
        re.findall(r"^[ \t]*(spark\.[^\s=:]+)[ \t=:]*(.*?)[ \t]*$", file.read_text(encoding="utf-8"), re.MULTILINE)
    )


def _why_it_did_not_start(config: dict[str, str]) -> str:
    version = java_version()
    if version is None or version < JAVA:
        found = "none was found" if version is None else f"Java {version} was found"
        return (
            f"the Spark engine needs Java {JAVA} or newer, and {found}. Install it and let JAVA_HOME name its folder, "
            "or set UPSELL_ENGINE=duckdb."
        )
    return (
        f"the Spark engine did not start on {config['spark.master']}; its own words are above. Its first start "
        f"downloads {config.get('spark.jars.packages')} from Maven Central to ~/.ivy2*: check the network, or let "
        "spark.jars.ivySettings in spark-defaults.conf name a mirror. UPSELL_ENGINE=duckdb needs none of it."
    )


def spark_path(path: str) -> str:
    """A path of the lake, as Spark names it."""
    return path.replace("s3://", "s3a://", 1)


def lake_path(path: str) -> str:
    """A path that Spark tells (`_metadata.file_path`), as the lake names it."""
    plain = unquote(path)
    if plain.startswith("s3a://"):
        return plain.replace("s3a://", "s3://", 1)
    return "/" + plain.removeprefix("file:").lstrip("/")


def frame_of(session: SparkSession, rows: pa.Table) -> DataFrame:
    """Arrow rows as a data frame."""
    from pyspark.sql.pandas.types import from_arrow_schema

    # As it stands, a timestamp without a zone would become an instant.
    return session.createDataFrame(rows, from_arrow_schema(rows.schema, prefer_timestamp_ntz=True))


def arrow_of(frame: DataFrame) -> pa.Table:
    """A data frame's rows, on the driver; every column may be null."""
    import pyarrow as pa

    found = frame.toArrow()
    return found.cast(pa.schema([pa.field(column.name, column.type) for column in found.schema]))


@contextmanager
def refusals() -> Iterator[None]:
    """Spark's refusals as ours.

    Raises:
        PermanentError: Spark refused what was asked for; its own words are in the text.
    """
    from py4j.protocol import Py4JJavaError  # type: ignore[import-untyped]
    from pyspark.errors import PySparkException

    try:
        yield
    except PySparkException as error:
        raise PermanentError(f"the query was refused: {_first_line(error)}") from error
    except Py4JJavaError as error:
        raise PermanentError(f"the query was refused: {_first_line(error.java_exception.toString())}") from error


def _first_line(words: object) -> str:
    return str(words).strip().partition("\n")[0]
