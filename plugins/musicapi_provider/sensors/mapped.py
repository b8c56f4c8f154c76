"""
Tell an operator that a mapped task has been expanded into: a door that is not public, opened here alone.

Airflow marks such an instance in a private attribute of ``BaseOperator``, and has no public word for it. A
sensor that starts in the triggerer needs to know: an expanded one is on a worker.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from airflow.sdk import BaseOperator


def is_expanded(operator: BaseOperator) -> bool:
    """Tell whether an operator is one of a mapped task's, on a worker."""
    return bool(getattr(operator, "_BaseOperator__from_mapped", False))
