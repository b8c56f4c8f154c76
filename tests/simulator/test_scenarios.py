"""Every scenario of the catalogue does what it says, however it is chosen."""

from __future__ import annotations

import email.utils
import time

import pytest
import requests

from include.musicapi_simulator.scenario import Stage
from include.musicapi_simulator.scenarios import CATALOGUE

DROPPED = requests.ConnectionError
COST = 15


def _status(answer):
    return answer.status_code


def _text(answer):
    return answer.text


# What each scenario makes of one create, one read or one download: a status, an exception, or a check.
AT_CREATE = {
    "invalid": (400, False, "mv"),
    "no-credits": (403, False, "remaining credits"),
    "no-credits-402": (402, False, "credits"),
    "no-subscription": (403, False, "active subscription"),
    "moderated": (403, False, "copyrighted"),
    "unauthorized": (401, False, "key"),
    "retired": (410, False, "no longer"),
    "throttled": (429, False, ""),
    "throttled-date": (429, False, ""),
    "throttled-bare": (429, False, ""),
    "create-500": (500, False, ""),
    "drop-before-booking": (DROPPED, False, ""),
    "create-502-after-booking": (502, True, ""),
    "drop-after-booking": (DROPPED, True, ""),
    "slow-create": (200, True, "task_id"),
    "truncated-create": (200, True, '{"message"'),
    "html-create": (200, True, "<!doctype html>"),
    "no-task-id": (200, True, "success"),
    "nested-task-id": (200, True, '"data":{"task_id"'),
    "create-code-200": (200, True, '"code":200'),
}
OF_THE_JOB = {
    "not-found-at-first": (404, "not_found"),
    "running": (200, '"running"'),
    "not-ready-200": (200, "not_ready"),
    "code-102": (200, '"code":102'),
    "empty-data": (200, '"data":[]'),
    "streaming-state": (200, '"streaming"'),
    "unknown-state": (200, '"polishing"'),
    "partial": (200, '"error_message"'),
    "all-failed": (200, '"error_message"'),
    "failed": (200, '"type":"failed"'),
    "timeout": (200, '"type":"timeout"'),
    "api-error": (200, '"type":"api_error"'),
    "forbidden": (200, '"type":"forbidden"'),
    "gateway-timeout-refunded": (504, "refunded"),
    "unknown-type": (200, '"type":"weird"'),
    "no-audio-url": (200, '"audio_url":null'),
    "numeric-duration": (200, '"duration":'),
    "one-clip": (200, '"succeeded"'),
    "extended-pairs": (200, '"extended"'),
}
AT_READ = {
    "unknown-404": (404, "not found"),
    "unknown-400": (400, "not found"),
    "read-500": (500, ""),
    "read-502": (502, "<html>"),
    "read-504": (504, "Gateway Timeout"),
    "read-429": (429, ""),
    "read-429-date": (429, ""),
    "read-truncated": (200, '{"'),
    "read-html": (200, "<!doctype html>"),
    "read-drop": (DROPPED, ""),
    "read-slow": (200, "succeeded"),
    "read-unauthorized": (401, ""),
}
AT_DOWNLOAD = {
    "media-404": 404,
    "media-html": 200,
    "media-truncated": requests.exceptions.ChunkedEncodingError,
    "media-empty": 200,
    "media-drop-once": DROPPED,
    "media-redirect": 302,
    "media-redirect-private": 302,
    "media-redirect-scheme": 302,
    "media-preview": 200,
    "media-expired": 403,
    "media-image": 200,
    "media-no-range": 200,
}
REFUNDED = {"all-failed", "failed", "timeout", "api-error", "forbidden", "gateway-timeout-refunded"}


def test_every_scenario_is_tested():
    """A scenario that is added to the catalogue must be added here, or in ``test_webhooks.py``."""
    here = {name for name, scenario in CATALOGUE.items() if scenario.stage is not Stage.WEBHOOK}

    assert here == {*AT_CREATE, *OF_THE_JOB, *AT_READ, *AT_DOWNLOAD}


