"""
A local stand-in for MusicAPI: same paths, same answers, real MP3s, no key and no credits.

Read in this order:

* ``settings.py``   what can be set, from the command line or in a test
* ``checks.py``     which create bodies are refused, and with what text
* ``jobs.py``       one music task: its clips and how it advances
* ``answers.py``    the JSON of every answer
* ``scenarios.py``  the catalogue of misbehaviour; add a line there for a new one
* ``journal.py``    the file by which jobs and credits survive a kill, if asked for
* ``state.py``      jobs, credits, counters and armed scenarios of one running simulator
* ``app.py``        the API's routes; ``media.py`` the files; ``control.py`` the controls and front page
* ``expiry.py``     media URLs that expire; ``ranges.py`` the rest of a download that broke off
* ``webhooks.py``   who gave a ``webhook_url`` is called back
* ``wire.py``       answers that break the rules of HTTP, and the connection counter
* ``melody.py``     text -> notes; ``audio.py`` notes -> MP3; ``cover.py`` text -> picture
* ``server.py``     runs it in a thread (tests) or in the foreground (``python -m``)

The simulator follows ``musicapi-facts.md`` ("facts" in comments) and knows nothing of our client, so that
the two cannot agree on a mistake.
"""

from include.musicapi_simulator.server import SimulatorServer
from include.musicapi_simulator.settings import Settings

__all__ = ["Settings", "SimulatorServer"]
