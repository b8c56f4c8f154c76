"""
A purchase is what was ordered: clears, moved rows, other runs and shared folders neither double nor lose it.

All tests of this module run at the same time, each in a thread of its own, since Airflow mostly waits for
itself. What a test calls discarded is deleted from Airflow's database.
"""

from __future__ import annotations

import functools
import hashlib
import inspect
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from tests.e2e.rows import Rows
from tests.e2e.song import World

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = pytest.mark.e2e

SAME_ORDER = "This dag run has placed the same order before"
#: Seconds for one step of a run, with all of them at once.
PATIENCE = 400.0
#: Rows that two DAGs want at the same time.
SHARED = 4
#: Fields of a purchase that version 0.1 did not write.
NEW_FIELDS = ("resend", "ordered", "entry", "asked")

Test = Callable[[World, "Path"], None]


def together(test: Test) -> Callable[..., None]:
    """Run the test beside the others of this module; its outcome is what it came to."""

    @functools.wraps(test)
    def outcome(outcomes: dict[str, Future[None]]) -> None:
        outcomes[test.__name__].result()

    outcome.__signature__ = inspect.Signature(  # type: ignore[attr-defined]
        [inspect.Parameter("outcomes", inspect.Parameter.POSITIONAL_OR_KEYWORD)]
    )
    outcome.body = test  # type: ignore[attr-defined]
    return outcome


@pytest.fixture(scope="module")
def outcomes(
    world: World, request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Future[None]]]:
    """Begin all chosen tests."""
    chosen = [item.function.body for item in request.session.items if item.path == request.path]
    with ThreadPoolExecutor(len(chosen)) as threads:
        yield {
            test.__name__: threads.submit(
                test,
                replace(world, api=world.stack.api(), patience=PATIENCE),
                tmp_path_factory.mktemp("folder"),
            )
            for test in chosen
        }


def bookings(world: World, *prompts: str) -> list[int]:
    """Return how often each prompt was bought."""
    return [world.simulator.state.creates_booked[prompt] for prompt in prompts]


def id_of(world: World, prompt: str) -> str:
    """Return the only music task that was bought with this prompt."""
    (found,) = [job.task_id for job in world.simulator.state.jobs.copy().values() if job.text == prompt]
    return found


# -- clears --------------------------------------------------------------------------------------------------


@together
def test_clears_by_api_collect(world: World, folder: Path) -> None:
    """Clears of the task, with upstream, with downstream, and of the run: kept or discarded, all collect."""
    run = Rows(world, rows=["a cleared harp"])
    (first,) = run.bought()
    clears: list[tuple[bool, Callable[[], None]]] = [
        (True, run.clear),
        (False, lambda: run.clear("after", upstream=True)),
        (True, lambda: run.clear("rows", downstream=True)),
        (True, run.clear_all),
    ]
    for discards, clear in clears:
        if discards:
            run.discard_task_state()
        clear()

        (again,) = run.bought()
        assert again.music_task_id == first.music_task_id
        assert again.is_collected
        assert bookings(world, "a cleared harp") == [1]


@together
def test_clears_by_command_line_collect(world: World, folder: Path) -> None:
    """``airflow tasks clear`` of the task and of the whole DAG: kept and discarded, both collect."""
    run = Rows(world, "e2e_rows_cleared_by_cli", ["a harp at a terminal"])
    (first,) = run.bought()
    for only in (["-t", "create"], []):  # no regular expression in 3.3.2
        if not only:
            run.discard_task_state()
        command = [sys.executable, "-m", "airflow", "tasks", "clear", "-y", *only, run.dag_id]
        subprocess.run(command, env=world.stack.environment, check=True, capture_output=True)

        (again,) = run.bought()
        assert again.music_task_id == first.music_task_id
        assert again.is_collected
        assert bookings(world, "a harp at a terminal") == [1]


# -- lists that change ---------------------------------------------------------------------------------------


@together
def test_moved_rows_collect(world: World, folder: Path) -> None:
    """Rows inserted in front and within, removed and reversed: each body is bought once, and keeps its id."""
    run = Rows(world, rows=["alpha", "beta"])
    run.bought()
    for rows, discards in (
        (("x-ray", "alpha", "beta"), True),
        (("x-ray", "mike", "beta"), False),
        (("beta", "alpha", "mike", "x-ray"), True),
    ):
        run.order(*rows)
        if discards:
            run.discard_task_state()
        before = {row for row in rows if bookings(world, row) == [1]}
        run.clear("rows", downstream=True)

        bought = run.bought()
        assert bookings(world, *rows) == [1] * len(rows)
        assert [one.music_task_id for one in bought] == [id_of(world, row) for row in rows]
        assert {row for row, one in zip(rows, bought, strict=True) if one.is_collected} == before