def test_refunding_scenarios_are_as_documented():
    """Just those scenarios refund that the sheet says are refunded."""
    assert {scenario.name for scenario in CATALOGUE.values() if scenario.refunds} == REFUNDED


def _outcome(call):
    """Return (status, text), or (exception class, '') for a call that got no answer."""
    try:
        answer = call()
    except requests.RequestException as err:
        return type(err), ""
    return answer.status_code, answer.text


@pytest.mark.parametrize("name", AT_CREATE)
def test_scenario_at_create(caller, state, name):
    """It answers as stated, and books and debits just if it says so."""
    status, booked, text = AT_CREATE[name]
    seen, body = _outcome(lambda: caller.create(prompt=f"words simulate:{name}"))

    assert status == seen
    assert text.lower() in body.lower()
    assert int(booked) == len(state.jobs) == sum(state.creates_booked.values())
    assert 1000 - COST * booked == caller.credits()
    assert int(not booked) == sum(state.creates_refused.values())


@pytest.mark.parametrize("name", OF_THE_JOB)
def test_scenario_of_a_job(caller, name):
    """The job answers as stated; failures that refund give all credits back."""
    status, text = OF_THE_JOB[name]
    task_id = caller.submit(tags=f"simulate:{name}")
    assert caller.credits() == 1000 - COST or name in REFUNDED
    seen, body = _outcome(lambda: caller.poll(task_id))

    assert status == seen
    assert text in body
    assert caller.credits() == (1000 if name in REFUNDED else 1000 - COST)


@pytest.mark.parametrize("name", [name for name in OF_THE_JOB if CATALOGUE[name].times])
def test_opening_scenario_passes(caller, name):
    """After its reads the job goes on as any other."""
    task_id = caller.submit(prompt=f"simulate:{name}")
    for _ in range(CATALOGUE[name].times):
        caller.poll(task_id)

    assert [clip["state"] for clip in caller.poll(task_id).json()["data"]] == ["succeeded"] * 2


@pytest.mark.parametrize("name", AT_READ)
def test_scenario_at_read(caller, name):
    """Reads of the job answer as stated, as often as the catalogue says, then normally."""
    status, text = AT_READ[name]
    task_id = caller.submit(title=f"simulate:{name}*1")
    seen, body = _outcome(lambda: caller.poll(task_id))

    assert status == seen
    assert text in body
    assert caller.poll(task_id).status_code == 200


@pytest.mark.parametrize("name", [name for name in AT_READ if CATALOGUE[name].stage is Stage.READ])
def test_scenario_at_read_of_credits(caller, state, name):
    """Reads of the credits misbehave in the same way when the scenario is armed."""
    state.scenario(name, times=1)
    seen, _ = _outcome(lambda: caller.call("GET", "/get-credits"))

    assert AT_READ[name][0] == seen
    assert caller.credits() == 1000


@pytest.mark.parametrize("name", AT_DOWNLOAD)
def test_scenario_at_download(caller, name):
    """The first download answers as stated."""
    clip = caller.poll(caller.submit(prompt=f"simulate:{name}")).json()["data"][0]
    seen, _ = _outcome(lambda: requests.get(clip["audio_url"], timeout=5, allow_redirects=False))

    assert AT_DOWNLOAD[name] == seen


@pytest.mark.parametrize("name", ["media-drop-once", "media-truncated"])
def test_download_works_the_second_time(caller, name):
    """A download that broke once can be repeated."""
    clip = caller.poll(caller.submit(prompt=f"simulate:{name}")).json()["data"][0]
    _outcome(lambda: requests.get(clip["audio_url"], timeout=5))

    assert requests.get(clip["audio_url"], timeout=5).headers["Content-Type"] == "audio/mp3"


