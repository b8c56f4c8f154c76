"""
Which purchase is whose, where one order was placed more than once. Pure.

A list may hold the same prompt twice, and then two songs are wanted. Positions tell them apart only until the
list changes: a map index is a position (``airflow-notes.md``). So each purchase says who has asked for it
last, and a clear frees what nobody has asked for since.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from musicapi_provider.purchases.purchase import Asked, Asker, Purchase

_Key = TypeVar("_Key")
#: Logged where an order is placed again beside purchases of it.
SAME_ORDER = "This dag run has placed the same order before (%s) for others: this is another purchase."


def chosen(asker: Asker, purchases: Mapping[_Key, Purchase]) -> _Key | None:
    """
    Return which purchase of an order belongs to who asks; ``None``: none, so it is a new purchase.

    First the one that this slot has asked for last, then one that nobody of this dag run has asked for since
    its last clear: what is bought before what is lost.

    :param purchases: All of one order.
    """
    last = holders(purchases)
    mine = [key for key in last.values() if _asked(purchases[key]).slot == asker.slot]
    free = [key for key in last.values() if is_free(purchases[key], asker)]
    free.sort(key=lambda key: (purchases[key].is_intent, purchases[key].at, purchases[key].identity))
    return next(iter(mine + free), None)


def holders(purchases: Mapping[_Key, Purchase]) -> dict[str, _Key]:
    """
    Return who holds each purchase, by its identity.

    Several records may be one purchase, as known to several slots: who asked last holds it. Of several that
    followed the same one it is who has made sure, or else the earliest; what the others say is outdated.

    :param purchases: All of one order.
    """
    by_identity: dict[str, list[_Key]] = {}
    for key, one in purchases.items():
        by_identity.setdefault(one.identity, []).append(key)
    asked = {key: _asked(one) for key, one in purchases.items()}

    def holder(keys: list[_Key]) -> _Key:
        last = asked[max(keys, key=lambda key: asked[key].at)]
        return min(
            (key for key in keys if asked[key].after == last.after),
            # Without a time it is of version 0.1: whoever has asked since is later.
            key=lambda key: (not asked[key].at, asked[key].taking, asked[key].at, asked[key].slot),
        )

    return {identity: holder(keys) for identity, keys in by_identity.items()}


def rivals(mine: _Key, purchases: Mapping[_Key, Purchase]) -> list[_Key]:
    """Return who else is about to take over the same purchase from the same one, and has not given way."""
    asked, identity = _asked(purchases[mine]), purchases[mine].identity
    return [
        key
        for key, one in purchases.items()
        if key != mine
        and one.identity == identity
        and _asked(one).taking
        and _asked(one).after == asked.after
    ]


def is_free(purchase: Purchase, asker: Asker) -> bool:
    """
    Tell whether nobody of the asker's dag run has asked for a purchase since it was cleared.

    A clear raises the dag run's number, mostly; and it makes the slots anew. A number that is higher than the
    asker's means that the asker is outdated: whoever is, collects.
    """
    last = _asked(purchase)
    return (
        last.run != asker.run
        or last.clear_number != asker.clear_number
        or last.at < asker.started
        # Slots of other tasks may be made long after this one had its turn.
        or (last.at < asker.since and _task(last.slot) == _task(asker.slot))
    )


def _task(slot: str) -> str:
    return slot.partition("[")[0]


def names(purchases: Iterable[Purchase]) -> list[str]:
    """Return what people call these purchases: whose they are, and their ids."""
    return sorted({f"{_asked(one).slot}: {one.music_task_id or 'unknown outcome'}" for one in purchases})


def _asked(purchase: Purchase) -> Asked:
    return purchase.asked or Asked()
