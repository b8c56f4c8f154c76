"""What stands in for an image: paths and addresses of this machine in a service's words."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from include.cluster.compose import Mount, Service
from include.cluster.programs import MissingProgramError, Program, program_for

SERVICE = Service(
    name="one",
    image="registry.test/airflow-musicapi:1",
    command=[],
    environment={},
    needs={},
    health=None,
    mounts=[Mount("./dags", "/opt/airflow/dags"), Mount("logs", "/opt/airflow/logs")],
    hostname="one",
    restarts=False,
    grace=10.0,
)


@pytest.fixture
def program(tmp_path: Path) -> Program:
    """Return the program of a service with a folder of the project and a volume."""
    return program_for(SERVICE, tmp_path / "state", tmp_path / "project", "127.77.1.5")


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("/opt/airflow/dags", "PROJECT/dags"),
        ("/opt/airflow/dags/one.py", "PROJECT/dags/one.py"),
        ("file:///opt/airflow/logs", "file://STATE/volumes/logs"),
        ("--folder=/opt/airflow/logs -x", "--folder=STATE/volumes/logs -x"),
        ("/opt/airflow/auth/file", "STATE/services/one/auth/file"),
        ("/opt/airflow", "STATE/services/one"),
        ("/opt/airflow2 s3://bucket/opt/airflow", "/opt/airflow2 s3://bucket/opt/airflow"),
        ("--host 0.0.0.0 --port=1", "--host 127.77.1.5 --port=1"),
        ("-ip=127.0.0.1", "-ip=127.77.1.5"),
        ("10.0.0.0 127.0.0.12", "10.0.0.0 127.0.0.12"),
    ],
)
def test_words_are_those_of_this_machine(text: str, expected: str, program: Program, tmp_path: Path) -> None:
    """The longest path wins; what only looks like a path or an address stays."""
    expected = expected.replace("PROJECT", f"{tmp_path}/project").replace("STATE", f"{tmp_path}/state")

    assert program.here(text) == expected


def test_unknown_image_is_named(tmp_path: Path) -> None:
    """Nothing is guessed."""
    with pytest.raises(MissingProgramError, match="image nginx:1"):
        program_for(replace(SERVICE, image="nginx:1"), tmp_path, tmp_path, "127.77.1.5")
