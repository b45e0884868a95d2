"""Errors in dataset names and options."""

from __future__ import annotations

from dr_plugins.errors import ReinforcementError


class DatasetNameError(ReinforcementError):
    """A dataset name, or an option in it, is invalid."""


class ImagesNotFoundError(ReinforcementError):
    """timm or torchvision does not find the images of a dataset."""


class ShardsNotFoundError(ReinforcementError):
    """No shard set in any of the places searched."""


class UnsupportedOptionError(ReinforcementError):
    """An option of timm that cannot be combined with a reinforced dataset."""
