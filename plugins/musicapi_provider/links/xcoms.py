"""
The keys under which tasks leave what others look for in XCom, beside their return values.
"""

from __future__ import annotations

#: The id of the music task that a create has bought, pushed before any waiting.
MUSIC_TASK_ID = "music_task_id"
#: What is known of a purchase: ``state, music_task_id, credits, lost_credits, prompt_id, body``; pushed
#: before it is sent and after.
SUBMISSION = "submission"
#: URI of the folder that a task stores tracks in, pushed before it begins: the tracks page finds it by this.
DESTINATION = "musicapi_destination"
#: How far a prompt table is, and what it came to when too few rows succeeded: a failed task returns nothing.
SUMMARY = "summary"
