"""Whose is which purchase, where one order was placed several times: a table of stories."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import pytest

from musicapi_provider.purchases import Asked, Asker, Purchase
from musicapi_provider.purchases.twins import chosen, holders, is_free, names, rivals

#: A list of bodies, as the slots of a wave ask for them; a wave is an expansion, after a clear.
Wave = list[str]


@dataclass
class World:
    """
    A ledger of one dag run, as plain as can be: what each slot knows, by body.

    :param raises: Whether a clear raises the dag run's number; else only times tell.
    """

    raises: bool = True
    wave: int = 0
    clock: int = 0
    known: dict[str, dict[str, Purchase]] = field(default_factory=dict)
    bought: list[str] = field(default_factory=list)

    def now(self) -> str:
        """Return the next instant."""
        self.clock += 1
        return f"2026-01-01T00:00:00.{self.clock:06}+00:00"

    def clear(self) -> None:
        """Clear the run."""
        self.wave += 1
        self.since = self.now()

    since: str = ""

    def ask(self, slot: str, body: str, *, fails: bool = False) -> str:
        """Collect or buy; return the music task's id."""
        asker = Asker("run", slot, self.wave if self.raises else 0, self.since)
        purchases = self.known.setdefault(body, {})
        mine = purchases.get(slot)
        key = slot if mine and not is_free(mine, asker) else chosen(asker, purchases)
        if key is None:
            self.bought.append(f"{body}{len(self.bought)}")
            found = Purchase(self.now(), "g", None if fails else self.bought[-1], entry=self.bought[-1])
        else:
            found = purchases[key]
        asked = Asked("run", slot, asker.clear_number, self.now(), found.asked.at if found.asked else "")
        purchases[slot] = replace(found, asked=asked)
        return found.entry


def ask_all(world: World, bodies: Wave, order: list[int]) -> dict[int, str]:
    """Let all slots of an expansion ask, in an order."""
    return {index: world.ask(f"create[{index}]", bodies[index]) for index in order}


STORIES = [
    pytest.param([["A"]], 1, id="first-ask"),
    pytest.param([["A"], ["A"], ["A"]], 1, id="own"),
    pytest.param([["A", "B"], ["X", "A", "B"]], 3, id="inserted-before"),
    pytest.param([["A", "B"], ["A", "X", "B"]], 3, id="inserted-between"),
    pytest.param([["A", "B", "C"], ["C"]], 3, id="removed"),
    pytest.param([["A", "B", "C"], ["C"], ["A", "B", "C"]], 3, id="removed-and-back"),
    pytest.param([["A", "B"], ["B", "A"], ["A", "B"]], 2, id="swapped-and-back"),
    pytest.param([["A", "A"]], 2, id="twins"),
    pytest.param([["A", "A"], ["A", "A"]], 2, id="twins-cleared"),
    pytest.param([["A", "A"], ["A"], ["A", "A"]], 2, id="twin-away-and-back"),
    pytest.param([["A", "A"], ["X", "A", "A"]], 3, id="twins-moved"),
    pytest.param([["A", "B"], ["B", "A"], ["A", "A"]], 3, id="twin-of-what-moved"),
    pytest.param([["A", "B"], ["A", "A"], ["B", "A", "A"]], 3, id="twin-then-moved"),
    pytest.param([["A", "A", "B", "B"], ["B", "B", "A", "A"], ["A", "B", "A", "B"]], 4, id="shuffled"),
    pytest.param([["A"] * 4, ["A"] * 2, ["X", *["A"] * 5]], 6, id="many"),
]


@pytest.mark.parametrize("raises", [True, False], ids=["number", "times-alone"])
@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(("waves", "bought"), STORIES)
def test_no_order_is_bought_more_often_than_it_stood_in_a_list(
    waves: list[Wave], bought: int, backwards: bool, raises: bool
) -> None:
    """Whoever asks first; and each row of a list has a purchase of its own, all of its own body."""
    world = World(raises=raises)
    for bodies in waves:
        order = sorted(range(len(bodies)), reverse=backwards)
        found = ask_all(world, bodies, order)

        assert len(set(found.values())) == len(bodies)
        assert all(id_.startswith(bodies[index]) for index, id_ in found.items())
        assert ask_all(world, bodies, order[::-1]) == found, "a retry finds the same"
        world.clear()
    assert len(world.bought) == bought


