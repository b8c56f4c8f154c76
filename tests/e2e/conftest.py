"""One real Airflow and one simulator for all end-to-end tests; the runs of all tests start together."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from include.local.stack import IN_A_HURRY, Stack, connection_json, free_port
from include.musicapi_simulator import Settings, SimulatorServer
from tests.e2e.song import Song, World

#: Looked for in everything that Airflow writes.
API_KEY = "sk-e2e-0123456789abcdef"
WEBHOOK_SECRET = "whsec-e2e-0123456789abcdef"
HERE = Path(__file__).parent
DAGS = (
    *("e2e_create", "e2e_create_resubmitting", "e2e_create_and_defer", "e2e_create_mapped"),
    *("e2e_wait", "e2e_wait_in_many_ways", "e2e_wait_mapped", "e2e_wait_short"),
    *("e2e_webhook", "e2e_webhook_sensors", "e2e_webhook_arrivals"),
    *("e2e_rows", "e2e_rows_cleared_by_cli", "e2e_rows_in_folder", "e2e_rows_in_same_folder"),
    *("e2e_rows_in_configured_folder", "e2e_same_song", "e2e_shared_table_1", "e2e_shared_table_2"),
)


@pytest.fixture(scope="package")
def api_simulator() -> Iterator[SimulatorServer]:
    """Serve the API; not the simulator of the other tests, which each of them resets."""
    # A request that is held is held until its process is killed, whenever the test comes to that.
    with SimulatorServer(
        Settings(
            **{
                "api_key": API_KEY,
                "job_rule": "reads:1",
                "song_seconds": 1,
                "slow_seconds": 900,
                "credits": 100_000,
            },  # type: ignore[arg-type]
            webhooks_over_http=True,
            webhook_tries=8,  # the API server takes its time to start again
        )
    ) as server:
        yield server


@pytest.fixture(scope="package")
def world(api_simulator: SimulatorServer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    """Start Airflow, every part a process; its folder is a temporary one."""
    folder = tmp_path_factory.mktemp("e2e")
    processes = folder / "processes"
    processes.mkdir()
    port = free_port()
    webhooks = {
        **{"webhook": True, "webhook_secret": WEBHOOK_SECRET},
        "webhook_base_url": f"http://127.0.0.1:{port}",
    }
    # A lost callback costs seconds with the second one, not minutes.
    hooked = {"HOOKED": webhooks, "IMPATIENT": {**webhooks, "webhook_poll_interval": 10}}
    settings = {
        **IN_A_HURRY,
        "AIRFLOW__CORE__DAGS_FOLDER": str(HERE / "dags"),
        "AIRFLOW_CONN_MUSICAPI_DEFAULT": connection_json(api_simulator.base_url, API_KEY, timeout=600),
        **{
            f"AIRFLOW_CONN_MUSICAPI_{name}": connection_json(api_simulator.base_url, API_KEY, **extra)
            for name, extra in hooked.items()
        },
        "AIRFLOW__MUSICAPI__WEBHOOK_CONNECTIONS": "musicapi_hooked, musicapi_impatient",
        "E2E_PROCESSES": str(processes),
    }
    # Two processes take callbacks: what one is told the other must know.
    with Stack(home=folder / "airflow", port=port, settings=settings, api_workers=2) as stack:
        api = stack.start_with(DAGS)
        yield World(stack, api, api_simulator, processes)
        stack.kill("triggerer")  # it would take ten seconds to say goodbye


@pytest.fixture(scope="package")
def songs(world: World, request: pytest.FixtureRequest) -> dict[str, Song]:
    """
    Start the runs of all chosen tests, so that none waits for its own alone; by test id.

    Tests under the same ``starts`` object share a run.
    """
    begun: dict[str, Song] = {}
    shared: dict[int, Song] = {}
    for item in request.session.items:
        wanted = item.callspec.params.get("song") if hasattr(item, "callspec") else None
        if wanted and item.path.is_relative_to(HERE):
            if id(wanted) not in shared:
                shared[id(wanted)] = Song(world, *wanted)
            begun[item.nodeid] = shared[id(wanted)]
    return begun


@pytest.fixture
def song(songs: dict[str, Song], request: pytest.FixtureRequest) -> Song:
    """Return this test's run, see ``starts`` in the tests."""
    return songs[request.node.nodeid]


@pytest.fixture
def airflow_home(world: World) -> Path:
    """Return the folder in which Airflow keeps everything."""
    return world.stack.home
