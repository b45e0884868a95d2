"""Errors in configs."""

from __future__ import annotations

from dr_plugins.errors import ReinforcementError


class ConfigError(ReinforcementError):
    """Invalid or contradictory settings in a config; the message names the key."""
