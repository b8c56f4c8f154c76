"""A package, so that its fixtures, a whole Airflow among them, end with its last test."""
