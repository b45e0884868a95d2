"""What can be wrong with a configuration, besides the core's own errors."""

from __future__ import annotations

from dr_plugins.errors import ReinforcementError

__all__ = ["ConfigError"]


class ConfigError(ReinforcementError):
    """A key of the configuration cannot be used as it is."""
