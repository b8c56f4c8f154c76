"""
The Airflow and the simulator that all browser tests share.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from include.local.airflow_api import AirflowAPI
    from include.local.stack import Stack
    from include.musicapi_simulator import SimulatorServer

#: The key that must be seen nowhere.
API_KEY = "sk-browser-0123456789abcdef"
CONN_ID = "musicapi_default"
SINGLE, TABLE, LARGE, CHOOSE = DAGS = (
    *("musicapi_single_track", "musicapi_prompt_table"),
    *("musicapi_large_table", "musicapi_choose_take"),
)


@dataclass
class Place:
    """
    What the tests act on.

    :param api: The same Airflow, for what a test must know and a person need not see.
    :param folder: What the tests leave: pictures, and the page where a test failed.
    """

    stack: Stack
    api: AirflowAPI
    simulator: SimulatorServer
    folder: Path

    @property
    def music(self) -> str:
        """URI of the folder that the runs store tracks in."""
        return f"file://{self.stack.home}/music"
