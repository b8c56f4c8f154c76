"""
What webhooks need of Airflow's tables is there, and as it was.

When one of these fails after an upgrade of Airflow, ``webhooks/airflow_tables.py`` is what has to follow; as
long as ``KNOWN_AIRFLOW`` does not name the new version, users are polled for, and nothing breaks.
"""

from __future__ import annotations

import inspect

import pytest
from airflow import __version__ as airflow_version
from airflow.assets.manager import AssetManager
from airflow.models.asset import AssetModel
from airflow.models.task_state_store import TaskStateStoreModel
from airflow.models.taskinstance import TaskInstance
from airflow.models.taskinstancehistory import TaskInstanceHistory
from airflow.models.taskmap import TaskMap
from airflow.models.trigger import Trigger
from airflow.models.xcom import XComModel

from musicapi_provider.triggers import musicapi as triggers
from musicapi_provider.webhooks import airflow_tables
from musicapi_provider.webhooks import triggers as callbacks
from musicapi_provider.webhooks.addresses import KNOWN_AIRFLOW, is_known_airflow
from tests.conftest import PROJECT

FOLLOW = f"Airflow {airflow_version} is not as webhooks/airflow_tables.py knows it: "
PLACE = {"dag_id", "run_id", "task_id", "map_index"}


def test_this_airflow_is_known() -> None:
    """On another, nobody expects callbacks: name it once test_wake.py passes with it."""
    assert is_known_airflow(airflow_version), f"{FOLLOW}not among {KNOWN_AIRFLOW}"


@pytest.mark.parametrize("version", ["3.4.0", "3.30.1", "4.0", "3", "", "3.2.9"])
def test_other_airflows_are_not(version: str) -> None:
    """Whatever they are."""
    assert not is_known_airflow(version)


@pytest.mark.parametrize(
    ("model", "columns"),
    [
        (TaskInstance, PLACE | {"id", "state", "trigger_id"}),
        (TaskInstanceHistory, PLACE | {"task_instance_id"}),
        (TaskStateStoreModel, PLACE | {"id", "key", "value", "updated_at"}),
        (TaskMap, PLACE | {"length", "keys"}),
        (Trigger, {"id", "classpath", "created_date"}),
        (XComModel, PLACE | {"key", "value", "timestamp"}),
        (AssetModel, {"name", "uri"}),
    ],
)
def test_columns_are_there(model: type, columns: set[str]) -> None:
    """Each that is read or written."""
    missing = columns - {column.key for column in model.__mapper__.columns}  # type: ignore[attr-defined]

    assert not missing, f"{FOLLOW}{model.__name__} has no {missing}"


@pytest.mark.parametrize(
    ("call", "arguments"),
    [
        (Trigger.submit_event, {"trigger_id", "event", "session"}),
        (XComModel.set, PLACE | {"key", "value", "serialize", "session"}),
        (AssetManager.register_asset_change, {"asset", "extra", "session"}),
    ],
)
def test_calls_take_what_they_are_given(call: object, arguments: set[str]) -> None:
    """By name."""
    missing = arguments - set(inspect.signature(call).parameters)  # type: ignore[arg-type]

    assert not missing, f"{FOLLOW}{call} takes no {missing}"


def test_triggers_are_called_as_they_are_stored() -> None:
    """What is looked for in Airflow's table is what the triggers write there."""
    names = {airflow_tables.TASK_TRIGGER, airflow_tables.CALLBACK_TRIGGER}

    assert names == {
        triggers.MusicAPITaskTrigger(["a"], "musicapi_default", 1.0).serialize()[0],
        callbacks.MusicAPICallbackTrigger("token", 1.0, 1.0).serialize()[0],
    }


def test_nothing_else_of_webhooks_touches_airflow_tables() -> None:
    """One small module is what an upgrade can break."""
    folder = PROJECT / "plugins" / "musicapi_provider" / "webhooks"
    touching = {
        path.name
        for path in folder.glob("*.py")
        if any(word in path.read_text() for word in ("airflow.models", "sqlalchemy", "create_session"))
    }

    assert touching == {"airflow_tables.py"}
