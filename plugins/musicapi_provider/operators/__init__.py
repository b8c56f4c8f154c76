"""Operators: buy, store, and both for whole tables."""
