"""Errors in configurations."""

from __future__ import annotations

from dr_plugins.errors import ReinforcementError

__all__ = ["ConfigError"]


class ConfigError(ReinforcementError):
    """Invalid or contradictory settings; the message names the key."""
