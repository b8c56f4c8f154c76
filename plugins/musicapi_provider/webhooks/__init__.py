"""
The API calls back when a music task is done, and the waiting task is woken.

* ``addresses``: where a callback goes: a token for each purchase, in the URL (pure)
* ``signature``: whether a callback is the API's (pure)
* ``expectation``: the worker's side: expect a callback before paying, find what it told
* ``notices``: what waiting tasks are told, the implementation of ``waiting.notices``
* ``triggers``: waits for the callback about a lost answer
* ``receiver``: the FastAPI app on the API server
* ``wake``: what a callback does: settle a purchase, poll once, end or resume who waits
* ``airflow_tables``: all that this needs of Airflow's tables, the only place that an upgrade can break
"""
