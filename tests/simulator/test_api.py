"""The API as a client sees it: key, credits, job rules, shapes of answers."""

from __future__ import annotations

import uuid
from concurrent.futures import ThreadPoolExecutor
from datetime import datetime

import pytest
import requests

from tests import samples


@pytest.mark.parametrize(
    "header",
    [
        pytest.param(None, id="missing"),
        pytest.param("simulator-key", id="without-bearer"),
        pytest.param("Bearer wrong", id="wrong"),
        pytest.param("Bearer ", id="empty"),
    ],
)
@pytest.mark.parametrize("path", ["/get-credits", f"/sonic/task/{uuid.uuid4()}"])
def test_reads_without_the_right_key_are_401(caller, header, path):
    """Reads answer 401 with an error body unless the header is exactly right."""
    headers = {} if header is None else {"Authorization": header}
    answer = requests.get(caller.server.base_url + path, headers=headers, timeout=5)

    assert answer.status_code == 401
    assert answer.json()["error"]


def test_create_without_the_right_key_books_nothing(caller, state):
    """A create with a wrong key is 401 and costs nothing."""
    caller.key = "wrong"

    assert caller.create().status_code == 401
    assert (state.credits, state.jobs) == (1000, {})


def test_key_can_be_revoked_while_running(caller, state):
    """After the key changes the old one is refused."""
    task_id = caller.submit()
    state.api_key = "new"

    assert caller.poll(task_id).status_code == 401
    assert caller.server.api_key == "new"


@pytest.mark.parametrize(
    ("task_type", "cost"), [("create_music", 15), ("concat_music", 2), ("cover_music", 15), ("remaster", 15)]
)
def test_create_debits_by_task_type(caller, task_type, cost):
    """A create debits what its task type costs, at submit."""
    caller.submit(task_type=task_type, continue_clip_id=str(uuid.uuid4()))

    assert 1000 - cost == caller.credits()


def test_extra_credits_go_first_and_come_back(caller, state):
    """Extra credits are consumed first, and a refund restores both kinds."""
    state.configure(credits=20, extra_credits=10, job_rule="reads:1")
    task_id = caller.submit(prompt="simulate:failed")

    assert (state.credits, state.extra_credits) == (15, 0)
    caller.poll(task_id)
    caller.poll(task_id)
    assert (state.credits, state.extra_credits) == (20, 10)


def test_create_beyond_the_credits_is_403_about_credits(caller, state):
    """Without enough credits a create is 403, names the credits and debits nothing."""
    state.credits = 14
    answer = caller.create()

    assert answer.status_code == 403
    assert "remaining credits" in answer.json()["error"]
    assert (state.credits, state.jobs) == (14, {})


def test_job_at_once_is_done_at_the_first_read(caller):
    """Under at-once the first read has two succeeded clips."""
    answer = caller.poll(caller.submit())

    assert answer.status_code == 200
    assert [clip["state"] for clip in answer.json()["data"]] == ["succeeded", "succeeded"]


def test_job_by_reads_shows_each_shape_once(caller, state):
    """Under reads:3 the shapes are not_ready, two running, one of two, and then both."""
    state.job_rule = "reads:3"
    task_id = caller.submit()
    answers = [caller.poll(task_id) for _ in range(4)]

    assert [answer.status_code for answer in answers] == [202, 200, 200, 200]
    assert answers[0].json()["type"] == "not_ready"
    assert [[clip["state"] for clip in answer.json()["data"]] for answer in answers[1:]] == [
        ["running", "running"],
        ["succeeded", "running"],
        ["succeeded", "succeeded"],
    ]


def test_job_by_seconds_ends_by_itself(caller, state):
    """Under seconds: a job runs without being read, and lengths repeat with the seed."""
    state.job_rule = "seconds:1000"
    first = caller.submit()
    lengths = state.jobs[first].seconds
    assert caller.poll(first).status_code == 202

    state.jobs[first].started -= 10_000
    assert caller.poll(first).json()["data"][0]["state"] == "succeeded"

    caller.server.reset()
    state.job_rule = "seconds:1000"
    assert lengths == state.jobs[caller.submit()].seconds


def test_finish_ends_a_job_now(caller, state):
    """A test may end a job that would run for ever."""
    task_id = caller.submit(prompt="simulate:running")
    caller.poll(task_id)
    state.finish(task_id)

    assert caller.poll(task_id).json()["data"][0]["state"] == "succeeded"


def test_unfinished_clip_streams_and_is_not_final(caller, state):
    """A running clip has a URL that gives half a track, while its final URL is another."""
    task_id = caller.submit(prompt="simulate:running")
    clip = caller.poll(task_id).json()["data"][0]
    early = requests.get(clip["audio_url"], timeout=5)
    state.finish(task_id)
    final = requests.get(caller.poll(task_id).json()["data"][0]["audio_url"], timeout=5)

    assert "/media/stream/" in clip["audio_url"]
    assert final.content.startswith(early.content)
    assert 0 < len(early.content) < len(final.content)


def test_aliases_work(caller):
    """The /suno aliases create and read the same jobs."""
    created = caller.call(
        "POST", "/suno/create", json={"custom_mode": True, "mv": "sonic-v5", "prompt": "la"}
    )
    read = caller.call("GET", f"/suno/clip/{created.json()['task_id']}")

    assert len(read.json()["data"]) == 2


