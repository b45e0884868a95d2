"""Errors in configurations."""

from __future__ import annotations

from dr_plugins.errors import ReinforcementError


class ConfigError(ReinforcementError):
    """Invalid or contradictory settings; the message names the key."""
