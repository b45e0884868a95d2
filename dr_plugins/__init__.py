"""Reinforced datasets for any training loop: shards, replay, targets and loss.

Dataset Reinforcement (Faghri et al., ICCV 2023) stores, for every training image, many
augmentations and a strong teacher's answer to each. This package makes such shard sets, reads them,
and trains on them; adapters for timm, MMEngine and Detectron2 live in packages of their own.
"""

from dr_plugins.dataset import ReinforcedDataset
from dr_plugins.errors import ReinforcementError
from dr_plugins.loss import KDLoss
from dr_plugins.policy import Policy
from dr_plugins.shards.reader import ShardSet
from dr_plugins.sources import ImageSource
from dr_plugins.targets import SparseTargets

__all__ = [
    "ImageSource",
    "KDLoss",
    "Policy",
    "ReinforcedDataset",
    "ReinforcementError",
    "ShardSet",
    "SparseTargets",
    "__version__",
]

__version__ = "0.1.0.dev0"
