"""Settings: read from the environment, every bad variable named, no secret ever printed."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from upsell_assets.errors import PermanentError
from upsell_assets.lake.store import ObjectStore
from upsell_assets.settings import Settings, load_settings

DSN = "postgresql://ana:hunter2@db.example:5432/points"


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
