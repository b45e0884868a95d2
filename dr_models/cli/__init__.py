"""Commands that need networks and checkpoints; entry points of ``dr_plugins.commands``."""

from dr_models.cli.convert import convert_checkpoint
from dr_models.cli.evaluate import evaluate

__all__ = ["convert_checkpoint", "evaluate"]
