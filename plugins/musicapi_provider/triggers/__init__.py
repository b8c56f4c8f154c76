"""Triggers: wait without a worker slot."""
