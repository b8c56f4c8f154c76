"""The API: settings, bodies, clients, and what answers mean. No Airflow."""
