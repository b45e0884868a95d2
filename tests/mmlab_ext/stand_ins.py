"""What a test machine lacks for MMDetection and MMSegmentation: mmcv's compiled operators.

None of this is needed where the full mmcv is installed, and nothing is changed there.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

import torch
from torchvision import ops


class _Operators(types.ModuleType):
    """The three that Mask R-CNN calls; any other can be imported, and raises when called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)

        def refuse(*args: Any, **kwargs: Any) -> Any:
            raise NotImplementedError(f"{name} needs mmcv's compiled operators")

        return refuse

    @staticmethod
    def nms(boxes: Any, scores: Any, iou_threshold: float, offset: int) -> torch.Tensor:
        assert offset == 0
        return ops.nms(boxes, scores, iou_threshold)

    @staticmethod
    def roi_align_forward(features: Any, rois: Any, output: Any, *_: Any, **kwargs: Any) -> None:
        assert kwargs["pool_mode"] == 1
        output.copy_(
            torch.ops.torchvision.roi_align(
                features,
                rois,
                kwargs["spatial_scale"],
                kwargs["aligned_height"],
                kwargs["aligned_width"],
                kwargs["sampling_ratio"],
                kwargs["aligned"],
            )
        )

    @staticmethod
    def roi_align_backward(
        grad: Any, rois: Any, argmax_y: Any, argmax_x: Any, grad_input: Any, **kwargs: Any
    ) -> None:
        assert kwargs["pool_mode"] == 1
        grad_input.copy_(
            torch.ops.torchvision._roi_align_backward(
                grad,
                rois,
                kwargs["spatial_scale"],
                kwargs["aligned_height"],
                kwargs["aligned_width"],
                *grad_input.shape,
                kwargs["sampling_ratio"],
                kwargs["aligned"],
            )
        )


def is_compiled() -> bool:
    """Whether mmcv's own operators are there; found out without importing it."""
    package = importlib.machinery.PathFinder.find_spec("mmcv")
    if package is None:
        return False
    places = package.submodule_search_locations
    return importlib.machinery.PathFinder.find_spec("mmcv._ext", places) is not None


def install() -> None:
    """Put the stand-in in place, before mmcv's operators are imported."""
    if not is_compiled():
        operators = _Operators("mmcv._ext")
        operators.__spec__ = importlib.machinery.ModuleSpec("mmcv._ext", None)
        sys.modules.setdefault("mmcv._ext", operators)
