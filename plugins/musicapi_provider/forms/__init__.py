"""
Trigger forms for DAGs of your own: params with labels and limits, and the task that reads them.

``params=song_form(destination=...)`` and ``body=read_song_form()`` make a DAG for people who write songs;
``params=table_form(prompt_table=..., destination=...)`` one for prompt tables.
"""

from musicapi_provider.forms.song import read_song_form, song_form
from musicapi_provider.forms.table import table_arguments, table_form

__all__ = ["read_song_form", "song_form", "table_arguments", "table_form"]
