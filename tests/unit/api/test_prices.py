"""What a purchase is expected to cost: an expectation that a connection may correct."""

from __future__ import annotations

from typing import Any

import pytest

from include.musicapi_simulator.settings import COSTS
from musicapi_provider.api.bodies import TASK_TYPES
from musicapi_provider.api.prices import CREDITS, UNLISTED, expected_credits


def test_every_task_type_has_a_price() -> None:
    """A new operation cannot be forgotten; the simulator, written from the same facts, agrees."""
    assert set(CREDITS) == set(TASK_TYPES)
    assert CREDITS == COSTS


@pytest.mark.parametrize(
    ("body", "prices", "expected"),
    [
        pytest.param({"task_type": "concat_music"}, {}, 2, id="by-type"),
        pytest.param({}, {}, 15, id="default-type"),
        pytest.param({"task_type": "new_music"}, {}, UNLISTED, id="unlisted"),
        pytest.param({"task_type": "create_music"}, {"create_music": 12}, 12, id="corrected"),
        pytest.param({"task_type": "remaster"}, {"create_music": 12}, 15, id="another-corrected"),
        pytest.param({"task_type": "remaster"}, {"remaster": 0}, 0, id="free"),
    ],
)
def test_price(body: dict[str, Any], prices: dict[str, float], expected: float) -> None:
    """The connection's price goes before the table's."""
    assert expected_credits(body, prices) == expected
