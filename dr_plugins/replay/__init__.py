"""Replay: recomputes the view that the teacher saw from a record and its image."""
