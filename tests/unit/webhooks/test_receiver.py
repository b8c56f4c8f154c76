"""The receiver over HTTP, in Airflow's API server: what it takes, what it refuses, what it gives away."""

from __future__ import annotations

import json
import logging
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any

import pytest

from musicapi_provider.webhooks import receiver
from musicapi_provider.webhooks.addresses import PREFIX
from musicapi_provider.webhooks.signature import WINDOW, Reason
from tests.unit.webhooks.conftest import OTHER_SECRET, SECRET, Caller, Instance, until

if TYPE_CHECKING:
    from include.musicapi_simulator import SimulatorServer

Refused = Callable[[], Mapping[Reason, int]]
Tasks = Callable[[str], Instance]


@pytest.mark.parametrize("secret", [SECRET, OTHER_SECRET])
def test_callback_of_either_secret_is_taken_and_written_down(
    caller: Caller, tasks: Tasks, secret: str, refused: Refused
) -> None:
    """Before it is answered, durably: another API server, or this one after a restart, knows it."""
    create = tasks("create")
    token = create.expect()

    answer = caller.call(token, "music-1", "song.streaming", secret=secret)

    assert (answer.status, answer.json) == (200, {"status": "accepted"})
    assert create.told(token)["music_task_id"] == "music-1"
    assert create.told(token)["events"] == ["song.streaming"]
    assert refused() == {}


@pytest.mark.parametrize(
    ("changes", "status", "reason"),
    [
        ({"X_Webhook_Signature": None}, 401, Reason.NO_SIGNATURE),
        ({"X_Webhook_Signature": "sha256=" + "a" * 64}, 401, Reason.WRONG_SIGNATURE),
        ({"X_Webhook_Signature": "sha256=" + "a" * 20}, 401, Reason.WRONG_SIGNATURE),
        ({"secret": "a secret that nobody here knows"}, 401, Reason.WRONG_SIGNATURE),
        ({"tampered": b'{"event": "song.completed", "task_id": "music-2"}'}, 401, Reason.WRONG_SIGNATURE),
        ({"late": -WINDOW - 60}, 401, Reason.OLD),
        ({"late": WINDOW + 60}, 401, Reason.OLD),
        ({"raw": b"not JSON"}, 401, Reason.NOT_AN_EVENT),
        ({"raw": b" " * (receiver.MAX_BODY + 1)}, 413, Reason.TOO_LARGE),
        ({"Content_Type": "text/plain"}, 415, Reason.NOT_JSON),
        ({"Content_Type": None}, 415, Reason.NOT_JSON),
        ({"conn_id": "another"}, 404, Reason.UNKNOWN_ROUTE),
        ({"method": "GET"}, 405, None),
        ({"method": "PUT"}, 405, None),
        ({"method": "DELETE"}, 405, None),
    ],
)
def test_forgery_is_refused_counted_and_changes_nothing(
    caller: Caller,
    tasks: Tasks,
    refused: Refused,
    caplog: pytest.LogCaptureFixture,
    changes: dict[str, Any],
    status: int,
    reason: Reason | None,
) -> None:
    """Nothing learnable in the answer, nothing of the secret or the body in the log."""
    create = tasks("create")
    token = create.expect()

    with caplog.at_level(logging.DEBUG):
        answer = caller.call(token, "music-1", **changes)

    assert answer.status == status
    assert refused() == ({reason: 1} if reason else {})
    assert create.told(token) == {"expected": "now", "musicapi_conn_id": "musicapi_default"}
    given_away = answer.body.decode() + json.dumps(answer.headers)
    assert len(given_away) < 400
    for secret in (SECRET, OTHER_SECRET, "sha256", "music-1", "music-2"):
        assert secret not in given_away
        assert secret not in caplog.text


