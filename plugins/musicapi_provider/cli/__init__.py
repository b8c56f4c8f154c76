"""What ``airflow musicapi ...`` does on the command line."""
