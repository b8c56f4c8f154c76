"""Wait for music tasks: one, or thousands with one poller. No Airflow."""