def test_size_is_not_what_the_sender_says(caller: Caller, tasks: Tasks, refused: Refused) -> None:
    """A body in chunks, without a length, is read no further than allowed."""
    import http.client

    token = tasks("create").expect()
    connection = http.client.HTTPConnection("127.0.0.1", caller.server.port, timeout=30)
    headers = {
        **{"Content-Type": "application/json", "Transfer-Encoding": "chunked"},
        **{"X-Webhook-Timestamp": str(int(time.time())), "X-Webhook-Signature": "sha256=00"},
    }
    chunks = (b"x" * 65536 for _ in range(64))
    try:
        connection.request("POST", f"{PREFIX}/musicapi_default/{token}", chunks, headers, encode_chunked=True)
    except (BrokenPipeError, ConnectionResetError):
        pass  # it has hung up in the middle: as well
    else:
        assert connection.getresponse().status == 413
    finally:
        connection.close()

    until("it is counted", lambda: refused() == {Reason.TOO_LARGE: 1})


def test_body_that_does_not_come_is_not_waited_for(
    caller: Caller, tasks: Tasks, refused: Refused, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A forger's open connection costs no thread, and not for long a place."""
    import http.client

    monkeypatch.setattr(receiver, "BODY_PATIENCE", 0.2)
    connection = http.client.HTTPConnection("127.0.0.1", caller.server.port, timeout=30)
    connection.putrequest("POST", f"{PREFIX}/musicapi_default/{tasks('create').expect()}")
    for name, value in {
        **{"Content-Type": "application/json", "Content-Length": "1000"},
        **{"X-Webhook-Timestamp": str(int(time.time())), "X-Webhook-Signature": "sha256=00"},
    }.items():
        connection.putheader(name, value)
    connection.endheaders()
    connection.send(b"{")
    status = connection.getresponse().status
    connection.close()

    assert status == 408
    assert refused() == {Reason.TOO_SLOW: 1}


def test_callback_of_another_purchase_is_refused(caller: Caller, tasks: Tasks, refused: Refused) -> None:
    """The URL is not signed: a callback that is the API's, sent to another's token, is none of its."""
    first, second = tasks("create"), tasks("wait_0")
    first.expect("music-1")
    token = second.expect("music-2")

    assert caller.call(token, "music-1").status == 401
    assert refused() == {Reason.NOT_ITS_TOKEN: 1}
    assert "music_task_id" not in second.told(token)


def test_lost_create_is_not_settled_with_what_another_bought(
    caller: Caller, tasks: Tasks, refused: Refused
) -> None:
    """As long as its id is not known, no token takes a music task that is another task's."""
    from musicapi_provider.webhooks import airflow_tables as tables
    from tests.unit.webhooks.conftest import session

    buyer, lost = tasks("wait_0"), tasks("create")
    with session() as database:
        tables.push(database, tables.Place(**buyer.place), "music_task_id", "music-1")
    token = lost.expect()

    assert caller.call(token, "music-1").status == 401
    assert refused() == {Reason.NOT_ITS_TOKEN: 1}
    assert caller.call(token, "music-2").status == 200


def test_second_id_for_a_token_is_refused(caller: Caller, tasks: Tasks, refused: Refused) -> None:
    """A purchase is one music task: what was told first stays."""
    create = tasks("create")
    token = create.expect()
    caller.call(token, "music-1", "song.streaming")

    assert caller.call(token, "music-2").status == 401
    assert refused() == {Reason.NOT_ITS_TOKEN: 1}
    assert create.told(token)["music_task_id"] == "music-1"


def test_token_belongs_to_its_connection(caller: Caller, tasks: Tasks, refused: Refused) -> None:
    """Who knows the secret of one connection settles no purchase of another."""
    create = tasks("create")
    token = create.expect(conn_id="musicapi_other")

    assert caller.call(token, "music-1").status == 401
    assert refused() == {Reason.NOT_ITS_TOKEN: 1}


@pytest.mark.parametrize("token", ["nonsense", "0" * 32 + "-" + "0" * 32, "%00", "x" * 900])
def test_unknown_token_is_acknowledged_once_the_signature_holds(
    caller: Caller, refused: Refused, token: str
) -> None:
    """The API must not deliver again what nobody here can use: a task that was deleted, another Airflow."""
    answer = caller.call(token, "music-1")

    assert (answer.status, answer.json) == (200, {"status": "unknown"})
    assert refused() == {}
    assert caller.call(token, "music-1", secret="wrong").status == 401


def test_token_of_a_try_that_is_over_still_counts(caller: Caller, tasks: Tasks) -> None:
    """A retry has another id in Airflow; the callback of the first try comes hours later."""
    from airflow.models.taskinstance import TaskInstance
    from sqlalchemy import select

    from tests.unit.webhooks.conftest import session

    create = tasks("create")
    token = create.expect()
    before = create.row().id
    with session() as database:
        database.scalar(select(TaskInstance).filter_by(**create.place)).prepare_db_for_next_try(database)
    assert create.row().id != before

    assert caller.call(token, "music-1").json == {"status": "accepted"}
    assert create.told(token)["music_task_id"] == "music-1"


def test_event_counts_once_whatever_its_id(caller: Caller, tasks: Tasks, simulator: SimulatorServer) -> None:
    """Twice with one id, and a replay with another: the id is in a header, which is not signed."""
    create = tasks("create")
    token = create.expect("music-1")

    first = caller.call(token, "music-1", "song.streaming", X_Webhook_Id="evt-same")
    again = caller.call(token, "music-1", "song.streaming", X_Webhook_Id="evt-same")
    replayed = caller.call(token, "music-1", "song.streaming", X_Webhook_Id="evt-other")

    assert [one.json["status"] for one in (first, again, replayed)] == ["accepted", "duplicate", "duplicate"]
    assert create.told(token)["events"] == ["song.streaming"]


def test_many_at_once_are_one(caller: Caller, tasks: Tasks) -> None:
    """Deliveries of one event that come together, as to several API servers: one is accepted."""
    create = tasks("create")
    token = create.expect("music-1")

    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: caller.call(token, "music-1", "song.streaming"), range(16)))

    assert [one.status for one in answers] == [200] * 16
    assert sorted(one.json["status"] for one in answers) == ["accepted", *["duplicate"] * 15]


