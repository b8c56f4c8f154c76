"""
The table of prompts that ``musicapi_sql_tables`` reads, with samples to begin with.
"""

from __future__ import annotations

from typing import Any

from airflow.sdk import BaseHook

COLUMNS = {
    "prompt_id": "VARCHAR(100) PRIMARY KEY",
    "gpt_description_prompt": "TEXT NOT NULL",
    "make_instrumental": "BOOLEAN",
    "title": "VARCHAR(80)",
    "mv": "VARCHAR(40)",
}
SAMPLES = [
    ("harbour-dawn", "A calm sea shanty for the first boat of the day", False, "Harbour Dawn", "sonic-v5"),
    ("night-train", "A driving instrumental with brushed drums and a lonely horn", True, None, "sonic-v5"),
    ("ode-to-sql", "A cheerful song about two tables that join at last", None, None, None),
]


def create_prompts_table(sql_conn_id: str, table: str) -> None:
    """
    Make the table if it is missing.

    Only a new one gets samples: songs cost, and an empty table may be meant.

    :param table: A plain name, perhaps with its schema; the DAG's form takes nothing else.
    """
    hook: Any = BaseHook.get_hook(sql_conn_id)
    *schema, name = table.split(".")
    if hook.inspector.has_table(name, schema=schema[0] if schema else None):
        return
    hook.run(f"CREATE TABLE IF NOT EXISTS {table} ({', '.join(map(' '.join, COLUMNS.items()))})")
    hook.insert_rows(table, SAMPLES, target_fields=list(COLUMNS))
