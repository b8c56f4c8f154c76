"""Helpers around the DAGs: prompt tables, the simulator, a local Airflow."""
