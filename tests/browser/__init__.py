"""
Airflow's UI, driven in a real browser; ``make e2e`` runs these tests, ``make test`` does not.

* ``chromium.py``  finds and starts the browser, keeps pictures
* ``ui.py``        what a person does in Airflow's UI, in its words
* ``place.py``     the one Airflow and simulator behind all tests
* ``songs.py``     the runs that the tests look at
"""
