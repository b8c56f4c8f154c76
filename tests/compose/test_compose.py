"""docker-compose.yaml as this project reads it, and the rules it relies on."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from include.cluster.__main__ import COMPOSE
from include.cluster.compose import Condition, HealthCheck, load
from include.cluster.interpolation import MissingValueError
from include.cluster.values import SECRETS, made_env, read_env
from tests.conftest import PROJECT

WITHOUT_KEY = {"COMPOSE_PROFILES": "simulator"} | dict.fromkeys((*SECRETS, "AIRFLOW_FERNET_KEY"), "s3cret")
WITH_KEY = WITHOUT_KEY | {"MUSICAPI_KEY": "sk-real"}


def write(folder: Path, text: str, name: str = "compose.yaml") -> Path:
    """Write a compose file."""
    (folder / name).write_text(text)
    return folder / name


def test_service_is_read(tmp_path: Path) -> None:
    """Each key that matters without a container, in both of its spellings."""
    file = write(
        tmp_path,
        """
        x-common: &common {restart: always, environment: &env {A: "1"}}
        services:
          db: {image: "postgres:17"}
          one:
            <<: *common
            image: image:1
            command: sh -c "echo $$HOME"
            environment: {<<: *env, B: 2}
            depends_on: [db]
            volumes: ["data:/data", "./dags:/dags:ro"]
            stop_grace_period: 1m30s
            healthcheck: {test: "check $$HOSTNAME", interval: 5s, retries: 7}
          two:
            image: image:1
            entrypoint: [run]
            command: [it, "5"]
            depends_on: {one: {condition: service_healthy}, absent: {required: false}}
            healthcheck: {test: [CMD, check]}
        """,
    )
    services = load([file], {})
    one, two = services["one"], services["two"]

    assert one.command == ["sh", "-c", "echo $HOME"]
    assert one.environment == {"A": "1", "B": "2"}
    assert (one.restarts, one.grace, one.hostname) == (True, 90.0, "one")
    assert one.needs == {"db": Condition.STARTED}
    assert [f"{mount.source}:{mount.target}" for mount in one.mounts] == ["data:/data", "./dags:/dags"]
    assert HealthCheck(["/bin/sh", "-c", "check $HOSTNAME"], interval=5.0, retries=7) == one.health
    assert (two.command, two.restarts, two.grace) == (["run", "it", "5"], False, 10.0)
    assert two.needs == {"one": Condition.HEALTHY}
    assert HealthCheck(["check"]) == two.health


def test_need_that_is_missing_is_named(tmp_path: Path) -> None:
    """A dependency that is not there would never be met."""
    file = write(tmp_path, "services: {one: {image: x, depends_on: {two: {condition: service_healthy}}}}")
    with pytest.raises(ValueError, match="depends on two, which is not there"):
        load([file], {})


def test_later_file_goes_over_an_earlier_one(tmp_path: Path) -> None:
    """Mappings are joined, lists appended, commands replaced."""
    base = "services: {one: {image: x, command: [a], environment: {A: 1, B: 1}, volumes: ['a:/a']}}"
    over = "services: {one: {command: [b], environment: {B: 2}, volumes: ['b:/b']}}"
    one = load([write(tmp_path, base), write(tmp_path, over, "over.yaml")], {})["one"]

    assert (one.command, one.environment) == (["b"], {"A": "1", "B": "2"})
    assert [mount.target for mount in one.mounts] == ["/a", "/b"]


def test_simulator_is_off_when_a_key_is_given() -> None:
    """Without a key all of it comes up; with one, nothing simulated stands beside the real API."""
    assert "simulator" in load([COMPOSE], WITHOUT_KEY)
    assert load([COMPOSE], WITHOUT_KEY).keys() - load([COMPOSE], WITH_KEY).keys() == {"simulator"}


def test_key_goes_to_the_setup_alone() -> None:
    """All others read it from the connection."""
    services = load([COMPOSE], WITH_KEY)
    knowing = [name for name, one in services.items() if "sk-real" in f"{one.environment} {one.command}"]

    assert knowing == ["setup"]


@pytest.mark.parametrize("name", [*SECRETS, "AIRFLOW_FERNET_KEY"])
def test_no_secret_has_a_default(name: str) -> None:
    """A stack with a password that everybody knows does not start."""
    with pytest.raises(MissingValueError, match=f"{name} has no value"):
        load([COMPOSE], WITHOUT_KEY | {name: ""})


def test_every_variable_is_explained_and_none_else() -> None:
    """`.env.example` names what the file asks for."""
    asked = set(re.findall(r"(?<!\$)\$\{([A-Z0-9_]+)", COMPOSE.read_text()))
    named = read_env(PROJECT / ".env.example")

    assert asked <= named.keys()
    assert {name: named[name] for name in (*SECRETS, "AIRFLOW_FERNET_KEY") if named[name]} == {}


def test_everything_is_pinned_limited_and_local() -> None:
    """No moving image, no service without limits, no port open to the network."""
    services = yaml.safe_load(COMPOSE.read_text())["services"]
    for name, one in services.items():
        assert re.search(r":[\d.]+", one["image"]), name
        assert one["deploy"]["resources"]["limits"].keys() == {"cpus", "memory"}, name
        assert "restart" in one, name
        assert "healthcheck" in one or one["restart"] == "no", name
        assert all(port.startswith("127.0.0.1:") for port in one.get("ports", [])), name


def test_made_secrets_stay(tmp_path: Path) -> None:
    """The second start has the passwords of the first; nobody else may read them."""
    file = tmp_path / "secrets.env"
    first = made_env(file)

    assert made_env(file) == first
    assert len(set(first.values())) == len(SECRETS) + 1
    assert file.stat().st_mode & 0o077 == 0


def test_made_secrets_are_not_glued_to_a_line_without_end(tmp_path: Path) -> None:
    """The file was edited by hand: its password stays what it is."""
    file = write(tmp_path, "REDIS_PASSWORD=mine", "secrets.env")
    made = made_env(file)

    assert made["REDIS_PASSWORD"] == "mine"
    assert read_env(file) == made


def test_env_file_is_read_as_compose_reads_it(tmp_path: Path) -> None:
    """Comments, quotes, export."""
    file = tmp_path / ".env"
    file.write_text('# A=0\nA=1 # one\nexport B=\'{"a": "# b"}\'\nC=\nD=a#b\n')

    assert read_env(file) == {"A": "1", "B": '{"a": "# b"}', "C": "", "D": "a#b"}
