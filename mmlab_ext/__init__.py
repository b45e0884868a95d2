"""Dataset Reinforcement for MMEngine, MMDetection and MMSegmentation.

Add one line to a config::

    custom_imports = dict(imports=["mmlab_ext"])

The import registers in MMEngine's root registries, which every ``default_scope`` falls back to:

| registry | name | purpose |
|---|---|---|
| DATASETS | `ReinforcedDataset` | training images with the teacher's stored answers |
| DATASETS | `ImageFolder` | validation images, one folder per class |
| MODELS | `TimmClassifier`, `TimmDataPreprocessor` | pretraining any timm network |
| MODELS | `KDLoss`, `DistillationLoss` | loss for reinforced data: KL, or any other |
| MODELS | `TimmFeatures` | any timm network as a backbone |
| METRICS | `TopKAccuracy`, `ExpectedCalibrationError`, `CalibrationMetrics` | for classifiers |
| HOOKS | `ReinforcementHook` | sets the epoch, checks the config and logs, for reinforced data |
| HOOKS | `ReinforcedBackboneHook` | loads a whole backbone, or raises |

``init_cfg=dict(type="Pretrained")`` loads ``imagenet-plus://PATH`` checkpoints strictly. Where
MMEngine would only warn about a mismatch, they are refused.
"""

from __future__ import annotations

try:
    import mmengine  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"mmlab_ext needs MMEngine, which cannot be imported: {error}. "
        f"Install it with `pip install dr-plugins[mmlab]`."
    ) from error

from dr_plugins.utils.advice import add_advice
from mmlab_ext.classifier import TimmClassifier
from mmlab_ext.datasets import ImageFolder, ReinforcedDataset
from mmlab_ext.errors import ConfigError
from mmlab_ext.features import TimmFeatures
from mmlab_ext.hooks import ReinforcedBackboneHook, ReinforcementHook
from mmlab_ext.initializer import Pretrained
from mmlab_ext.loading import load_into
from mmlab_ext.losses import DistillationLoss, KDLoss
from mmlab_ext.metrics import CalibrationMetrics, ExpectedCalibrationError, TopKAccuracy
from mmlab_ext.preprocessor import TimmDataPreprocessor
from mmlab_ext.samples import ClassificationSample
from mmlab_ext.schemes import refuse_to_load_loosely

__all__ = [
    "CalibrationMetrics",
    "ClassificationSample",
    "ConfigError",
    "DistillationLoss",
    "ExpectedCalibrationError",
    "ImageFolder",
    "KDLoss",
    "Pretrained",
    "ReinforcedBackboneHook",
    "ReinforcedDataset",
    "ReinforcementHook",
    "TimmClassifier",
    "TimmDataPreprocessor",
    "TimmFeatures",
    "TopKAccuracy",
    "load_into",
    "refuse_to_load_loosely",
]

add_advice(
    "MMEngine",
    class_map="class_map=FILE of the dataset",
    num_classes="num_classes of the model or its head",
    temperature="loss=dict(type='KDLoss', temperature=...) of the model",
)