@together
def test_same_prompt_twice_is_two_songs(world: World, folder: Path) -> None:
    """``[A, A]`` is two purchases, and says so; cleared, shortened, made longer again, it is no more."""
    run = Rows(world, rows=["twin", "twin"])
    first = run.bought()
    both = {one.music_task_id for one in first}
    assert len(both) == 2
    assert sum(SAME_ORDER in one.log for one in first) == 1

    run.discard_task_state()
    run.clear()
    again = run.bought()
    assert {one.music_task_id for one in again} == both
    assert all(one.is_collected for one in again)

    for rows in (["twin"], ["twin", "twin"]):
        run.order(*rows)
        run.discard_task_state()
        run.clear("rows", downstream=True)
        found = run.bought()
        assert len({one.music_task_id for one in found} & both) == len(found) == len(rows)
        assert all(one.is_collected for one in found)
    assert bookings(world, "twin") == [2]


@together
def test_same_song_in_several_tasks(world: World, folder: Path) -> None:
    """Three tasks with one body are three purchases, also after a clear; their own inlets are kept."""
    run = Rows(world, "e2e_same_song", ["a song for three"])
    tasks = ("first", "second", "third")
    bought = [run.bought(task)[0].music_task_id for task in tasks]
    assert len(set(bought)) == 3

    run.discard_task_state()
    run.clear_all()

    again = [run.bought(task)[0] for task in tasks]
    assert [one.music_task_id for one in again] == bought
    assert all(one.is_collected for one in again)
    assert bookings(world, "a song for three") == [3]
    assert world.api.consumers("e2e_inlet") == {("e2e_same_song", "second"), ("e2e_same_song", "third")}
    assert {("e2e_same_song", task) for task in tasks} <= world.api.consumers("musicapi_purchases")


# -- other runs ----------------------------------------------------------------------------------------------


@together
def test_another_run_buys_anew(world: World, folder: Path) -> None:
    """Without a folder a purchase belongs to its dag run."""
    runs = [Rows(world, rows=["a song each run"]) for _ in range(2)]

    assert len({run.bought()[0].music_task_id for run in runs}) == 2
    assert bookings(world, "a song each run") == [2]


@together
def test_another_run_collects_from_the_folder(world: World, folder: Path) -> None:
    """A later run collects what is on record in ``records``, by prompt id or else by body."""
    collects_in_folder(world, folder, "e2e_rows_in_folder")


@together
def test_another_run_collects_from_the_configured_folder(world: World, folder: Path) -> None:
    """So it does with the folder of ``[musicapi] records``."""
    collects_in_folder(world, folder, "e2e_rows_in_configured_folder")


def collects_in_folder(world: World, folder: Path, dag_id: str) -> None:
    """Run the DAG twice at one folder."""
    prompts = [f"{dag_id} {word}" for word in ("plain", "named")]
    rows = [prompts[0], {"gpt_description_prompt": prompts[1], "prompt_id": "song-1"}]
    first = Rows(world, dag_id, rows, records=f"file://{folder}").bought()

    again = Rows(world, dag_id, rows, records=f"file://{folder}").bought()

    assert [one.music_task_id for one in first + again] == [id_of(world, prompt) for prompt in prompts] * 2
    assert all(one.is_collected for one in again)
    assert not any(one.is_collected for one in first)


@together
def test_run_that_was_deleted_and_triggered_again_collects(world: World, folder: Path) -> None:
    """The same run id is the same run, whatever Airflow has forgotten; a line in the log says so."""
    run = Rows(world, rows=["a deleted harp"], run_id="again")
    (first,) = run.bought()
    run.delete()

    (again,) = Rows(world, rows=["a deleted harp"], run_id="again").bought()

    assert again.music_task_id == first.music_task_id
    assert again.is_collected
    assert bookings(world, "a deleted harp") == [1]


@together
def test_two_dags_at_one_folder_at_once(world: World, folder: Path) -> None:
    """Mapped tasks of two DAGs, and of two runs of one, want the same rows at once: each is bought once."""
    prompts = [f"a shared song {number}" for number in range(SHARED)]
    rows = [{"gpt_description_prompt": prompt, "prompt_id": prompt} for prompt in prompts]
    runs = [
        Rows(world, dag_id, rows, records=f"file://{folder}")
        for dag_id in ("e2e_rows_in_folder", "e2e_rows_in_same_folder")
    ]

    ids = [[one.music_task_id for one in run.bought()] for run in runs]

    assert bookings(world, *prompts) == [1] * SHARED
    assert ids == [[id_of(world, prompt) for prompt in prompts]] * len(runs)
    assert not list(folder.rglob("*.claim*"))


