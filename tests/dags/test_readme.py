"""The README's first DAG runs as it is printed."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from tests.conftest import PROJECT, WRITTEN_DAGS

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from airflow.models.dagrun import DagRun

pytestmark = pytest.mark.dags


def test_first_dag_of_the_readme_makes_a_song(run_file: Callable[..., DagRun], tmp_path: Path) -> None:
    """What a reader copies works; only the destination is another one."""
    (code,) = re.findall(r"```python\n(.*?)```", (PROJECT / "README.md").read_text(), flags=re.DOTALL)
    file = WRITTEN_DAGS / "first_song.py"
    file.write_text(code.replace("file:///tmp/music", f"file://{tmp_path}/music"))

    run = run_file(file)

    assert run.state == "success"
    assert len(list((tmp_path / "music").glob("*.mp3"))) == 2