def test_lost_intent_moves_too() -> None:
    """Whose answer was lost is asked about by the row that has its body now, not bought again."""
    world = World()
    lost = world.ask("create[0]", "A", fails=True)
    world.clear()
    world.ask("create[0]", "X")

    assert world.ask("create[1]", "A") == lost


def test_bought_goes_before_lost() -> None:
    """Of two that are free."""
    world = World()
    world.ask("create[0]", "A", fails=True)
    bought = world.ask("create[1]", "A")
    world.clear()

    assert world.ask("create[7]", "A") == bought


# -- single choices ------------------------------------------------------------------------------------------

ME = Asker("run", "create[1]", 3, "t5", "t2")


def bought(asked: Asked | None, music_task_id: str = "m1", entry: str = "e1", at: str = "t1") -> Purchase:
    """Return a purchase."""
    return Purchase(at, "g", music_task_id, entry=entry, asked=asked)


@pytest.mark.parametrize(
    ("asked", "free"),
    [
        pytest.param(None, True, id="version-0.1"),
        pytest.param(Asked("other", "create[0]", 3, "t9"), True, id="another-run"),
        pytest.param(Asked("run", "create[0]", 2, "t9"), True, id="before-the-clear"),
        pytest.param(Asked("run", "create[0]", 4, "t9"), True, id="asker-is-outdated"),
        pytest.param(Asked("run", "create[0]", 3, "t9"), False, id="since-the-clear"),
        pytest.param(Asked("run", "create[0]", 3, "t4"), True, id="before-the-slot-was-made"),
        pytest.param(Asked("run", "create", 3, "t4"), True, id="before-it-was-mapped"),
        pytest.param(Asked("run", "upstream[0]", 3, "t4"), False, id="another-task-had-its-turn"),
        pytest.param(Asked("run", "upstream[0]", 3, "t1"), True, id="before-the-run-started"),
    ],
)
def test_who_may_be_followed(asked: Asked | None, free: bool) -> None:
    """Whoever has asked since the last clear keeps what it has."""
    assert is_free(bought(asked), ME) is free
    assert chosen(ME, {"there": bought(asked)}) == ("there" if free else None)


def test_nothing_is_chosen_from_nothing() -> None:
    """So it is bought."""
    assert chosen(ME, {}) is None


@pytest.mark.parametrize("first", ["create[0]", "create[2]"])
def test_race_of_two_takers_has_one_winner(first: str) -> None:
    """The earlier one, for both of them."""
    second = "create[2]" if first == "create[0]" else "create[0]"
    known = {
        "create[5]": bought(Asked("run", "create[5]", 2, "t1")),
        second: bought(Asked("run", second, 3, "t7", "t1", taking=True)),
        first: bought(Asked("run", first, 3, "t6", "t1", taking=True)),
    }

    assert holders(known) == {"e1": first}
    assert rivals(first, known) == [second]
    assert chosen(replace(ME, slot=second), known) is None
    assert chosen(replace(ME, slot=first), known) == first


def test_who_has_made_sure_goes_before_who_was_earlier() -> None:
    """It could not see the other one yet."""
    known = {
        "create[0]": bought(Asked("run", "create[0]", 3, "t6", "t1", taking=True)),
        "create[2]": bought(Asked("run", "create[2]", 3, "t7", "t1")),
    }

    assert holders(known) == {"e1": "create[2]"}
    assert rivals("create[0]", known) == []


@pytest.mark.parametrize("turned", [False, True])
def test_same_instant_has_one_winner(turned: bool) -> None:
    """In whatever order they are read."""
    known = {
        slot: bought(Asked("run", slot, 3, "t6", "t1", taking=True)) for slot in ("create[0]", "create[2]")
    }

    assert holders(dict(reversed(known.items())) if turned else known) == {"e1": "create[0]"}


def test_names_for_people() -> None:
    """Whose they are, and what."""
    known = [bought(Asked("run", "create[0]")), replace(bought(Asked("run", "b")), music_task_id=None)]

    assert names(known) == ["b: unknown outcome", "create[0]: m1"]


@pytest.mark.parametrize(
    "damage",
    [
        {"taking": 1},
        {"clear_number": "1"},
        {"clear_number": True},
        {"slot": None},
        {"at": 5},
        {"at": "now"},
        {"after": "2026-01-01T00:00:00"},
        {"what": 1},
    ],
)
def test_damaged_asked_is_refused(damage: dict[str, object]) -> None:
    """Nothing is decided by it."""
    with pytest.raises(TypeError):
        Asked.from_json({"run": "r", "slot": "s", **damage})