@together
def test_two_runs_and_two_dags_at_one_table_at_once(world: World, folder: Path) -> None:
    """Three runs of two DAGs work off the same table into one destination: no row is bought twice."""
    prompts = [f"a song of a table {number}" for number in range(10)]
    table = folder / "songs.csv"
    lines = [f"row-{number},{prompt}" for number, prompt in enumerate(prompts)]
    table.write_text("\n".join(["prompt_id,gpt_description_prompt", *lines]))
    where = {"prompt_table": str(table), "destination": f"file://{folder}"}
    runs = [Rows(world, f"e2e_shared_table_{number}", **where) for number in (1, 1, 2)]

    for run in runs:
        assert run.until_over() == "success", [run.log(ti) for ti in run.instances("make_songs")]

    assert bookings(world, *prompts) == [1] * len(prompts)
    files = [json.loads(path.read_text()) for path in (folder / "purchases").glob("*.json")]
    on_record = [next(iter(file["musicapi_submissions"].values()))["music_task_id"] for file in files]
    assert Counter(on_record) == Counter(id_of(world, prompt) for prompt in prompts)


@together
def test_nothing_is_sent_while_the_folder_is_unreachable(world: World, folder: Path) -> None:
    """Without a ledger nothing is bought, and the error names the place."""
    run = Rows(world, "e2e_rows_in_folder", ["a song from nowhere"], records="file:///proc/nope")

    assert run.until_over() == "failed"

    (instance,) = run.instances()
    assert bookings(world, "a song from nowhere") == [0]
    assert "/proc/nope" in (log := run.log(instance))
    assert "sent nothing" in log or "Nothing was sent" in log or "nothing was sent" in log


# -- version 0.1 ---------------------------------------------------------------------------------------------


@together
def test_ledger_of_version_0_1_in_a_folder_is_read(world: World, folder: Path) -> None:
    """What version 0.1 has on record in a folder is collected, by single creates and by tables."""
    prompts = {"": "an old song", "song-1": "an old named song"}
    ids = [write_old_ledger(world, folder, *row) for row in prompts.items()]
    rows = [
        "an old song",
        {"gpt_description_prompt": "an old named song", "prompt_id": "song-1"},
    ]
    table = folder / "songs.csv"
    table.write_text("prompt_id,gpt_description_prompt\nsong-1,an old named song\n")
    where = {"prompt_table": str(table), "destination": f"file://{folder}"}

    bought = Rows(world, "e2e_rows_in_folder", rows, records=f"file://{folder}").bought()
    assert [one.music_task_id for one in bought] == ids
    assert all(one.is_collected for one in bought)
    of_table = Rows(world, "e2e_shared_table_1", **where)
    assert of_table.until_over() == "success"
    (instance,) = of_table.instances("make_songs")
    summary = world.api.xcom(of_table.dag_id, of_table.run_id, "make_songs")
    assert summary["stored"] == 1, of_table.log(instance)
    assert bookings(world, *prompts.values()) == [1, 1]


def write_old_ledger(world: World, folder: Path, prompt_id: str, prompt: str) -> str:
    """Buy a song, and put it on record as version 0.1 did; return its id."""
    body = {
        **{"task_type": "create_music", "mv": "sonic-v5", "custom_mode": False},
        "gpt_description_prompt": prompt,
    }
    job = world.simulator.state.book(body)
    assert job is not None
    account = f"musicapi_default@{world.simulator.base_url}"
    fingerprint = _digest([account, body], sort_keys=True, allow_nan=False)
    record = {
        **{"at": "2026-11-01T12:00:00+00:00", "generation": "manual__2026-11-01#0"},
        **{"music_task_id": job.task_id, "earlier": [], "lost_at": [], "balance": 90.0, "credits": 15.0},
        **{"spent": 0.0, "lost": 0.0, "bought_in": "manual__2026-11-01#0", "token": None, "told": False},
    }
    name = f"{prompt_id or 'row'}-{_digest([prompt_id, fingerprint])}.json"
    path = folder / "purchases" / name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps({"musicapi_submissions": {fingerprint: record}}))
    return job.task_id


def _digest(value: object, **options: Any) -> str:
    return hashlib.sha256(json.dumps(value, **options).encode()).hexdigest()[:32]


@together
def test_ledger_of_version_0_1_in_the_task_state_is_read(world: World, folder: Path) -> None:
    """What version 0.1 has on record for a task, in its state alone, is collected after a clear."""
    run = Rows(world, rows=["an old harp", "an old flute"])
    first = run.bought()
    run.forget_assets()
    run.rewrite_task_state(without=NEW_FIELDS)
    run.clear()

    again = run.bought()
    assert [one.music_task_id for one in again] == [one.music_task_id for one in first]
    assert all(one.is_collected for one in again)
    assert bookings(world, "an old harp", "an old flute") == [1, 1]
