"""
Forget a file system that Airflow keeps: a door that is not public, opened here alone.

``airflow.sdk.io`` keeps the file system of each scheme and connection for the life of the process, in an
attribute of what ``attach`` returns, and nothing public takes it away. A task lives for minutes, the API
server for weeks: when somebody corrects a wrong connection, the tracks page must ask for it again.
"""

from __future__ import annotations

from urllib.parse import urlsplit

from airflow.sdk.io import attach

from musicapi_provider.files import OBJECT_STORES


def forget_file_system(uri: str) -> None:
    """Let Airflow make a folder's file system anew next time, from its connection as it is then."""
    parts = urlsplit(uri)
    if parts.scheme in OBJECT_STORES:
        vars(attach(parts.scheme, parts.netloc.rpartition("@")[0] or None)).pop("fs", None)
