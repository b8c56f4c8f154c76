"""All purchases on record, each once, and what people decide about lost answers among them."""

from __future__ import annotations

from dataclasses import replace

import pytest

from musicapi_provider.exceptions import MusicAPIInvalidRequestError
from musicapi_provider.purchases.purchase import Asker, Purchase
from musicapi_provider.purchases.settling import Decision, Entry, Record, Standing, entries_of, settled

FIRST, SECOND = "aaaaaaaa" + "0" * 24, "aaaabbbb" + "0" * 24
ALPHA, BETA = (Asker("dag/run", f"create[{number}]") for number in range(2))


def lost(asker: Asker | None = ALPHA, **changes: object) -> Purchase:
    """Return an intent whose answer was lost."""
    purchase = replace(Purchase.intent(None, "run#0"), credits=15.0, ordered="Rain")
    return replace(purchase, asked=asker.asks() if asker else None, **changes)  # type: ignore[arg-type]


def one(purchase: Purchase, fingerprint: str = FIRST, place: str = "create[0]") -> Entry:
    """Return the entry of a purchase that is on record once."""
    (entry,) = entries_of([Record(place, fingerprint, purchase)])
    return entry


def test_a_purchase_that_two_slots_know_is_listed_once() -> None:
    """With the slot that has followed the other one, though that one's record is still there."""
    before = lost()
    after = replace(before, asked=BETA.asks(before.asked))
    entries = entries_of([Record("create[0]", FIRST, before), Record("create[1]", FIRST, after)])

    assert [entry.record.place for entry in entries] == ["create[1]"]
    assert entries[0].places == ("create[1]", "create[0]")


def test_equal_orders_are_listed_apart() -> None:
    """Two purchases of the same body have two names, with the same beginning."""
    entries = entries_of([Record("create[0]", FIRST, lost()), Record("create[1]", FIRST, lost(BETA))])

    assert len({entry.name for entry in entries}) == 2
    assert {entry.name[:9] for entry in entries} == {"aaaaaaaa-"}


def test_a_lost_answer_is_adopted() -> None:
    """It keeps its price, its name and who has asked."""
    entry = one(lost())
    _, after = settled([entry], Decision("aaaaaaaa", adopt="music-1"))

    assert after is not None
    assert (after.music_task_id, after.credits, after.asked) == ("music-1", 15.0, entry.purchase.asked)
    assert one(after).name == entry.name
    assert one(after).standing is Standing.SUBMITTED


def test_a_lost_answer_of_version_0_1_keeps_its_name() -> None:
    """Which has neither a number nor somebody who asked."""
    entry = one(lost(None, entry=""))
    _, after = settled([entry], Decision(entry.name, adopt="music-1"))

    assert after is not None
    assert one(after).name == entry.name


def test_a_lost_answer_is_sent_again() -> None:
    """Only the decision is written; an adoption may still correct it."""
    _, after = settled([one(lost())], Decision(FIRST, resubmit=True))

    assert after is not None
    assert (after.resend, after.is_intent, one(after).standing) == (True, True, Standing.RESEND)
    _, adopted = settled([one(after)], Decision(FIRST, adopt="music-1"))
    assert adopted is not None
    assert (adopted.resend, adopted.music_task_id) == (False, "music-1")


@pytest.mark.parametrize(
    ("purchase", "decision"),
    [
        pytest.param(lost(music_task_id="music-1"), Decision(FIRST, adopt="music-1"), id="adopted"),
        pytest.param(lost(resend=True), Decision(FIRST, resubmit=True), id="to be sent again"),
    ],
)
def test_what_is_so_already_is_left_alone(purchase: Purchase, decision: Decision) -> None:
    """Nothing is written."""
    assert settled([one(purchase)], decision)[1] is None


@pytest.mark.parametrize("more", [{"adopt": "music-1", "resubmit": True}, {}], ids=["both", "neither"])
def test_a_decision_says_one_thing(more: dict[str, object]) -> None:
    """Whoever says both or nothing is asked."""
    with pytest.raises(MusicAPIInvalidRequestError, match=r"not both.*--adopt MUSIC_TASK_ID or --resubmit"):
        Decision("x", **more)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("order", "said"),
    [
        pytest.param("cccc", "no purchase on record is called so.*There are: aaaaaaaa-", id="unknown"),
        pytest.param("", "no purchase on record", id="empty"),
        pytest.param("aaaa", "names 2 purchases.*They are: .*give more of the name", id="ambiguous"),
        pytest.param("aaaabbbb", "no unknown outcome, but music task music-2", id="submitted"),
    ],
)
def test_a_name_that_names_no_lost_answer_is_refused(order: str, said: str) -> None:
    """With what there is."""
    entries = [one(lost()), one(lost(music_task_id="music-2"), SECOND)]

    with pytest.raises(MusicAPIInvalidRequestError, match=f"(?s){said}"):
        settled(entries, Decision(order, resubmit=True))


def test_nothing_on_record_is_said() -> None:
    """Rather than an empty list."""
    with pytest.raises(MusicAPIInvalidRequestError, match="Nothing is on record here"):
        settled([], Decision("x", resubmit=True))


@pytest.mark.parametrize(
    "other",
    [
        lost(music_task_id="music-2"),
        lost(music_task_id="music-3", earlier=("music-2",)),
        lost(earlier=("music-2",)),
    ],
    ids=["now", "earlier", "earlier, of a lost one"],
)
def test_a_music_task_of_another_order_is_refused(other: Purchase) -> None:
    """One music task is never two orders'."""
    with pytest.raises(MusicAPIInvalidRequestError, match="music-2 is on record as aaaabbbb"):
        settled([one(lost()), one(other, SECOND)], Decision("aaaaaaaa", adopt="music-2"))
