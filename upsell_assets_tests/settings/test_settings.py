"""Settings: read from the environment, every bad variable named, no secret ever printed."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.settings import Settings, load_settings

DSN = "postgresql://ana:hunter2@db.example:5432/points"
INSTANCE_DSN = "postgresql+psycopg2://dagster:hunter2@db.example:5432/dagster"


def set_environment(monkeypatch: pytest.MonkeyPatch, **values: str) -> None:
    for name, value in values.items():
        monkeypatch.setenv(f"UPSELL_{name.upper()}", value)


def test_without_variables_everything_is_embedded() -> None:
    settings = load_settings()

    assert settings.embedded_source
    assert settings.embedded_store
    assert settings.bucket == "upsell"
    assert settings.home.is_absolute()


def test_what_is_named_is_not_embedded(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, source_dsn=DSN, s3_bucket="lake", first_day="2024-02-01", engine="spark")
    settings = load_settings()

    assert not settings.embedded_source
    assert not settings.embedded_store
    assert (settings.bucket, settings.first_day, settings.engine) == ("lake", date(2024, 2, 1), "spark")
    assert settings.source_dsn is not None
    assert settings.source_dsn.get_secret_value() == DSN


def test_an_endpoint_alone_is_no_embedded_store(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, s3_endpoint="http://127.0.0.1:8333")

    assert not load_settings().embedded_store


def test_an_empty_variable_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, s3_bucket="", first_day="")

    assert (load_settings().s3_bucket, load_settings().first_day) == (None, None)


def test_a_folder_may_begin_at_the_home_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, contracts="~/contracts")

    assert load_settings().contracts == Path.home() / "contracts"


@pytest.mark.parametrize(
    ("name", "value", "fault"),
    [
        ("engine", "flink", "Input should be 'duckdb' or 'spark'"),
        ("first_day", "01/02/2024", "Input should be a valid date"),
        ("first_landing_day", "soon", "Input should be a valid date"),
        ("recent_days", "0", "greater than or equal to 1"),
        ("sweep_minutes", "often", "Input should be a valid integer"),
        ("capture_seconds", "0", "greater than or equal to 1"),
        ("sensor_seconds", "1.5", "Input should be a valid integer"),
        ("training_grid", "daily", "Input should be 'monday' or 'month'"),
        ("training_rows_per_customer", "-1", "greater than or equal to 1"),
        ("seed", "x", "Input should be a valid integer"),
        ("s3_endpoint", "127.0.0.1:8333", "expected a URL such as http://127.0.0.1:8333"),
    ],
)
def test_a_bad_variable_is_named(monkeypatch: pytest.MonkeyPatch, name: str, value: str, fault: str) -> None:
    set_environment(monkeypatch, **{name: value})

    with pytest.raises(PermanentError, match=rf"^settings: UPSELL_{name.upper()}: .*{fault}") as error:
        load_settings()
    assert str(error.value).endswith("Correct the environment variables and try again.")
    assert "\n" not in str(error.value)


def test_all_bad_variables_are_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, engine="flink", seed="x")

    with pytest.raises(PermanentError, match=r"UPSELL_ENGINE: .*; UPSELL_SEED: "):
        load_settings()


@pytest.mark.parametrize("given", ["s3_access_key_id", "s3_secret_access_key"])
def test_half_a_key_is_refused(monkeypatch: pytest.MonkeyPatch, given: str) -> None:
    set_environment(monkeypatch, **{given: "hunter2"})

    with pytest.raises(PermanentError, match="UPSELL_S3_SECRET_ACCESS_KEY are given together or not at all") as error:
        load_settings()
    assert "hunter2" not in str(error.value)


def test_secrets_are_in_no_text(monkeypatch: pytest.MonkeyPatch) -> None:
    key = {"s3_access_key_id": "its-key", "s3_secret_access_key": "hunter2", "s3_session_token": "hunter2"}
    set_environment(monkeypatch, source_dsn=DSN, s3_bucket="lake", **key)
    settings = load_settings()
    store = ObjectStore.from_settings(settings)

    assert store.secret_access_key == "hunter2"
    for text in (repr(settings), str(settings), str(settings.model_dump()), settings.model_dump_json(), repr(store)):
        assert "hunter2" not in text


def test_secrets_are_in_no_error(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, source_dsn=DSN, s3_secret_access_key="hunter2", seed="hunter2")

    with pytest.raises(PermanentError, match="UPSELL_SEED") as error:
        load_settings()
    assert "hunter2" not in str(error.value)


def test_settings_do_not_change_under_way() -> None:
    with pytest.raises(ValueError, match="frozen"):
        Settings().seed = 7  # type: ignore[misc]


def test_every_setting_says_what_it_is() -> None:
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []


# --- profiles ---


@pytest.fixture
def dagster_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    (tmp_path / "dagster.yaml").write_text("{}")
    monkeypatch.setenv("DAGSTER_HOME", str(tmp_path))
    return tmp_path


def test_what_production_lacks_is_named_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, profile="production")
    monkeypatch.delenv("DAGSTER_HOME", raising=False)
    monkeypatch.setattr("upsell_assets.settings.find_spec", lambda name: None)

    with pytest.raises(PermanentError, match=r"^settings: .*UPSELL_PROFILE=production is not complete: ") as error:
        load_settings()

    for missing in (
        "UPSELL_S3_BUCKET",
        "UPSELL_INSTANCE_DSN",
        r"upsell-assets[postgres]",
        "DAGSTER_HOME names no folder",
    ):
        assert missing in str(error.value)
    assert "\n" not in str(error.value)


def test_a_complete_production_starts_nothing_by_itself(monkeypatch: pytest.MonkeyPatch, dagster_home: Path) -> None:
    set_environment(monkeypatch, profile="production", s3_bucket="lake", instance_dsn=INSTANCE_DSN)

    settings = load_settings()

    assert not settings.embedded_source
    assert not settings.embedded_store
    assert "hunter2" not in repr(settings)


def test_spark_needs_a_cluster_and_java_besides(monkeypatch: pytest.MonkeyPatch, dagster_home: Path) -> None:
    set_environment(monkeypatch, profile="spark", s3_bucket="lake", instance_dsn=INSTANCE_DSN, engine="duckdb")
    monkeypatch.setenv("PATH", str(dagster_home))
    monkeypatch.delenv("JAVA_HOME", raising=False)

    with pytest.raises(
        PermanentError,
        match=r"=spark is not complete: UPSELL_ENGINE is duckdb; UPSELL_SPARK_MASTER names no cluster; there is no java",
    ):
        load_settings()


def test_the_profile_spark_chooses_the_engine(monkeypatch: pytest.MonkeyPatch, dagster_home: Path) -> None:
    master = "spark://cluster.example:7077"
    set_environment(monkeypatch, profile="spark", s3_bucket="lake", instance_dsn=INSTANCE_DSN, spark_master=master)
    monkeypatch.setenv("JAVA_HOME", "/opt/java")

    assert load_settings().engine == "spark"


@pytest.mark.parametrize("target", ["mail", "ftp://chat.example", "module.function"])
def test_alerts_go_to_the_log_a_webhook_or_a_function(monkeypatch: pytest.MonkeyPatch, target: str) -> None:
    set_environment(monkeypatch, alerts=target)

    with pytest.raises(
        PermanentError, match=r"UPSELL_ALERTS: .*expected log, the URL of a webhook, or module:function"
    ):
        load_settings()


def test_dagsters_database_is_named_with_its_driver(monkeypatch: pytest.MonkeyPatch) -> None:
    set_environment(monkeypatch, instance_dsn=DSN)

    with pytest.raises(PermanentError, match=r"UPSELL_INSTANCE_DSN: .*expected postgresql\+psycopg2://user") as error:
        load_settings()
    assert "hunter2" not in str(error.value)
