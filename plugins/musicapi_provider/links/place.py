"""
Which task instance: Airflow's rows, contexts and keys all say it, each in a class of its own.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class HasPlace(Protocol):
    """What tells which task instance it is about."""

    @property
    def dag_id(self) -> str: ...  # noqa: D102
    @property
    def run_id(self) -> str: ...  # noqa: D102
    @property
    def task_id(self) -> str: ...  # noqa: D102
    @property
    def map_index(self) -> int | None: ...  # noqa: D102


class Place(NamedTuple):
    """A task instance, whatever its try; ``_asdict()`` is how Airflow's calls take it."""

    dag_id: str
    run_id: str
    task_id: str
    map_index: int

    @classmethod
    def of(cls, ti: HasPlace) -> Place:
        """Return where a task's own XComs are."""
        return cls(ti.dag_id, ti.run_id, ti.task_id, -1 if ti.map_index is None else ti.map_index)
