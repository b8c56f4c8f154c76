"""
Prompt tables, from rows to a report.

``text_sources`` and ``typed_sources`` read, ``rows`` checks, ``plan`` says what to do about each row, ``run``
and ``buyer`` do it for a whole table, ``manifest`` says what became of it.
"""

from musicapi_provider.prompt_table.rows import (
    PromptRow,
    parse_prompt_table,
    query_prompt_table,
    read_prompt_table,
)

__all__ = ["PromptRow", "parse_prompt_table", "query_prompt_table", "read_prompt_table"]
