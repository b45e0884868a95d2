"""The teachers of ImageNet+: four ResNeXt-101 that learned from a billion photographs.

timm 1.0.31 has three of them, with 8, 16 and 32 channels a group. Its old names of all four
(``ig_resnext101_32x48d``) stand for the smallest, so an ensemble by these names is four times the
same network. Importing this module registers two models with timm:

- ``resnext101_32x48d.fb_wsl_ig1b_ft_in1k``, the fourth (829 million parameters), with the weights
  that Facebook published on PyTorch's hub; their license is CC-BY-NC 4.0, like the others'.
- ``ig_resnext101_ensemble``, all four as one model, for ``--kd-model-name`` of timm's train.py.
"""

from __future__ import annotations

import math
from typing import Any

import timm
import torch
from timm.models import build_model_with_cfg, generate_default_cfgs, register_model
from timm.models.resnet import Bottleneck, ResNet
from torch import Tensor, nn

MEMBERS = tuple(f"resnext101_32x{width}d.fb_wsl_ig1b_ft_in1k" for width in (8, 16, 32, 48))

default_cfgs = generate_default_cfgs(
    {
        "resnext101_32x48d.fb_wsl_ig1b_ft_in1k": {
            "url": "https://download.pytorch.org/models/ig_resnext101_32x48-3e41cc8a.pth",
            "license": "cc-by-nc-4.0",
            "num_classes": 1000,
            "input_size": (3, 224, 224),
            "pool_size": (7, 7),
            "crop_pct": 0.875,
            "interpolation": "bilinear",
            "mean": (0.485, 0.456, 0.406),
            "std": (0.229, 0.224, 0.225),
            "first_conv": "conv1",
            "classifier": "fc",
        }
    }
)


@register_model
def resnext101_32x48d(pretrained: bool = False, **kwargs: Any) -> ResNet:
    """ResNeXt-101 with 32 groups of 48 channels."""
    layers = {"block": Bottleneck, "layers": (3, 4, 23, 3), "cardinality": 32, "base_width": 48}
    return build_model_with_cfg(ResNet, "resnext101_32x48d", pretrained, **{**layers, **kwargs})


class EnsembleLogits(nn.Module):
    """The logarithm of the members' mean probabilities, whose softmax is that mean.

    This is how apple/ml-dr combines teachers (models.py, ClassificationEnsembleNet). It holds at a
    temperature of 1 only.

    Args:
        members: Models of timm with the same classes and the same normalisation.
    """

    def __init__(self, members: list[nn.Module]) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.num_classes = members[0].num_classes
        self.pretrained_cfg = members[0].pretrained_cfg  # timm normalises for it

    def forward(self, images: Tensor) -> Tensor:
        """Map images ``[B, 3, H, W]`` to logits ``[B, C]``."""
        logs = torch.stack([member(images).float().log_softmax(dim=1) for member in self.members])
        return logs.logsumexp(dim=0) - math.log(len(self.members))


@register_model
def ig_resnext101_ensemble(
    pretrained: bool = False,
    pretrained_cfg: Any = None,
    pretrained_cfg_overlay: Any = None,
    **kwargs: Any,
) -> EnsembleLogits:
    """All four as one model."""
    return EnsembleLogits([timm.create_model(name, pretrained, **kwargs) for name in MEMBERS])