def test_redirect_leads_to_the_track(caller):
    """Who follows the redirect gets the track, who gets a page or nothing can tell."""
    clips = {
        name: caller.poll(caller.submit(prompt=f"simulate:{name}")).json()["data"][0]
        for name in ("media-redirect", "media-html", "media-empty")
    }
    answers = {name: requests.get(clip["audio_url"], timeout=5) for name, clip in clips.items()}

    assert answers["media-redirect"].headers["Content-Type"] == "audio/mp3"
    assert "text/html" in answers["media-html"].headers["Content-Type"]
    assert answers["media-empty"].content == b""


@pytest.mark.parametrize(
    ("name", "begin"),
    [("media-redirect-private", "http://127.0.0.2:"), ("media-redirect-scheme", "ftp://127.0.0.1:")],
)
def test_redirect_elsewhere_keeps_port_path_and_signature(caller, state, name, begin):
    """Who followed would ask the same port for the same file."""
    state.media_url_seconds = 60
    url = caller.poll(caller.submit(prompt=f"simulate:{name}")).json()["data"][0]["audio_url"]
    answer = requests.get(url, timeout=5, allow_redirects=False)

    assert answer.headers["Location"] == url.replace("http://127.0.0.1:", begin) + "&redirected=1"


def test_preview_looks_like_a_track_but_is_half_and_has_no_length(caller):
    """Only its duration gives a preview away."""
    clip = caller.poll(caller.submit(prompt="simulate:media-preview*1")).json()["data"][0]
    half, whole = (requests.get(clip["audio_url"], timeout=5) for _ in range(2))

    assert whole.content[: len(whole.content) // 2] == half.content
    assert (half.headers["Content-Type"], half.headers["Transfer-Encoding"]) == ("audio/mp3", "chunked")
    assert not {"Content-Length", "Accept-Ranges", "ETag"} & set(half.headers)


def test_image_says_it_is_audio(caller):
    """Only its first bytes give the picture away."""
    clip = caller.poll(caller.submit(prompt="simulate:media-image")).json()["data"][0]
    answer = requests.get(clip["audio_url"], timeout=5)

    assert answer.headers["Content-Type"] == "audio/mp3"
    assert answer.content.startswith(b"\xff\xd8\xff")


def test_expired_lasts_until_it_is_cleared(caller, state):
    """Reading the task again does not help while the scenario is armed."""
    task_id = caller.submit()
    state.scenario("media-expired")
    answers = [
        requests.get(caller.poll(task_id).json()["data"][0]["audio_url"], timeout=5).status_code
        for _ in range(2)
    ]
    state.clear_scenarios()

    assert answers == [403, 403]
    assert requests.get(caller.poll(task_id).json()["data"][0]["audio_url"], timeout=5).status_code == 200


@pytest.mark.parametrize("name", ["throttled", "read-429"])
def test_retry_after_in_seconds(caller, state, name):
    """The header holds the seconds of the setting."""
    state.retry_after = 7
    state.scenario(name, times=1)
    answer = caller.create() if name == "throttled" else caller.call("GET", "/get-credits")

    assert answer.headers["Retry-After"] == "7"


@pytest.mark.parametrize("name", ["throttled-date", "read-429-date"])
def test_retry_after_as_date(caller, state, name):
    """The header holds an HTTP date that many seconds ahead."""
    state.retry_after = 60
    state.scenario(name, times=1)
    answer = caller.create() if name == "throttled-date" else caller.call("GET", "/get-credits")
    ahead = email.utils.parsedate_to_datetime(answer.headers["Retry-After"]).timestamp() - time.time()

    assert 50 < ahead <= 60


def test_bare_throttling_has_no_retry_after(caller, state):
    """Some 429 answers come without the header."""
    state.scenario("throttled-bare", times=1)

    assert "Retry-After" not in caller.create().headers


@pytest.mark.parametrize("name", ["slow-create", "read-slow"])
def test_slow_answer_takes_its_time(caller, state, name):
    """It waits for slow_seconds; a create is booked before that, so a client that gives up has paid."""
    state.scenario(name, times=1)
    begin = time.monotonic()
    caller.create() if name == "slow-create" else caller.credits()

    assert time.monotonic() - begin >= 0.15


@pytest.mark.parametrize("name", ["truncated-create", "read-truncated"])
def test_truncated_answer_is_complete_to_http(caller, state, name):
    """The length is as announced; only parsing reveals that half is missing."""
    state.scenario(name, times=1)
    answer = caller.create() if name == "truncated-create" else caller.call("GET", "/get-credits")

    assert len(answer.content) == int(answer.headers["Content-Length"])
    with pytest.raises(requests.JSONDecodeError):
        answer.json()


def test_numeric_duration_is_a_number(caller):
    """The normal duration is a decimal string, this one a float of the same value."""
    normal = caller.poll(caller.submit(prompt="simulate:one-clip")).json()["data"]
    numeric = caller.poll(caller.submit(prompt="simulate:numeric-duration")).json()["data"][0]["duration"]

    assert len(normal) == 1
    assert isinstance(normal[0]["duration"], str)
    assert isinstance(numeric, float)


def test_clearing_a_failure_leaves_nothing_to_refund(caller, state):
    """A job that was to fail and then succeeds costs what it costs; one that has failed stays refunded."""
    caller.submit(prompt="simulate:failed")
    state.job_rule = "seconds:0.01"
    caller.submit(prompt="simulate:failed")
    state.job_rule = "seconds:1000"
    task_id = caller.submit(prompt="simulate:failed")
    time.sleep(0.1)
    state.clear_scenarios()
    state.finish(task_id)

    assert caller.credits() == 1000 - COST


def test_refund_needs_no_poll(caller, state):
    """A job that fails by time gives its credits back although nobody reads it."""
    state.job_rule = "seconds:0.01"
    caller.submit(prompt="simulate:failed")
    time.sleep(0.1)

    assert caller.credits() == 1000


def test_transient_marker_passes_for_the_same_words(caller):
    """Submitting the same words again succeeds: one throttling, then the song."""
    answers = [caller.create(prompt="simulate:throttled").status_code for _ in range(2)]

    assert answers == [429, 200]


def test_marker_may_say_how_often(caller):
    """simulate:NAME*3 acts three times."""
    answers = [caller.create(prompt="simulate:throttled*3").status_code for _ in range(4)]

    assert answers == [429, 429, 429, 200]


def test_markers_combine(caller):
    """One prompt may ask for several scenarios at different stages."""
    body = {"prompt": "simulate:throttled simulate:partial", "tags": "simulate:media-404"}
    caller.create(**body)
    clips = caller.poll(caller.submit(**body)).json()["data"]

    assert [clip["state"] for clip in clips] == ["succeeded", "failed"]
    assert requests.get(clips[0]["audio_url"], timeout=5).status_code == 404


def test_armed_scenario_acts_so_many_times_and_only_on_a_match(caller, state):
    """Times and match limit an armed scenario."""
    state.scenario("moderated", times=2, match="boats")
    prompts = ["boats", "trains", "boats again", "more boats"]

    assert [caller.create(prompt=p, title="x").status_code for p in prompts] == [403, 200, 403, 200]


def test_armed_job_scenario_counts_jobs(caller, state):
    """For scenarios of a job, times counts jobs, each with its usual number of reads."""
    state.scenario("empty-data", times=1)
    first, second = caller.submit(), caller.submit()

    assert [] == caller.poll(first).json()["data"] == caller.poll(first).json()["data"]
    assert 2 == len(caller.poll(first).json()["data"]) == len(caller.poll(second).json()["data"])


def test_clearing_disarms_everything(caller, state):
    """After clear_scenarios jobs and requests behave."""
    task_id = caller.submit(prompt="simulate:running")
    state.scenario("read-500")
    state.clear_scenarios()

    assert caller.poll(task_id).json()["data"][0]["state"] == "succeeded"


def test_unknown_name_is_refused(state):
    """Arming a scenario that does not exist names those that do."""
    with pytest.raises(ValueError, match="partial"):
        state.scenario("partail")
