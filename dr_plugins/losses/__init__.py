"""Losses on sparse targets."""
