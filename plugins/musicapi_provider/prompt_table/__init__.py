"""
Prompt tables, from rows to a report.

``text_sources`` and ``typed_sources`` read, ``reading`` checks. ``row`` is a row on its way from plan to
manifest; ``plan`` says what to do about each, within ``budget``; ``run`` and ``buyer`` do it for a whole
table; ``manifest`` says what became of it.
"""

from musicapi_provider.prompt_table.reading import (
    PromptRow,
    parse_prompt_table,
    query_prompt_table,
    read_prompt_table,
)
from musicapi_provider.prompt_table.row import Adopt, Decision, Resubmit, Row, RowState

__all__ = [
    "Adopt",
    "Decision",
    "PromptRow",
    "Resubmit",
    "Row",
    "RowState",
    "parse_prompt_table",
    "query_prompt_table",
    "read_prompt_table",
]
