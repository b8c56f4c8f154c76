"""The judge of the torture: each way to lose money is seen, and a run that proves nothing does not pass."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.e2e.torture.judge import ANY_FROM, EVERY_KIND_FROM, GOOD, Row, Verdict, judge, objections
from tests.e2e.torture.plan import Fault
from tests.states import NOT_SUBMITTED, SUBMITTED, UNKNOWN

BOUGHT = Row("p", ("a",), "success", frozenset({"a"}), SUBMITTED)
FAILED = Row("p", (), "failed")
EVERYTHING = dict.fromkeys(Fault, 1)


@pytest.mark.parametrize(
    ("row", "verdict"),
    [
        pytest.param(BOUGHT, Verdict.COLLECTED, id="bought and collected"),
        pytest.param(replace(BOUGHT, state="failed"), Verdict.COLLECTED, id="id kept, though waiting failed"),
        pytest.param(
            Row("p", ("a",), "failed", submission=UNKNOWN),
            Verdict.UNKNOWN_BOOKED,
            id="flagged, booked",
        ),
        pytest.param(
            replace(FAILED, submission=UNKNOWN),
            Verdict.UNKNOWN_NOT_BOOKED,
            id="flagged, unbooked",
        ),
        pytest.param(
            replace(FAILED, submission=NOT_SUBMITTED),
            Verdict.NOT_BOUGHT,
            id="refused, and said so",
        ),
        pytest.param(replace(BOUGHT, booked=("a", "b")), Verdict.DUPLICATE, id="paid twice"),
        pytest.param(
            Row("p", ("a", "b"), "failed", frozenset({"a", "b"}), UNKNOWN),
            Verdict.DUPLICATE,
            id="paid twice, though flagged and both known",
        ),
        pytest.param(Row("p", ("a", "b"), "running"), Verdict.DUPLICATE, id="paid twice, still running"),
        pytest.param(
            replace(FAILED, submission=UNKNOWN, resent=True),
            Verdict.RESENT,
            id="resent, by luck unpaid",
        ),
        pytest.param(replace(BOUGHT, resent=True), Verdict.RESENT, id="resent, by luck paid once"),
        pytest.param(Row("p", ("a",), "failed"), Verdict.LOST, id="paid, not a word"),
        pytest.param(
            Row("p", ("a",), "failed", submission=NOT_SUBMITTED),
            Verdict.LOST,
            id="paid, told unpaid",
        ),
        pytest.param(
            Row("p", ("a",), "failed", submission=SUBMITTED),
            Verdict.LOST,
            id="paid, told so without the id",
        ),
        pytest.param(
            Row("p", ("a",), "success", submission=UNKNOWN),
            Verdict.LOST,
            id="a success is no flag",
        ),
        pytest.param(replace(BOUGHT, booked=()), Verdict.UNFOUNDED, id="an id from nowhere"),
        pytest.param(replace(BOUGHT, booked=("b",)), Verdict.UNFOUNDED, id="another's id"),
        pytest.param(FAILED, Verdict.SILENT, id="unbought, not a word"),
        pytest.param(replace(FAILED, state="success"), Verdict.SILENT, id="success without a song"),
        pytest.param(replace(BOUGHT, state="deferred"), Verdict.UNFINISHED, id="still waiting"),
        pytest.param(Row("p", (), None), Verdict.UNFINISHED, id="never begun"),
    ],
)
def test_judge(row, verdict):
    """Each row gets the verdict that a bookkeeper would give."""
    assert judge(row) is verdict


def test_lost_counts_ids_that_airflow_does_not_have():
    """Of two booked songs one collected id leaves one lost."""
    assert [row.lost for row in (BOUGHT, replace(BOUGHT, booked=("a", "b")), FAILED)] == [0, 1, 0]


def test_every_bad_verdict_is_an_objection():
    """One bad row among many good ones fails the run and is named."""
    rows = [BOUGHT] * 100
    bad = {
        Verdict.DUPLICATE: replace(BOUGHT, booked=("a", "b")),
        Verdict.RESENT: replace(BOUGHT, resent=True),
        Verdict.LOST: Row("p", ("a",), "failed"),
        Verdict.UNFOUNDED: replace(BOUGHT, booked=()),
        Verdict.SILENT: FAILED,
        Verdict.UNFINISHED: Row("p", (), None),
    }

    assert set(bad) == set(Verdict) - GOOD
    assert objections(rows, EVERYTHING, set(Fault), 1, 3) == []
    for verdict, row in bad.items():
        assert objections([*rows, row], EVERYTHING, set(Fault), 1, 3) == [f"{verdict}: 1"]


def test_run_without_trouble_proves_nothing():
    """No kill, no fault, no dead triggerer: a perfect run fails, unless it is a small trial."""
    rows = [BOUGHT] * ANY_FROM

    assert len(objections(rows, {}, set(), 0, 3)) == 3
    assert len(objections(rows, {Fault.KILL_ANYTIME: 1}, set(), 1, 3)) == 1
    assert len(objections(rows, {Fault.KILL_ANYTIME: 1, Fault.CLEARED: 9}, set(), 1, 3)) == 1
    assert len(objections(rows, {Fault.THROTTLED: 1}, set(), 1, 3)) == 1
    assert objections(rows, {Fault.KILL_ANYTIME: 1, Fault.SLOW: 1}, set(Fault), 0, 0) == []
    assert objections(rows[1:], {}, set(Fault), 0, 3) == []


def test_large_run_must_meet_every_planned_fault():
    """A kind of fault that was planned and never took place fails the run by name."""
    struck = {fault: 1 for fault in Fault if fault is not Fault.SLOW}
    said = objections([BOUGHT] * EVERY_KIND_FROM, struck, set(Fault), 1, 3)

    assert len(said) == 1
    assert str(Fault.SLOW) in said[0]
    assert objections([BOUGHT] * EVERY_KIND_FROM, struck, set(Fault) - {Fault.SLOW}, 1, 3) == []
