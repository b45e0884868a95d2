"""Replay: a record and its image become the view that the teacher saw."""
