"""What Airflow loads in each of its processes."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import entry_points

from musicapi_provider.plugin import MusicAPIPlugin
from musicapi_provider.ui.app import SCRIPTS

#: What only API servers need, or what takes long to import.
HEAVY = (
    "fastapi",
    "starlette",
    "airflow.api_fastapi",
    "sqlalchemy",
    "requests",
    "aiohttp",
    "pyarrow",
    "mutagen",
)


def test_workers_import_next_to_nothing() -> None:
    """What the plugin brings, beyond what Airflow's plugin class brings itself."""
    code = (
        "import sys, airflow.sdk.plugins_manager\n"
        "before = set(sys.modules)\n"
        "import musicapi_provider.plugin\n"
        f"print(*[name for name in set(sys.modules) - before if name.startswith({HEAVY})])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.split() == []


def test_the_entry_point_leads_to_the_plugin() -> None:
    """Installed is switched on."""
    (found,) = entry_points(group="airflow.plugins", name="musicapi")

    assert found.load() is MusicAPIPlugin


def test_the_script_stands_where_the_page_looks_for_it() -> None:
    """Below the prefix of the app that serves it, relative to Airflow's base URL."""
    (app, _), (page,) = MusicAPIPlugin.fastapi_apps, MusicAPIPlugin.react_apps

    assert f"{app['url_prefix']}/tracks_page.js" == f"/{page['bundle_url']}"
    assert all(file.is_file() for file in SCRIPTS.values())
