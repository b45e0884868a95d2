"""Dataset Reinforcement for MMEngine, MMDetection and MMSegmentation.

One line of a config brings all of it::

    custom_imports = dict(imports=["mmlab_ext"])

Importing this package registers it in MMEngine's root registries, where every ``default_scope``
finds it:

| registry | name | what it is |
|---|---|---|
| DATASETS | `ReinforcedDataset` | images with the teacher's stored answers, to train on |
| DATASETS | `ImageFolder` | a folder for each class, to validate on |
| MODELS | `TimmClassifier`, `TimmDataPreprocessor` | any network of timm, to pretrain |
| MODELS | `KDLoss` | the loss of reinforced data |
| MODELS | `TimmFeatures` | any network of timm as a backbone |
| METRICS | `TopKAccuracy`, `ExpectedCalibrationError` | of classifiers |
| HOOKS | `ReinforcementHook` | epochs, checks and records of training on reinforced data |
| HOOKS | `ReinforcedBackboneHook` | loads a backbone, whole or not at all |

Checkpoints written as ``imagenet-plus://PATH`` are read in ``init_cfg=dict(type="Pretrained")``,
strictly; where MMEngine would only warn about what does not fit, they are refused.
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
from mmlab_ext.losses import KDLoss
from mmlab_ext.metrics import ExpectedCalibrationError, TopKAccuracy
from mmlab_ext.preprocessor import TimmDataPreprocessor
from mmlab_ext.samples import ClassificationSample
from mmlab_ext.schemes import refuse_to_load_loosely

__all__ = [
    "ClassificationSample",
    "ConfigError",
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
