"""ImageNet+ for Detectron2: timm networks as backbones, checkpoints, and pretraining.

Importing this package registers its backbones and its classifier with Detectron2, adds
``imagenet-plus://`` addresses to `PathManager`, and lets `DetectionCheckpointer` load them.
LazyConfig files import it themselves; for yacs files and an unmodified ``tools/train_net.py``::

    DETECTRON2_ENV_MODULE=d2_ext python tools/train_net.py --config-file mask_rcnn.yaml
"""

from d2_ext.environment import setup_environment  # isort: skip  Detectron2's import may need it

try:
    import detectron2  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"d2_ext needs Detectron2, which cannot be imported: {error}. Install it from its "
        f"repository, https://github.com/facebookresearch/detectron2."
    ) from error

from d2_ext.backbones import (
    TimmBackbone,
    build_dr_retinanet_timm_fpn_backbone,
    build_dr_timm_backbone,
    build_dr_timm_fpn_backbone,
    build_dr_timm_simple_fpn_backbone,
)
from d2_ext.checkpoints import load_reinforced, register_checkpoints
from d2_ext.classifier import ReinforcedClassifier
from d2_ext.config import add_dr_plugins_config
from d2_ext.data import ReinforcedLoader, build_reinforced_train_loader
from d2_ext.errors import ConfigError
from d2_ext.evaluation import ClassificationEvaluator
from d2_ext.evaluation_data import build_classification_test_loader
from d2_ext.settings import use_checkpoint
from d2_ext.simple_pyramid import SimpleFeaturePyramid
from d2_ext.trainer import ReinforcedTrainer
from dr_models.checkpoints import mark_loaded
from dr_plugins.utils.advice import add_advice

__all__ = [
    "ClassificationEvaluator",
    "ConfigError",
    "ReinforcedClassifier",
    "ReinforcedLoader",
    "ReinforcedTrainer",
    "SimpleFeaturePyramid",
    "TimmBackbone",
    "add_dr_plugins_config",
    "build_classification_test_loader",
    "build_dr_retinanet_timm_fpn_backbone",
    "build_dr_timm_backbone",
    "build_dr_timm_fpn_backbone",
    "build_dr_timm_simple_fpn_backbone",
    "build_reinforced_train_loader",
    "load_reinforced",
    "mark_loaded",
    "register_checkpoints",
    "setup_environment",
    "use_checkpoint",
]

add_advice(
    "Detectron2",
    class_map="REINFORCED.CLASS_MAP, lazy: class_map",
    num_classes="MODEL.DR_TIMM.NUM_CLASSES, lazy: num_classes",
    temperature="REINFORCED.TEMPERATURE, lazy: temperature",
)

register_checkpoints()
