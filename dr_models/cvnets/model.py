"""What a published model is, and what a family of models consists of."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

from torch import nn

from dr_models.cvnets.keys import Entry, State
from dr_models.cvnets.report import ConversionReport

TAG = "dr_in1k_plus"
"""timm's tag of the models in `dr_models`, which were trained on ImageNet+."""

CLASSIFIER = "classifier.classifier_fc.weight"
LAST_CONV = "conv_1x1_exp.block.conv.weight"


@dataclass(frozen=True)
class CVNetsModel:
    """One published architecture.

    Attributes:
        name: Name in ml-dr's configuration, such as ``resnet_50``.
        family: Name of its `Family`.
        timm: Name of this network in `dr_models.networks`.
        entries: Key map from a checkpoint to that network.
        width: A key, an axis and its size, which distinguish the variants of a family.
        size: Side of the input in pixels.
        resize: CVNets resizes the shorter side to this length before it crops `size`.
        stock: Name and arguments of an equivalent unmodified timm network.
        stock_entries: Key map to that network if it differs from `entries`.
    """

    name: str
    family: str
    timm: str
    entries: Callable[[], Iterator[Entry]] = field(repr=False)
    width: tuple[str, int, int]
    size: int = 224
    resize: int = 256
    stock: tuple[str, dict[str, bool]] | None = None
    stock_entries: Callable[[], Iterator[Entry]] | None = field(default=None, repr=False)


@dataclass(frozen=True)
class Torchvision:
    """A family in torchvision, most often with a few layers replaced.

    Attributes:
        name: From a model to torchvision's name of the most similar network.
        entries: From a model to the key map to that network.
        build: From a model and the number of classes to the network.
        unchanged: Names of the models that torchvision's own network computes.
    """

    name: Callable[[CVNetsModel], str]
    entries: Callable[[CVNetsModel], Iterator[Entry]]
    build: Callable[[CVNetsModel, int], nn.Module]
    unchanged: tuple[str, ...] = ()


@dataclass(frozen=True)
class Family:
    """All models of one architecture: what `dr_models.families.NAME.family` states.

    The network itself is in ``network.py`` beside it, which needs timm.

    Attributes:
        name: The name of its folder in `dr_models.families`.
        models: The published models.
        torchvision: The family there, or the reason why there is none.
        in_detectors: Why no backbone of MMDetection or Detectron2 is equivalent, if that is known.
        settle: Where checkpoints store more than weights: from a state dict, whether to keep what
            is stored, and the report, to the state dict to convert.
    """

    name: str
    models: tuple[CVNetsModel, ...]
    torchvision: Torchvision | str
    in_detectors: str = ""
    settle: Callable[[State, bool, ConversionReport], State] | None = None
