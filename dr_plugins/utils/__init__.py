"""Helpers for all layers."""