def test_without_a_secret_there_is_no_receiver(
    caller: Caller, tasks: Tasks, simulator: SimulatorServer, connect: Callable[..., None]
) -> None:
    """Fails closed: as if nothing were there."""
    token = tasks("create").expect()
    connect(simulator.base_url, simulator.api_key)
    receiver.receivers.forget()

    assert caller.call(token, "music-1").status == 404
    assert caller.call(token, "music-1", secret="").status == 404


def test_connection_that_is_not_listed_has_no_receiver(
    caller: Caller, tasks: Tasks, simulator: SimulatorServer, connect: Callable[..., None]
) -> None:
    """Nobody makes the API server look up connections at will."""
    connect(
        simulator.base_url,
        simulator.api_key,
        conn_id="not_listed",
        webhook_base_url="http://127.0.0.1:1",
        webhook_secret=SECRET,
    )
    token = tasks("create").expect(conn_id="not_listed")

    assert caller.call(token, "music-1", conn_id="not_listed").status == 404


def test_changed_secret_is_in_force_soon(
    caller: Caller,
    tasks: Tasks,
    simulator: SimulatorServer,
    connect: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A connection is remembered for half a minute, not for ever."""
    token = tasks("create").expect()
    assert caller.call(token, "music-1", "song.streaming").status == 200
    connect(
        simulator.base_url,
        simulator.api_key,
        webhook_base_url="http://127.0.0.1:1",
        webhook_secret="another-secret-altogether",
    )
    assert caller.call(token, "music-1", "song.streaming").status == 200
    monkeypatch.setattr(receiver, "MEMORY", 0.0)

    assert caller.call(token, "music-1", "song.streaming").status == 401


def test_other_routes_are_not_there(caller: Caller) -> None:
    """One route; and no pages about it."""
    for path in ("", "/", "/docs", "/openapi.json", "/a", "/a/b/c", "/musicapi_default/"):
        assert caller.server.ask(PREFIX + path, user=None, method="POST").status in (404, 405, 307)


def test_refusals_are_told_in_few_lines(
    caller: Caller, tasks: Tasks, caplog: pytest.LogCaptureFixture
) -> None:
    """A flood of forgeries is no flood of the log; no line is lost: each tells how many since the last."""
    token = tasks("create").expect()
    for _ in range(20):
        caller.call(token, "music-1", X_Webhook_Signature=None)

    assert sum("Callbacks refused" in record.getMessage() for record in caplog.records) <= 1
