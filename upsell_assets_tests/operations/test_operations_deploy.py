"""What deploy/ holds is valid, says the same as the package, and starts."""

from __future__ import annotations

import shlex
import subprocess
import sys
from configparser import ConfigParser
from pathlib import Path

import dagster as dg
import pytest
import yaml
from dagster._core.workspace.load import location_origins_from_yaml_paths
from psycopg import connect, sql
from pydantic import SecretStr

from upsell_assets import up
from upsell_assets.errors import PermanentError
from upsell_assets.progress import reporter
from upsell_assets.services.embedded import Running
from upsell_assets.settings import Settings

ROOT = Path(__file__).parents[2]
DEPLOY = ROOT / "deploy"
BIN = Path(sys.executable).parent
UNITS = sorted((DEPLOY / "systemd").glob("*.service"))


def done(*command: str | Path) -> str:
    """What a command says, where it succeeds."""
    ran = subprocess.run(list(map(str, command)), capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr
    return ran.stdout


def test_the_compose_file_keeps_to_its_schema() -> None:
    done(BIN / "check-jsonschema", "--builtin-schema", "vendor.compose-spec", DEPLOY / "compose.yaml")


def test_the_dockerfile_has_no_fault_that_its_linter_knows() -> None:
    assert done(BIN / "hadolint", DEPLOY / "Dockerfile") == ""


def test_dagster_is_set_up_as_on_one_machine_but_for_its_storage() -> None:
    ours = yaml.safe_load((ROOT / "upsell_assets" / "dagster.yaml").read_text())
    deployed = yaml.safe_load((DEPLOY / "dagster.yaml").read_text())

    assert deployed.pop("storage") == {"postgres": {"postgres_url": {"env": "UPSELL_INSTANCE_DSN"}}}
    assert deployed == ours


@pytest.mark.services
def test_runs_and_events_are_kept_in_postgresql(
    services: Running, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert services.owner_dsn is not None
    with connect(services.owner_dsn, autocommit=True) as connection:
        connection.execute(sql.SQL("CREATE DATABASE dagster_instance"))
    dsn = services.owner_dsn.replace("postgresql://", "postgresql+psycopg2://").replace("/points", "/dagster_instance")
    monkeypatch.setenv("UPSELL_INSTANCE_DSN", Settings(instance_dsn=SecretStr(dsn)).instance_dsn.get_secret_value())
    (tmp_path / "dagster.yaml").write_text((DEPLOY / "dagster.yaml").read_text())

    @dg.asset
    def numbers() -> int:
        return 1

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert type(instance.event_log_storage).__name__ == "PostgresEventLogStorage"
        assert dg.materialize([numbers], instance=instance).success

    with dg.DagsterInstance.from_config(str(tmp_path)) as instance:
        assert [run.status for run in instance.get_runs()] == [dg.DagsterRunStatus.SUCCESS]


def test_every_process_finds_the_code_location_where_it_listens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UPSELL_CODE_HOST", "code")
    [origin] = location_origins_from_yaml_paths([str(DEPLOY / "workspace.yaml")])
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]

    assert (origin.location_name, origin.host, origin.port) == ("upsell", "code", 4266)
    assert {"4266", "upsell"} <= set(compose["code"]["command"])
    assert all(compose[name]["environment"]["UPSELL_CODE_HOST"] == "code" for name in ("code", "daemon", "webserver"))
    code = next(unit for unit in UNITS if "code" in unit.name).read_text()
    assert "--port 4266" in code
    assert "UPSELL_CODE_HOST=127.0.0.1" in code


@pytest.mark.parametrize("unit", UNITS, ids=lambda unit: unit.stem)
def test_the_commands_of_units_and_containers_are_the_same_and_exist(unit: Path) -> None:
    parsed = ConfigParser(interpolation=None, strict=False)
    parsed.optionxform = str  # type: ignore[assignment,method-assign]
    parsed.read(unit)
    program, *arguments = shlex.split(parsed["Service"]["ExecStart"])
    compose = yaml.safe_load((DEPLOY / "compose.yaml").read_text())["services"]
    service = compose[unit.stem.removeprefix("upsell-")]["command"]

    assert [Path(program).name, *arguments] == [word.replace("0.0.0.0", "127.0.0.1") for word in service]
    options = {word for word in arguments if word.startswith("-")}
    words = [word for word in arguments[:2] if not word.startswith("-")]
    told = done(BIN / Path(program).name, *words, "--help")
    assert [option for option in options if option not in told.replace(",", " ").split()] == []


def test_up_is_for_one_machine() -> None:
    production = Settings().model_copy(update={"profile": "production"})

    with (
        reporter() as report,
        pytest.raises(PermanentError, match=r"UPSELL_PROFILE is production.*docs/operations\.md"),
    ):
        up.run(production, up.Options(), report)
