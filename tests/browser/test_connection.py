"""Admin > Connections: the form of our type, the Test button, and the key that nobody sees."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from playwright.sync_api import expect

from include.local.stack import connection_json
from tests.browser.place import API_KEY, CONN_ID

if TYPE_CHECKING:
    from playwright.sync_api import Page

    from tests.browser.place import Place
    from tests.browser.ui import UI

STANDARD = ["Description", "Base URL", "API key"]
EXTRA = [
    *("Request time-out", "Poll interval", "Polls per second", "Allow private media hosts"),
    *("Proxy", "Verify certificate", "Client certificate", "Prices"),
    *("Webhooks", "Webhook base URL", "Webhook secret", "Webhook poll interval", "Headers"),
]


@pytest.fixture
def silent_port() -> Iterator[int]:
    """Return a port that takes connections and never answers."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def test_the_form_shows_the_fields_that_matter_and_no_others(
    ui: UI, picture: Callable[[Page, str], Path]
) -> None:
    """Airflow's standard fields without login, schema and port, and ours, each with its help."""
    form = ui.open_new_connection(CONN_ID)
    form.field("password").fill(API_KEY)
    expect(form.labels()).to_have_text(STANDARD)
    picture(ui.page, "connection_form")
    form.open_section("Extra Fields")
    expect(form.labels()).to_have_text(EXTRA)

    assert form.field("host").get_attribute("placeholder") == "https://api.musicapi.ai/api/v1"
    assert form.field("password").get_attribute("type") == "password"
    assert "default 30" in form.dialog.inner_text()


def test_a_connection_made_by_the_form_passes_its_test(
    ui: UI, connection: None, picture: Callable[[Page, str], Path]
) -> None:
    """Test reads the balance, although Airflow sends port 0 for a connection without one."""
    ui.page.set_viewport_size({"width": 1280, "height": 480})
    said = ui.test_connection(CONN_ID)
    picture(ui.page, "connection_test")

    assert "Successful" in said
    assert "Balance: " in said
    assert "credits" in said


@pytest.mark.parametrize(
    ("conn_id", "host", "key", "culprit"),
    [
        pytest.param("wrong_key", "{api}", "wrong-key", "The API key is wrong", id="key"),
        pytest.param("wrong_no_key", "{api}", "", "has no API key", id="no-key"),
        pytest.param(
            "wrong_path", "http://127.0.0.1:{port}/elsewhere", API_KEY, "The Base URL is wrong", id="path"
        ),
        pytest.param("wrong_name", "https://musicapi.invalid", API_KEY, "The Base URL is wrong", id="name"),
        pytest.param("wrong_scheme", "ftp://127.0.0.1", API_KEY, "must be a http(s) URL", id="scheme"),
        pytest.param("wrong_refused", "http://127.0.0.1:1", API_KEY, "The network fails", id="refused"),
        pytest.param(
            "wrong_silent", "http://127.0.0.1:{silent_port}", API_KEY, "The network fails", id="silent"
        ),
    ],
)
def test_a_failing_test_names_the_culprit(
    ui: UI, place: Place, silent_port: int, conn_id: str, host: str, key: str, culprit: str
) -> None:
    """Key, Base URL and network are told apart, where the person looks: in what pops up."""
    api = place.simulator.base_url
    address = host.format(api=api, port=api.split(":")[2].partition("/")[0], silent_port=silent_port)
    place.api.put_connection(conn_id, connection_json(address, key, timeout=1), description="a slip")
    said = ui.test_connection(conn_id)

    assert "Failed" in said
    assert culprit in said
    assert API_KEY not in said


def test_list_and_form_mask_the_key(ui: UI, connection: None) -> None:
    """The key can be replaced but not read, also not in what the browser was sent."""
    answers: list[str] = []
    ui.page.on("response", lambda answer: answers.append(answer.text()) if "/api/v2/" in answer.url else None)
    form = ui.open_connection(CONN_ID)
    form.dialog.get_by_role("button", name="Show value").click()
    form.open_section("Extra Fields JSON")

    expect(form.field("password")).to_have_value("***")
    assert API_KEY not in ui.page.content()
    assert any(CONN_ID in answer for answer in answers)
    assert all(API_KEY not in answer for answer in answers)
    assert API_KEY not in json.dumps(ui.page.request.get(f"/api/v2/connections/{CONN_ID}").json())
