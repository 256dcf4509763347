"""Detectors for machines of a user's own: recordings to alarms."""
