"""
What Airflow's provider manager reads: the entry point ``apache_airflow_provider``.
"""

from __future__ import annotations

_INTEGRATION = "MusicAPI"
_CONFIG = {
    "musicapi": {
        "description": "MusicAPI.",
        "options": {
            "webhook_connections": {
                "description": "Connections for which the API server accepts webhooks, separated by commas; "
                "those without a webhook secret have no receiver.",
                "version_added": "0.1.0",
                "type": "string",
                "example": None,
                "default": "musicapi_default",
            },
            "records": {
                "description": "Folder, as an object storage URI, whose purchases/ keep what creates have "
                "bought, beyond the dag run: the same order is then collected by any run and DAG. The "
                "default of the operators' argument records. Empty: each dag run keeps its own, in Airflow's "
                "asset state store.",
                "version_added": "0.1.0",
                "type": "string",
                "example": "s3://aws_default@bucket/music",
                "default": "",
            },
            "require_claims": {
                "description": "Refuse to buy by a folder whose storage cannot create a file for one of "
                "several processes that ask at once. False: go on without, where one dag run at a time uses "
                "the folder.",
                "version_added": "0.1.0",
                "type": "boolean",
                "example": None,
                "default": "True",
            },
        },
    }
}


#: The form's fields, the frequent ones first; each is kept in the connection's extra. Without schema
#: defaults: Airflow's form would write them into the connection, and freeze them there.
_FIELDS: dict[str, object] = {
    "timeout": {
        "label": "Request time-out",
        "description": "Seconds for one request; default 30.",
        "schema": {"type": ["number", "null"], "minimum": 1, "maximum": 600},
    },
    "poll_interval": {
        "label": "Poll interval",
        "description": "Seconds between polls of a waiting music task; default: adaptive.",
        "schema": {"type": ["number", "null"], "minimum": 1, "maximum": 3600},
    },
    "polls_per_second": {
        "label": "Polls per second",
        "description": "Polls a second, at most, by all tasks that wait in one triggerer; default 10.",
        "schema": {"type": ["number", "null"], "exclusiveMinimum": 0, "maximum": 1000},
    },
    "allow_private_media": {
        "label": "Allow private media hosts",
        "description": "Let tracks be downloaded from private addresses, such as a media host of your "
        "own network; default off. The API's own address is always allowed.",
        "schema": {"type": ["boolean", "null"]},
    },
    "proxy": {
        "label": "Proxy",
        "description": "URL of the proxy, such as http://proxy:3128. A password in it is shown in clear.",
        "schema": {"type": ["string", "null"]},
    },
    "verify": {
        "label": "Verify certificate",
        "description": "true (default), false, or the path of a CA bundle on the workers.",
        "schema": {"type": ["string", "null"]},
    },
    "cert": {
        "label": "Client certificate",
        "description": "Path of a client certificate with its key on the workers.",
        "schema": {"type": ["string", "null"]},
    },
    "prices": {
        "label": "Prices",
        "description": "JSON object of credits by task_type where yours differ, such as "
        '{"create_music": 12}; default 15, concat_music 2.',
        "schema": {"type": ["object", "null"]},
    },
    "webhook": {
        "label": "Webhooks",
        "description": "Let the API call Airflow when a music task is done, instead of polling; default "
        "off. Needs the next two fields, and docs/webhooks.md.",
        "schema": {"type": ["boolean", "null"]},
    },
    "webhook_base_url": {
        "label": "Webhook base URL",
        "description": "Airflow's API server as the API reaches it, such as https://airflow.example.com.",
        "schema": {"type": ["string", "null"]},
    },
    "webhook_secret": {
        "label": "Webhook secret",
        "description": "Signs callbacks; 16 characters or more, such as of openssl rand -hex 32. While "
        "you change it: the new and the old one, separated by a blank.",
        "schema": {"type": ["string", "null"], "format": "password"},
    },
    "webhook_poll_interval": {
        "label": "Webhook poll interval",
        "description": "Seconds between polls of a music task whose callback is expected; default 300.",
        "schema": {"type": ["number", "null"], "minimum": 1, "maximum": 3600},
    },
    "headers": {
        "label": "Headers",
        "description": "JSON object of further headers for the API, shown in clear.",
        "schema": {"type": ["object", "null"]},
    },
}


_CONNECTION_TYPES: list[dict[str, object]] = [
    {
        "connection-type": "musicapi",
        "hook-class-name": "musicapi_provider.hooks.musicapi.MusicAPIHook",
        "hook-name": "MusicAPI",
        "ui-field-behaviour": {
            "hidden-fields": ["login", "schema", "port"],
            "relabeling": {"password": "API key", "host": "Base URL"},
            "placeholders": {
                "host": "https://api.musicapi.ai/api/v1",
                "password": "the key alone, without Bearer",
            },
        },
        "conn-fields": _FIELDS,
    }
]


def get_provider_info() -> dict[str, object]:
    """Describe the provider: its connection type and form, its classes and its links."""
    return {
        "package-name": "airflow-provider-musicapi",
        "name": "MusicAPI",
        "description": "Turn prompts into music with `MusicAPI <https://musicapi.ai>`__.",
        "integrations": [
            {
                "integration-name": _INTEGRATION,
                "external-doc-url": "https://docs.musicapi.ai",
                "tags": ["service"],
            }
        ],
        "hooks": _modules("musicapi_provider.hooks.musicapi"),
        "operators": _modules(
            "musicapi_provider.operators.musicapi",
            "musicapi_provider.operators.prompt_table",
            "musicapi_provider.operators.prompt_table_steps",
            "musicapi_provider.operators.store_tracks",
        ),
        "sensors": _modules("musicapi_provider.sensors.musicapi"),
        "triggers": _modules(
            "musicapi_provider.triggers.musicapi",
            "musicapi_provider.triggers.prompt_table",
            "musicapi_provider.webhooks.triggers",
        ),
        "config": _CONFIG,
        "cli": ["musicapi_provider.cli.definition.get_musicapi_commands"],
        "extra-links": [
            f"musicapi_provider.links.extra_links.MusicAPI{name}Link"
            for name in ("Listen", "Cover", "MusicTask", "Tracks", "Manifest")
        ],
        "connection-types": _CONNECTION_TYPES,
    }


def _modules(*modules: str) -> list[dict[str, object]]:
    return [{"integration-name": _INTEGRATION, "python-modules": list(modules)}]
