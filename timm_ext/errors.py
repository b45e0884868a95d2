"""What can be wrong with a dataset name or an option, besides the core's own errors."""

from __future__ import annotations

from dr_plugins.errors import ReinforcementError

__all__ = [
    "DatasetNameError",
    "ImagesNotFoundError",
    "ShardsNotFoundError",
    "UnsupportedOptionError",
]


class DatasetNameError(ReinforcementError):
    """A dataset name, or an option that rides in it, is not understood."""


class ImagesNotFoundError(ReinforcementError):
    """The images of a dataset are not where timm or torchvision looks for them."""


class ShardsNotFoundError(ReinforcementError):
    """There is no shard set in any of the places where one may be."""


class UnsupportedOptionError(ReinforcementError):
    """An option of timm that cannot be combined with a reinforced dataset."""
