"""Load checkpoints, and convert them from their published layout to that of another library.

Example:
    Convert, and read the input convention of the result::

        from dr_models.checkpoints import convert, read_convention

        report = convert("best.pt", "resnet50.safetensors", arch="resnet_50", to="timm")
        convention = read_convention("resnet50.safetensors")
"""

from dr_models.catalog import CVNETS_MODELS, candidates, torchvision_model
from dr_models.checkpoints.backbone import BackboneWeights, load_backbone
from dr_models.checkpoints.convention import (
    check_convention,
    read_convention,
    read_metadata,
)
from dr_models.checkpoints.convert import TARGETS, convert, convert_state_dict
from dr_models.checkpoints.load import Checkpoint, load_checkpoint
from dr_models.checkpoints.load_record import LoadRecord, mark_loaded
from dr_models.checkpoints.location import CheckpointLocation
from dr_models.cvnets.inputs import InputConvention
from dr_models.cvnets.report import ConversionReport

__all__ = [
    "CVNETS_MODELS",
    "TARGETS",
    "BackboneWeights",
    "Checkpoint",
    "CheckpointLocation",
    "ConversionReport",
    "InputConvention",
    "LoadRecord",
    "candidates",
    "check_convention",
    "convert",
    "convert_state_dict",
    "load_backbone",
    "load_checkpoint",
    "mark_loaded",
    "read_convention",
    "read_metadata",
    "torchvision_model",
]
