"""The SQL of the example DAGs."""
