"""
Whole prompt tables through a real Airflow of their own, so that kills disturb nobody else's runs.

``dags/tables.py`` works a table off, ``shop`` is the simulator as a process, ``run`` a run of that DAG,
``accidents`` what happens to it, ``contents`` what a destination must hold in the end.

In a folder whose name comes first, so that this Airflow has ended before the one of all other tests starts.
"""
