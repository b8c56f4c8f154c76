"""The page in Airflow's UI: listed by the API server, served by it, and harmless."""

from __future__ import annotations

import re
import shutil
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider.links import pages
from musicapi_provider.ui.app import SCRIPTS
from musicapi_provider.webhooks import addresses as webhooks

if TYPE_CHECKING:
    from tests.unit.api_server import Server

NODE = shutil.which("node") or ""


def plugin_of(server: Server) -> dict[str, Any]:
    """Return what Airflow's UI is told of the plugin."""
    plugins = server.ask("/api/v2/plugins").json["plugins"]
    (found,) = [plugin for plugin in plugins if plugin["name"] == "musicapi"]
    return dict(found)


def test_airflow_has_loaded_the_plugin_once(server: Server) -> None:
    """By its entry point, and not once more from the plugins folder."""
    errors = server.ask("/api/v2/plugins/importErrors").json
    plugin = plugin_of(server)

    assert errors["total_entries"] == 0
    prefixes = [pages.PREFIX, webhooks.PREFIX]
    assert [app["url_prefix"] for app in plugin["fastapi_apps"]] == prefixes
    assert [one["middleware"] for one in plugin["fastapi_root_middlewares"]] == [
        "musicapi_provider.ui.port_zero.PortZeroIsNoPort"
    ]


def test_the_page_is_in_the_menu_and_its_script_is_served(server: Server) -> None:
    """Below Airflow's base URL, with the component under the name that Airflow looks for."""
    (page,) = plugin_of(server)["react_apps"]
    script = server.ask(f"/{page['bundle_url']}")

    assert (page["destination"], page["category"]) == ("nav", "browse")
    assert pages.tracks_page_path() == f"/plugin/{page['url_route']}"
    assert (script.status, script.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert script.body == SCRIPTS["tracks_page.js"].read_bytes()
    assert f'globalThis["{page["name"]}"]' in script.body.decode()


def test_what_the_script_imports_is_served(server: Server) -> None:
    """And no other file that lies beside it."""
    names = re.findall(r'from "\./(\w+\.js)"', SCRIPTS["tracks_page.js"].read_text())

    assert {*names, "tracks_page.js"} == set(SCRIPTS)
    assert [server.ask(f"/musicapi/{name}").status for name in names] == [200] * 2
    assert server.ask("/musicapi/app.js").status == 404


def test_the_script_makes_no_html_of_texts() -> None:
    """React escapes what it is given as text; these are the ways around that."""
    script = "".join(file.read_text() for file in SCRIPTS.values())
    ways = (
        "innerHTML",
        "outerHTML",
        "insertAdjacent",
        "dangerouslySet",
        "document.write",
        "eval(",
        "Function(",
    )

    assert [way for way in ways if way in script] == []


@pytest.mark.skipif(not NODE, reason="node is not installed")
@pytest.mark.parametrize("name", SCRIPTS)
def test_the_scripts_are_javascript_modules(name: str) -> None:
    """Airflow's UI imports them as they are."""
    command = [NODE, "--check", "--input-type=module", "-"]
    checked = subprocess.run(command, input=SCRIPTS[name].read_bytes(), capture_output=True, check=False)

    assert (checked.returncode, checked.stderr) == (0, b"")
