"""An auth manager for tests: Airflow's simple one, whose user ``reader`` may not read everything."""

from __future__ import annotations

from typing import Any

from airflow.api_fastapi.auth.managers.models.resource_details import DagAccessEntity
from airflow.api_fastapi.auth.managers.simple.simple_auth_manager import SimpleAuthManager

#: DAGs of which ``reader`` may read all, all but XCom, and XCom only.
READABLE, WITHOUT_XCOM, XCOM_ONLY = "songs", "jingles", "drafts"


class PickyAuthManager(SimpleAuthManager):
    """Let ``reader`` read some DAGs, and not all of each."""

    def is_authorized_dag(
        self, *, user: Any, access_entity: Any = None, details: Any = None, **more: Any
    ) -> bool:
        """Decide."""
        is_xcom = access_entity is DagAccessEntity.XCOM
        readable = {READABLE: True, WITHOUT_XCOM: not is_xcom, XCOM_ONLY: is_xcom}
        if user.username == "reader" and not readable.get(details.id if details else None):
            return False
        return super().is_authorized_dag(user=user, access_entity=access_entity, details=details, **more)
