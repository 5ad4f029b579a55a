"""The Spark engine: the same SQL on Spark, local or on a cluster; it reads the lake's Delta tables by S3A.

Here: how a session is configured and started, how it reaches the object store, and how a query runs in it. Not
here: writing; delta-rs commits what the queries give. Nothing imports pyspark or starts a JVM before the first
query.

Where Spark finds a `spark-defaults.conf` (`SPARK_CONF_DIR`, else `SPARK_HOME/conf`), its values win over those of
`spark_config`, all but the few on which equal results rest.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa

from upsell_assets.errors import PermanentError
from upsell_assets.lake.engines import Capabilities, Query
from upsell_assets.lake.sql import bind, source_tables, to_spark
from upsell_assets.lake.tables import Lake

if TYPE_CHECKING:
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
class SparkEngine:
    """One lake, and one Spark session from the first query until `close`."""

    lake: Lake
    config: dict[str, str]
    read_options: dict[str, str] = field(repr=False)
    capabilities: Capabilities = field(default=Capabilities(writes=False), init=False)
    _session: SparkSession | None = field(default=None, init=False, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings, store: ObjectStore) -> SparkEngine:
        """The engine over a bucket; starts nothing."""
        return cls(Lake.of(store), spark_config(settings), s3a_options(store))

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

    def run(self, query: Query) -> pa.RecordBatchReader:
        """See `Engine.run`; the query has run to its end when this returns, so that its errors come from here."""
        tables = {
            name: (query.tables.get(name) or self.lake.open(name)).version()
            for name in source_tables(query.tree) - query.relations.keys()
        }
        # A session of its own for each query, so that its views meet nobody else's.
        session = self.session.newSession()
        names: dict[str, str] = {}
        with _refusals():
            for number, name in enumerate(sorted(source_tables(query.tree))):
                names[name] = f"input_{number}"
                rows = query.relations.get(name)
                frame = self._table(session, name, tables[name]) if rows is None else _relation(session, rows)
                frame.createTempView(names[name])
            result = session.sql(to_spark(bind(query.tree, names, query.params))).toArrow()
        schema = pa.schema([pa.field(column.name, column.type) for column in result.schema])
        return result.cast(schema).to_reader()

    def close(self) -> None:
        """Stop the session; the next query starts another."""
        if self._session is not None:
            self._session.stop()
            self._session = None

    def _table(self, session: SparkSession, name: str, version: int) -> DataFrame:
        reader = session.read.format("delta").options(**self.read_options).option("versionAsOf", version)
        return reader.load(self.lake.uri(name).replace("s3://", "s3a://", 1))


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
        "spark.ui.enabled": "false",
        "spark.ui.showConsoleProgress": "false",
        "spark.log.level": "ERROR",
    }
    if local:
        config |= {
            "spark.driver.host": "127.0.0.1",
            "spark.driver.bindAddress": "127.0.0.1",
            # Both are made for clusters: 200 and 50 tasks for what a few hold.
            "spark.sql.shuffle.partitions": "4",
            "spark.databricks.delta.snapshotPartitions": "2",
        }
    return {
        **config,
        **_spark_defaults(),
        "spark.master": settings.spark_master,
        "spark.sql.session.timeZone": "UTC",
        "spark.sql.ansi.enabled": "true",
        "spark.sql.caseSensitive": "false",
        "spark.sql.timestampType": "TIMESTAMP_LTZ",
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


def _relation(session: SparkSession, rows: pa.Table) -> DataFrame:
    from pyspark.sql.pandas.types import from_arrow_schema

    # As it stands, a timestamp without a zone would become an instant.
    return session.createDataFrame(rows, from_arrow_schema(rows.schema, prefer_timestamp_ntz=True))


@contextmanager
def _refusals() -> Iterator[None]:
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
