"""
What harness, gate and task processes must agree on. Light: every task process imports it with the DAG.
"""

from __future__ import annotations

#: The ways of buying, each with its DAG.
DAG_IDS = {"ours": "torture_ours", "sdk": "torture_sdk", "http": "torture_http"}
TASK_ID = "buy"
KEY = "simulator-key"
#: Seconds for one request, in each way.
REQUEST_TIMEOUT = 3.0
#: Path at the gate where task processes report.
BEGAN = "/torture/began"

#: Environment of the task processes: where to report; the API's base URL for the SDK, which knows no Airflow
#: connections; the ways to buy; how many purchases each; every which one waits for its tracks (0: none); a
#: file with the names of our purchases in the order of their rows.
GATE, BASE_URL = "TORTURE_GATE", "TORTURE_BASE_URL"
WAYS, PURCHASES, WAITING = "TORTURE_WAYS", "TORTURE_PURCHASES", "TORTURE_WAITING"
ORDER = "TORTURE_ORDER"
#: The connections that the ways use, as Airflow reads them from the environment.
CONNECTIONS = ("AIRFLOW_CONN_MUSICAPI_DEFAULT", "AIRFLOW_CONN_TORTURE_HTTP")


def purchase_name(index: int) -> str:
    """Return the name of the purchase with this map index: the same in each way, so that fates are."""
    return f"purchase-{index:04d}"


def prompt_of(way: str, purchase: str) -> str:
    """Return the prompt that a way buys: distinct for each purchase, and it names both."""
    return f"{way} {purchase} la la"


def named_in(prompt: str) -> tuple[str, str]:
    """Return the way and the purchase that a prompt names."""
    way, purchase, *_ = prompt.split()
    return way, purchase
