"""What can be wrong with a config, besides the core's own errors."""

from __future__ import annotations

from dr_plugins.errors import ReinforcementError

__all__ = ["ConfigError"]


class ConfigError(ReinforcementError):
    """A config asks for what does not go together; the message names the key."""
