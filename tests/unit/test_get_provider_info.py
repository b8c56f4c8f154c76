"""What Airflow's provider manager reads, checked with Airflow's own schema and manager."""

from __future__ import annotations

import importlib
import importlib.metadata
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import airflow
import jsonschema
import pytest
from airflow.providers_manager import ProvidersManager
from airflow.sdk import BaseOperator, BaseOperatorLink
from airflow.sdk.providers_manager_runtime import ProvidersManagerTaskRuntime
from airflow.triggers.base import BaseTrigger

from musicapi_provider.get_provider_info import get_provider_info
from musicapi_provider.hooks.connection import _SETTINGS
from musicapi_provider.hooks.musicapi import MusicAPIHook

PACKAGE = "airflow-provider-musicapi"


@pytest.fixture
def info() -> dict[str, Any]:
    """Return the provider info."""
    return get_provider_info()


@pytest.fixture
def connection_type(info: dict[str, Any]) -> dict[str, Any]:
    """Return the description of the only connection type."""
    (found,) = info["connection-types"]
    return dict(found)


def _schema() -> dict[str, Any]:
    path = Path(airflow.__file__).parent / "provider_info.schema.json"
    return dict(json.loads(path.read_text()))


def _loaded(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def _modules(info: dict[str, Any]) -> Iterator[tuple[str, str]]:
    for kind in ("hooks", "operators", "sensors", "triggers"):
        for entry in info[kind]:
            for module in entry["python-modules"]:
                yield kind, module


def test_info_follows_airflows_schema(info: dict[str, Any]) -> None:
    """Airflow drops a provider whose info does not validate."""
    jsonschema.validate(info, _schema())

    assert info["package-name"] == PACKAGE
    assert json.loads(json.dumps(info)) == info


def test_every_module_is_there_and_holds_its_kind(info: dict[str, Any]) -> None:
    """Each listed module imports and defines a class of its kind."""
    bases = {
        "operators": BaseOperator,
        "sensors": BaseOperator,
        "triggers": BaseTrigger,
        "hooks": MusicAPIHook,
    }
    listed = dict(_modules(info))
    own = {
        kind: [
            value
            for value in vars(importlib.import_module(module)).values()
            if isinstance(value, type) and issubclass(value, bases[kind]) and value.__module__ == module
        ]
        for kind, module in listed.items()
    }

    assert set(bases) == set(own)
    assert all(own.values())


def test_integrations_are_declared(info: dict[str, Any]) -> None:
    """Each list of modules belongs to a declared integration."""
    declared = {integration["integration-name"] for integration in info["integrations"]}

    assert declared == {
        entry["integration-name"]
        for kind in ("hooks", "operators", "sensors", "triggers")
        for entry in info[kind]
    }


def test_extra_links_are_links(info: dict[str, Any]) -> None:
    """Each path is a link with a name for its button; the UI shows only links of declared classes."""
    links = [_loaded(path) for path in info["extra-links"]]

    assert [link.name for link in links] == ["Listen", "Cover", "Music task", "Tracks", "Manifest"]
    assert all(issubclass(link, BaseOperatorLink) for link in links)


def test_connection_type_agrees_with_the_hook(connection_type: dict[str, Any]) -> None:
    """Class, type and name are the hook's own."""
    hook = _loaded(connection_type["hook-class-name"])

    assert hook is MusicAPIHook
    assert connection_type["connection-type"] == hook.conn_type
    assert connection_type["hook-name"] == hook.hook_name


def test_form_fields_are_settings_of_the_hook(connection_type: dict[str, Any]) -> None:
    """A field that the hook does not know would become a header."""
    fields = connection_type["conn-fields"]

    assert set(fields) <= _SETTINGS
    assert all(field["label"] and field["description"] for field in fields.values())
    assert all("null" in field["schema"]["type"] for field in fields.values())


def test_form_hides_what_has_no_meaning_and_names_the_rest(connection_type: dict[str, Any]) -> None:
    """Password is the key, host the base URL."""
    behaviour = connection_type["ui-field-behaviour"]

    assert behaviour["relabeling"] == {"password": "API key", "host": "Base URL"}
    assert {"login", "schema", "port"} <= set(behaviour["hidden-fields"])
    assert behaviour["placeholders"]["host"] == MusicAPIHook.default_host


def test_entry_point_is_installed() -> None:
    """It is how Airflow finds the provider."""
    (entry,) = [
        entry
        for entry in importlib.metadata.entry_points(group="apache_airflow_provider")
        if entry.value.startswith("musicapi_provider.")
    ]

    assert entry.load() is get_provider_info


def test_airflow_registers_the_provider() -> None:
    """Provider, connection type, form and link stand in Airflow's own register, exactly once."""
    manager = ProvidersManager()
    hook = ProvidersManagerTaskRuntime().hooks["musicapi"]

    assert PACKAGE in manager.providers
    assert hook is not None
    assert hook.hook_class_name == "musicapi_provider.hooks.musicapi.MusicAPIHook"
    assert hook.connection_id_attribute_name == "musicapi_conn_id"
    assert hook.connection_testable
    registered = [name for name in manager.extra_links_class_names if name.startswith("musicapi_provider.")]
    assert sorted(registered) == sorted(get_provider_info()["extra-links"])


def test_package_import_executes_nothing() -> None:
    """The map of the package is only a docstring."""
    package = importlib.import_module("musicapi_provider")

    assert package.__doc__
    assert not [
        name for name, value in vars(package).items() if callable(value) and not name.startswith("__")
    ]
