"""What is bought: on record before it is sent, never bought twice in silence. No Airflow."""
