"""Reinforced datasets for any training loop: shards, replay, targets and loss.

Dataset Reinforcement (Faghri et al., ICCV 2023) stores, for every training image, many
augmentations and a strong teacher's answer to each. This package makes such shard sets, reads them,
and trains on them; adapters for timm, MMEngine and Detectron2 are separate packages.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from dr_plugins.errors import ReinforcementError

if TYPE_CHECKING:
    from dr_plugins.generation.generate import GenerationSettings, reinforce
    from dr_plugins.generation.teacher_schemes import load_teacher
    from dr_plugins.generation.teachers import Ensemble
    from dr_plugins.images.sources import ImageSource, open_source
    from dr_plugins.losses.kd_loss import KDLoss
    from dr_plugins.metrics.calibration import expected_calibration_error
    from dr_plugins.policies.policy import Policy
    from dr_plugins.policies.view_geometry import ViewGeometry
    from dr_plugins.replay.replayer import Replayer
    from dr_plugins.shards.reader import ShardSet
    from dr_plugins.targets import SparseTargets
    from dr_plugins.tools.describe import describe
    from dr_plugins.tools.extend import extend
    from dr_plugins.tools.merge import merge
    from dr_plugins.tools.split import split
    from dr_plugins.tools.subset import subset
    from dr_plugins.tools.transfer import pull, push
    from dr_plugins.tools.verify import verify
    from dr_plugins.training.dataset import ReinforcedDataset
    from dr_plugins.training.resumable import ResumableLoader

__all__ = [
    "Ensemble",
    "GenerationSettings",
    "ImageSource",
    "KDLoss",
    "Policy",
    "ReinforcedDataset",
    "ReinforcementError",
    "Replayer",
    "ResumableLoader",
    "ShardSet",
    "SparseTargets",
    "ViewGeometry",
    "__version__",
    "describe",
    "expected_calibration_error",
    "extend",
    "load_teacher",
    "merge",
    "open_source",
    "pull",
    "push",
    "reinforce",
    "split",
    "subset",
    "verify",
]

__version__ = "0.1.0.dev0"

# Imported on first use: importing PyTorch takes seconds, and a command cannot be interrupted then.
_HOMES = {
    "Ensemble": "dr_plugins.generation.teachers",
    "GenerationSettings": "dr_plugins.generation.generate",
    "ImageSource": "dr_plugins.images.sources",
    "KDLoss": "dr_plugins.losses.kd_loss",
    "Policy": "dr_plugins.policies.policy",
    "ReinforcedDataset": "dr_plugins.training.dataset",
    "Replayer": "dr_plugins.replay.replayer",
    "ResumableLoader": "dr_plugins.training.resumable",
    "ShardSet": "dr_plugins.shards.reader",
    "SparseTargets": "dr_plugins.targets",
    "ViewGeometry": "dr_plugins.policies.view_geometry",
    "describe": "dr_plugins.tools.describe",
    "expected_calibration_error": "dr_plugins.metrics.calibration",
    "extend": "dr_plugins.tools.extend",
    "load_teacher": "dr_plugins.generation.teacher_schemes",
    "merge": "dr_plugins.tools.merge",
    "open_source": "dr_plugins.images.sources",
    "pull": "dr_plugins.tools.transfer",
    "push": "dr_plugins.tools.transfer",
    "reinforce": "dr_plugins.generation.generate",
    "split": "dr_plugins.tools.split",
    "subset": "dr_plugins.tools.subset",
    "verify": "dr_plugins.tools.verify",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    globals()[name] = getattr(import_module(_HOMES[name]), name)
    return globals()[name]


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
