"""Sensors: wait for music tasks that somebody else submitted."""
