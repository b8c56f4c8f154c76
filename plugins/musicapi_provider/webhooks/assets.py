"""
The asset that completed music tasks update, for DAGs that run on it.
"""

from __future__ import annotations

from airflow.sdk import Asset

#: Updated by each completed music task that was bought with a webhook. The event's ``extra``:
#: ``music_task_id``, ``tracks`` (as the sensor returns them), ``musicapi_conn_id``, and ``dag_id, run_id,
#: task_id, map_index`` of the task that bought it.
COMPLETED_TRACKS = Asset(name="musicapi_completed_tracks", uri="musicapi://completed_tracks")
