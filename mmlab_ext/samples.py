"""OpenMMLab's data element for one image: label, teacher's answer, prediction."""

from __future__ import annotations

from multiprocessing.reduction import ForkingPickler
from typing import Any

import torch
from mmengine.structures import BaseDataElement

from dr_plugins import SparseTargets
from mmlab_ext.errors import ConfigError


def one_class(label: Any, place: str) -> int:
    """The class of an image, from any notation of a dataset.

    Args:
        label: A number, or a list, array or tensor with one number.
        place: Where it comes from, for the message.

    Raises:
        ConfigError: It is not a single class index.

    Example:
        >>> one_class([3], "train_dataloader.dataset")
        3
    """
    try:
        numbers = torch.as_tensor(label).reshape(-1)
    except (RuntimeError, TypeError, ValueError):  # names, None, nested lists
        numbers = torch.empty(0)
    if len(numbers) != 1 or numbers.is_floating_point():
        raise ConfigError(
            f"{place} has gt_label {label!r}; expected one class index. Images with several "
            f"classes are not supported"
        )
    return int(numbers)


class ClassificationSample(BaseDataElement):
    """Label of an image, the teacher's answer, and the model's prediction.

    Has the fields and setters of mmpretrain's ``DataSample`` that its heads use.

    Attributes:
        gt_label: int64 ``[1]``; -1 if there is none (mixed images).
        targets: `SparseTargets` of one sample; only in training on reinforced data.
        gt_score: The same, dense, float32 ``[num_classes]``; only with the dataset's `gt_score`.
        reinforced: Whether `targets` are a teacher's answer rather than the label.
        image_key: The image's path relative to the root.
        pred_score: Probabilities, float32 ``[num_classes]``.
        pred_label: int64 ``[1]``.

    Example:
        >>> sample = ClassificationSample(gt_label=torch.tensor([2]), image_key="n01/a.jpg")
        >>> sample.set_pred_score(torch.tensor([0.1, 0.2, 0.7])).gt_label
        tensor([2])
    """

    def set_pred_score(self, value: torch.Tensor) -> ClassificationSample:
        """Set ``pred_score``, and return the sample."""
        self.set_field(value, "pred_score", dtype=torch.Tensor)
        return self

    def set_pred_label(self, value: torch.Tensor) -> ClassificationSample:
        """Set ``pred_label``, and return the sample."""
        self.set_field(value, "pred_label", dtype=torch.Tensor)
        return self


def _pack(value: Any) -> Any:
    if isinstance(value, SparseTargets) and value.device.type == "cpu":
        parts = (value.ids.numpy(), value.probs.numpy(), value.labels.numpy())
        extras = {name: tensor.numpy() for name, tensor in value.extras.items()}
        return _Packed((*parts, value.num_classes, value.densify, value.temperature, extras))
    if isinstance(value, torch.Tensor) and value.device.type == "cpu" and not value.requires_grad:
        return _Packed((value.numpy(),))
    return value


class _Packed(tuple[Any, ...]):
    """Arrays that replace tensors in a pickle."""


def _unpack(value: Any) -> Any:
    if not isinstance(value, _Packed):
        return value
    if len(value) == 1:
        return torch.as_tensor(value[0])
    *arrays, num_classes, densify, temperature, extras = value
    ids, probs, labels = map(torch.as_tensor, arrays)
    extras = {name: torch.as_tensor(array) for name, array in extras.items()}
    return SparseTargets.unchecked(ids, probs, labels, num_classes, densify, temperature, extras)


def _rebuild(meta: dict[str, Any], fields: dict[str, Any]) -> ClassificationSample:
    return ClassificationSample(metainfo=meta, **{k: _unpack(v) for k, v in fields.items()})


def _reduce(sample: ClassificationSample) -> tuple[Any, ...]:
    fields = {name: _pack(value) for name, value in sample.items()}
    return _rebuild, (dict(sample.metainfo_items()), fields)


# Sending a tensor to another process costs a shared file, and each image has several tensors.
ForkingPickler.register(ClassificationSample, _reduce)
