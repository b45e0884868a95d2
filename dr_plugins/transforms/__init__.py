"""Augmentations that separate drawing random parameters from applying them."""

from dr_plugins.transforms.base import AnyImage, CropTransform, Transform, ViewTransform
from dr_plugins.transforms.erasing import RandomErasing
from dr_plugins.transforms.geometry import (
    CenterCrop,
    RandomCrop,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
)
from dr_plugins.transforms.mixing import CutMix, Mixing, Mixup
from dr_plugins.transforms.normalize import normalize
from dr_plugins.transforms.rand_augment import RandAugment

__all__ = [
    "AnyImage",
    "CenterCrop",
    "CropTransform",
    "CutMix",
    "Mixing",
    "Mixup",
    "RandAugment",
    "RandomCrop",
    "RandomErasing",
    "RandomHorizontalFlip",
    "RandomResizedCrop",
    "Resize",
    "Transform",
    "ViewTransform",
    "normalize",
]
