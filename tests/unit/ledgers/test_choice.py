"""Who asks, as a running task knows it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone
from typing import Any
from uuid import UUID

import pytest

from musicapi_provider.ledgers.choice import asker_of

MADE = datetime(2026, 1, 1, 12, 0, 0, 5000, tzinfo=UTC)


@pytest.fixture
def slot(context: dict[str, Any]) -> dict[str, Any]:
    """Return the context of a mapped task instance, made at :data:`MADE`, with two retries."""
    ti, dag_run = context["ti"], context["dag_run"]
    ti.id = UUID(int=int(MADE.timestamp() * 1000) << 80 | 7 << 76 | 2 << 62)
    ti.map_index, ti.max_tries, ti.try_number = 3, 2, 1
    dag_run.clear_number = 4
    dag_run.start_date = (MADE - timedelta(hours=1)).astimezone(timezone(timedelta(hours=2)))
    return context


def test_first_try_knows_since_when_its_slot_is(slot: dict[str, Any]) -> None:
    """Times are texts that sort."""
    asker = asker_of(slot, 2)

    assert (asker.run, asker.slot, asker.clear_number) == ("songs/manual__1", "task[3]", 4)
    assert asker.since == "2026-01-01T12:00:00.005000+00:00"
    assert asker.started == "2026-01-01T11:00:00.005000+00:00"


def test_later_try_knows_when_the_dag_run_started(slot: dict[str, Any]) -> None:
    """Its own id is newer than what the first try has asked for."""
    slot["ti"].try_number = 2
    asker = asker_of(slot, 2)

    assert asker.since == ""
    assert asker.started


def test_tries_own_a_claim_together_and_equal_dag_runs_do_not(slot: dict[str, Any]) -> None:
    """Two Airflows may run the same DAG for the same hour over one folder."""
    first = asker_of(slot, 2, with_dag=True)
    slot["ti"].try_number = 2
    retry = asker_of(slot, 2, with_dag=True)
    slot["dag_run"].start_date += timedelta(milliseconds=1)
    elsewhere = asker_of(slot, 2, with_dag=True)

    assert first.slot == "songs.task[3]"
    assert first.owner == retry.owner != elsewhere.owner
