"""What the adapters build on timm: the published networks, and any timm network as a backbone.

The networks of ml-dr's published checkpoints are registered with timm as ``cvnets_*``. They differ
from timm's of the same name, in ways that a state dict mostly does not show: importing this package
adds them to timm, for files that ``dr-plugins convert-checkpoint`` writes. The prefix says whose
variant it is and collides with none of timm's names. All 27 are registered, also those that timm
has as well, so that one rule gives the name and every ``pretrained_cfg`` states the input that the
weights were trained on: RGB from 0 to 1, without mean and standard deviation.

Example:
    >>> import timm, dr_models
    >>> model = timm.create_model("cvnets_resnet50.dr_in1k_plus")
    >>> model.pretrained_cfg["mean"], model.pretrained_cfg["std"]
    ((0.0, 0.0, 0.0), (1.0, 1.0, 1.0))
"""

try:
    import timm  # noqa: F401
except ImportError as error:
    raise ImportError(
        f"dr_models needs timm, which cannot be imported: {error}. "
        f"Install it with `pip install dr-plugins[timm]`."
    ) from error

from dr_models import networks
from dr_models.classifiers import create_classifier
from dr_models.features import FeatureBackbone

__all__ = ["FeatureBackbone", "create_classifier", "networks"]