@pytest.mark.parametrize(
    ("path", "status"),
    [
        (f"/sonic/task/{uuid.uuid4()}", 404),
        ("/sonic/task/", 400),
        ("/nuro/task/x", 410),
    ],
)
def test_tasks_that_cannot_be(caller, path, status):
    """An unknown id is 404, a missing one 400, a retired family 410."""
    assert status == caller.call("GET", path).status_code


def test_clip_follows_the_submitted_body(caller):
    """Custom mode keeps title, tags, lyrics and model; created_at is UTC; ids are UUIDs."""
    first, second = caller.poll(caller.submit(style_weight=0.4)).json()["data"]

    expected = {"title": "Paper Boats", "tags": "indie folk", "mv": "sonic-v5", "style_weight": 0.4}
    assert expected == {name: first[name] for name in expected}
    assert first["lyrics"] == "[Verse]\nPaper boats along the river"
    assert datetime.fromisoformat(first["created_at"]).utcoffset().total_seconds() == 0
    assert uuid.UUID(first["clip_id"]) != uuid.UUID(second["clip_id"])


def test_description_mode_invents_what_is_missing(caller):
    """With a description only, title, tags and lyrics come from the service."""
    description = "a song about tired lighthouse keepers"
    clip = caller.poll(
        caller.submit(
            custom_mode=False, prompt=None, title=None, tags=None, gpt_description_prompt=description
        )
    ).json()["data"][0]

    assert clip["title"]
    assert clip["tags"]
    assert description in clip["lyrics"]
    assert description == clip["gpt_description_prompt"]


def test_many_creates_at_once_add_up(caller, state):
    """Parallel creates lose no job, no credit and no count."""
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda number: caller.create(prompt=f"song {number % 10}"), range(60)))

    assert [answer.status_code for answer in answers] == [200] * 60
    assert 60 == len({answer.json()["task_id"] for answer in answers}) == len(state.jobs)
    assert caller.credits() == 1000 - 60 * 15
    assert {f"song {number}": 6 for number in range(10)} == state.creates_booked
    assert state.requests["POST /sonic/create"] == 60


def test_parallel_creates_never_overdraw(caller, state):
    """Credits for five songs buy five songs, however many ask at the same time."""
    state.credits = 5 * 15 + 14
    with ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda _: caller.create().status_code, range(20)))

    assert {status: answers.count(status) for status in set(answers)} == {200: 5, 403: 15}
    assert state.credits == 14
    assert state.creates_refused == {403: 15}


def test_connections_are_counted(caller, state):
    """A session that keeps its connection opens one; calls without a session one each."""
    with requests.Session() as session:
        for _ in range(3):
            session.get(caller.server.base_url + "/get-credits", timeout=5)
    caller.credits()

    assert state.connections_opened == 2


def test_creates_faster_than_the_limit_are_throttled(caller, state):
    """With create_interval set, the second create in a row is 429 and books nothing."""
    state.create_interval = 60.0
    first, second = caller.create(), caller.create()

    assert (first.status_code, second.status_code) == (200, 429)
    assert second.headers["Retry-After"] == "1"
    assert len(state.jobs) == 1


def _shape(value: object, name: str = "") -> object:
    """Return the names and types of a JSON value; texts, ids and numbers are free."""
    if isinstance(value, dict):
        return {key: _shape(item, key) for key, item in value.items()}
    if isinstance(value, list):
        return [_shape(item) for item in value]
    optional = ("style_weight", "weirdness_constraint", "image_url", "audio_url", "lyrics")
    return "optional" if name in optional else type(value).__name__


PLAIN_SHAPES = {"not-ready-202": 0, "two-running": 1, "one-of-two": 2, "both-succeeded": 3}


@pytest.mark.parametrize("sample", [s for s in samples.TASK_ANSWERS if s.scenario], ids=lambda s: s.name)
def test_task_answer_has_the_documented_shape(caller, sample):
    """A scenario's answer has the status, the keys and the types of the documented sample."""
    task_id = caller.submit(prompt=f"simulate:{sample.scenario}")
    _assert_same_shape(sample, caller.poll(task_id))


@pytest.mark.parametrize(
    "sample", [s for s in samples.TASK_ANSWERS if s.name in PLAIN_SHAPES], ids=lambda s: s.name
)
def test_undisturbed_answer_has_the_documented_shape(caller, state, sample):
    """So have the four answers of an undisturbed job."""
    state.job_rule = "reads:3"
    task_id = caller.submit()
    answers = [caller.poll(task_id) for _ in range(4)]
    _assert_same_shape(sample, answers[PLAIN_SHAPES[sample.name]])


@pytest.mark.parametrize(
    "sample",
    [s for s in [*samples.SUBMIT_ANSWERS, *samples.ERROR_ANSWERS] if s.scenario or s.name == "submitted"],
    ids=lambda s: s.name,
)
def test_create_answer_has_the_documented_shape(caller, sample):
    """Submit answers and refusals too look like the documented ones."""
    _assert_same_shape(
        sample, caller.create(tags=f"simulate:{sample.scenario}" if sample.scenario else "folk")
    )


def test_credits_answer_has_the_documented_shape(caller):
    """The balance looks like the documented one."""
    _assert_same_shape(samples.CREDITS_ANSWERS[0], caller.call("GET", "/get-credits"))


def _assert_same_shape(sample: samples.Sample, answer: requests.Response) -> None:
    assert sample.status == answer.status_code
    if isinstance(sample.body, str):
        assert "json" not in answer.headers["Content-Type"]
    else:
        assert _shape(sample.body) == _shape(answer.json())
