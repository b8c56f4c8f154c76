"""Which folders the API server reads at all."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider.links import xcoms
from musicapi_provider.links.pages import media_path
from musicapi_provider.ui.access import is_served

if TYPE_CHECKING:
    from tests.unit.api_server import Server


@pytest.mark.parametrize(
    "uri",
    [
        "/srv/music",
        "file:///srv/music",
        "s3://bucket/music",
        "s3://conn@bucket/music",
        "gs://bucket",
        "abfs://c@a/x",
    ],
)
def test_local_folders_and_object_stores_are_read(uri: str) -> None:
    """Wherever tracks can be stored for good."""
    assert is_served(uri)


@pytest.mark.parametrize(
    "uri",
    [
        pytest.param("http://169.254.169.254/latest/meta-data", id="a cloud's metadata service"),
        pytest.param("https://intranet/music", id="https"),
        pytest.param("HTTP://intranet/music", id="in capitals"),
        pytest.param(" http://intranet/music", id="after a space"),
        pytest.param("ht\ntp://intranet/music", id="with a line break, which urlsplit takes out"),
        pytest.param("filecache::http://intranet/music", id="a chain of fsspec"),
        pytest.param("file:///srv/music::http://intranet", id="a chain that begins well"),
        pytest.param("sftp://host/music", id="another storage"),
        pytest.param("github://owner:repo@main/", id="another service"),
        pytest.param("memory://music", id="this process"),
        pytest.param("file:http://intranet/music", id="two schemes"),
        pytest.param("s3:http://intranet/music", id="two schemes, of an object store"),
        pytest.param("file://host/music", id="another host's file"),
        pytest.param("music", id="relative: to what?"),
        pytest.param("http://[/", id="no URL at all"),
        pytest.param("", id="empty"),
        pytest.param(None, id="nothing"),
        pytest.param({"__classname__": "airflow.sdk.io.path.ObjectStoragePath"}, id="an object"),
    ],
)
def test_other_addresses_are_not(uri: Any) -> None:
    """Whoever writes a DAG must not make the API server ask its own network."""
    assert not is_served(uri)


def test_a_folder_on_the_web_is_never_asked(
    server: Server, leave: Callable[..., None], odd_server: Callable[..., Any]
) -> None:
    """Though a task has left it where folders are known from."""
    web = odd_server(lambda _: (200, {}, ""))
    leave(xcoms.DESTINATION, web.base_url)
    listed = server.ask("/musicapi/tracks").json

    assert (listed["dag_ids"], listed["unread_folders"]) == ([], 0)
    assert server.ask(media_path(web.base_url, "clip-1", "audio")).status == 404
    assert web.requests == []
