"""
The few calls of Airflow's public REST API that ``make demo``, ``make up`` and the end-to-end tests need.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

import requests


class AirflowAPI:
    """A logged-in user of Airflow's public REST API."""

    def __init__(self, url: str, password: str) -> None:
        self._url = f"{url}/api/v2"
        self._session = requests.Session()
        self._session.trust_env = False  # a proxy of the environment is not for this machine
        login = {"username": "admin", "password": password}
        token = self._session.post(f"{url}/auth/token", json=login, timeout=60)
        token.raise_for_status()
        self._session.headers["Authorization"] = f"Bearer {token.json()['access_token']}"

    def has_dag(self, dag_id: str) -> bool:
        """Tell whether the DAG processor has parsed it."""
        return self._session.get(f"{self._url}/dags/{dag_id}", timeout=60).status_code == 200

    def import_errors(self) -> list[dict[str, Any]]:
        """Return what kept DAG files from being parsed."""
        errors: list[dict[str, Any]] = self._call("GET", "/importErrors")["import_errors"]
        return errors

    def unpause(self, dag_id: str) -> None:
        """Let the DAG run."""
        self._call("PATCH", f"/dags/{dag_id}", {"is_paused": False})

    def trigger(self, dag_id: str, conf: Mapping[str, Any], *, run_id: str | None = None) -> str:
        """Unpause the DAG, trigger it and return the run id."""
        self.unpause(dag_id)
        body = {"logical_date": None, "conf": dict(conf), "dag_run_id": run_id}
        return str(self._call("POST", f"/dags/{dag_id}/dagRuns", body)["dag_run_id"])

    def delete_run(self, dag_id: str, run_id: str) -> None:
        """Delete a run with all that Airflow knows of it."""
        self._call("DELETE", f"/dags/{dag_id}/dagRuns/{run_id}")

    def unfinished_run(self, dag_id: str) -> str | None:
        """Return the id of a run that an earlier session left behind, if there is one."""
        runs = self._call("GET", f"/dags/{dag_id}/dagRuns?state=running&state=queued&limit=1")["dag_runs"]
        return str(runs[0]["dag_run_id"]) if runs else None

    def run_ids(self, dag_id: str) -> list[str]:
        """Return the ids of all runs of a DAG, the oldest first."""
        runs = self._call("GET", f"/dags/{dag_id}/dagRuns?limit=100&order_by=id")["dag_runs"]
        return [str(run["dag_run_id"]) for run in runs]

    def run_state(self, dag_id: str, run_id: str) -> str:
        """Return the run's state."""
        return str(self._call("GET", f"/dags/{dag_id}/dagRuns/{run_id}")["state"])

    def task_instances(self, dag_id: str, run_id: str) -> list[dict[str, Any]]:
        """Return all task instances of the run."""
        found: list[dict[str, Any]] = []
        while True:
            page = self._call(
                "GET", f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances?limit=100&offset={len(found)}"
            )
            found += page["task_instances"]
            if len(found) >= page["total_entries"] or not page["task_instances"]:
                return found

    def clear(
        self,
        dag_id: str,
        run_id: str,
        task_id: str,
        map_index: int | Sequence[int] = -1,
        *,
        upstream: bool = False,
        downstream: bool = False,
    ) -> None:
        """Clear a task instance, or several, as the UI does: they run again, and with them the run."""
        indexes = [map_index] if isinstance(map_index, int) else map_index
        body = {
            "dry_run": False,
            "dag_run_id": run_id,
            "task_ids": [task_id if index < 0 else (task_id, index) for index in indexes],
            "only_failed": False,
            "reset_dag_runs": True,
            "include_upstream": upstream,
            "include_downstream": downstream,
        }
        self._call("POST", f"/dags/{dag_id}/clearTaskInstances", body)

    def clear_run(self, dag_id: str, run_id: str) -> None:
        """Clear all tasks of a run as the UI does."""
        body = {"dry_run": False, "only_failed": False}
        self._call("POST", f"/dags/{dag_id}/dagRuns/{run_id}/clear", body)

    def set_variable(self, key: str, value: str) -> None:
        """Create an Airflow Variable."""
        self._call("POST", "/variables", {"key": key, "value": value})

    def xcom(
        self, dag_id: str, run_id: str, task_id: str, *, map_index: int = -1, key: str = "return_value"
    ) -> Any:
        """Return an XCom of a task instance, by default its result."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries/{key}"
        return self._call("GET", f"{path}?map_index={map_index}&stringify=false")["value"]

    def xcom_keys(self, dag_id: str, run_id: str, task_id: str) -> set[str]:
        """Return the keys of all XComs of a task."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/xcomEntries"
        return {entry["key"] for entry in self._call("GET", path)["xcom_entries"]}

    def links(self, dag_id: str, run_id: str, task_id: str) -> dict[str, str | None]:
        """Return the extra links of a task instance by name."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{task_id}/links"
        found: dict[str, str | None] = self._call("GET", path)["extra_links"]
        return found

    def asset_events(self, dag_id: str, run_id: str) -> list[str]:
        """Return the tasks of a run that emitted asset events, a name for each event."""
        events = self._call("GET", f"/assets/events?source_dag_id={dag_id}&limit=100")["asset_events"]
        return [event["source_task_id"] for event in events if event["source_run_id"] == run_id]

    def consumers(self, name: str) -> set[tuple[str, str]]:
        """Return the tasks that have the asset of this name among their inlets, each with its DAG."""
        found = self._call("GET", f"/assets?name_pattern={name}")["assets"]
        return {(task["dag_id"], task["task_id"]) for asset in found for task in asset["consuming_tasks"]}

    def log(self, dag_id: str, run_id: str, instance: Mapping[str, Any]) -> list[str]:
        """Return the messages of a task instance's last try."""
        entries = self.log_entries(dag_id, run_id, instance)
        return [str(entry.get("event")) if isinstance(entry, dict) else str(entry) for entry in entries]

    def log_text(self, dag_id: str, run_id: str, instance: Mapping[str, Any]) -> str:
        """Return everything in the log of a task instance's last try, errors and their causes included."""
        return "\n".join(json.dumps(entry) for entry in self.log_entries(dag_id, run_id, instance))

    def log_entries(self, dag_id: str, run_id: str, instance: Mapping[str, Any]) -> list[Any]:
        """Return the log of a task instance's last try as Airflow keeps it."""
        path = f"/dags/{dag_id}/dagRuns/{run_id}/taskInstances/{instance['task_id']}/logs"
        query = f"map_index={instance['map_index']}&full_content=true"
        entries: list[Any] = self._call("GET", f"{path}/{instance['try_number']}?{query}")["content"]
        return entries

    def connection(self, conn_id: str) -> dict[str, Any] | None:
        """Return a connection without its secrets, or ``None``."""
        answer = self._session.get(f"{self._url}/connections/{conn_id}", timeout=60)
        found: dict[str, Any] | None = answer.json() if answer.status_code == 200 else None
        return found

    def put_connection(self, conn_id: str, connection: str, *, description: str) -> None:
        """Create or replace a connection."""
        fields = json.loads(connection)
        fields |= {"connection_id": conn_id, "description": description, "extra": json.dumps(fields["extra"])}
        body = {"actions": [{"action": "create", "action_on_existence": "overwrite", "entities": [fields]}]}
        self._call("PATCH", "/connections", body)

    def _call(self, method: str, path: str, json: Any = None) -> Any:
        answer = self._session.request(method, self._url + path, json=json, timeout=60)
        answer.raise_for_status()
        return answer.json() if answer.content else None
