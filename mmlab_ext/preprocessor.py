"""Turns a batch of uint8 images and samples into a classifier's inputs and targets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from mmengine.model import BaseDataPreprocessor
from mmengine.registry import MODELS

from dr_plugins import SparseTargets
from dr_plugins.replay.deferred import DeferredViews
from mmlab_ext.errors import ConfigError
from mmlab_ext.samples import one_class

Targets = SparseTargets | torch.Tensor | None


@MODELS.register_module()
class TimmDataPreprocessor(BaseDataPreprocessor):
    """Moves, stacks and normalises images, and builds the batch's targets.

    Takes batches of `ReinforcedDataset` and `ImageFolder`, collated by MMEngine's
    ``pseudo_collate`` or ``default_collate``. Samples are not moved to the device.

    Args:
        mean: Of red, green and blue, from 0 to 255.
        std: Of red, green and blue, in the same range, above 0.
        channels_last: Use channels-last memory format (NHWC).
        non_blocking: Copy to the device without waiting.

    Raises:
        ConfigError: `mean` or `std` is not three numbers.

    Example:
        >>> preprocessor = TimmDataPreprocessor(mean=(0, 0, 0), std=(255, 255, 255))
        >>> preprocessor({"inputs": [torch.full((3, 1, 1), 51, dtype=torch.uint8)]})["inputs"]
        tensor([[[[0.2000]],
        <BLANKLINE>
                 [[0.2000]],
        <BLANKLINE>
                 [[0.2000]]]])
    """

    mean: torch.Tensor
    std: torch.Tensor

    def __init__(
        self,
        mean: Sequence[float],
        std: Sequence[float],
        channels_last: bool = False,
        non_blocking: bool = True,
    ) -> None:
        super().__init__(non_blocking)
        if len(mean) != 3 or len(std) != 3 or min(std) <= 0:
            raise ConfigError(
                f"model.data_preprocessor has mean {list(mean)} and std {list(std)}; expected "
                f"three numbers each, for red, green and blue from 0 to 255, with std above 0"
            )
        for name, values in (("mean", mean), ("std", std)):
            tensor = torch.tensor([float(value) for value in values]).view(1, 3, 1, 1)
            self.register_buffer(name, tensor, persistent=False)
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format

    def forward(self, data: Mapping[str, Any], training: bool = False) -> dict[str, Any]:
        """Prepare a batch.

        Args:
            data: ``inputs``, uint8 ``[B, 3, H, W]`` or a list of ``[3, H, W]`` or of
                `DeferredViews`, RGB; and ``data_samples`` where there are labels.
            training: Whether to build targets.

        Returns:
            ``inputs``, float32 ``[B, 3, H, W]``; ``data_samples``; and in training ``targets``:
            `SparseTargets`, or labels int64 ``[B]``.

        Raises:
            ConfigError: Images of different sizes, or without samples in training.
        """
        inputs, samples = data["inputs"], data.get("data_samples")
        if not isinstance(inputs, torch.Tensor):
            inputs = _stack(inputs)
        inputs = inputs.to(self.device, non_blocking=self._non_blocking)
        inputs = inputs.to(self.mean.dtype, memory_format=self.memory_format)
        batch = {"inputs": (inputs - self.mean) / self.std, "data_samples": samples}
        if training:
            batch["targets"] = self._targets(samples)
        return batch

    def _targets(self, samples: Sequence[Any] | None) -> Targets:
        if not samples:
            raise ConfigError(
                "train_dataloader.dataset gives images without data_samples; use "
                "dict(type='ReinforcedDataset', ...), or a dataset whose samples have gt_label"
            )
        targets: Targets
        if "targets" in samples[0]:
            targets = SparseTargets.stack([sample.targets for sample in samples])
        elif "gt_score" in samples[0]:
            targets = torch.stack([sample.gt_score for sample in samples])
        else:
            labels = [one_class(sample.gt_label, "train_dataloader.dataset") for sample in samples]
            targets = torch.tensor(labels)
        return targets.to(self.device, non_blocking=self._non_blocking)


def _stack(images: Sequence[Any]) -> torch.Tensor | DeferredViews:
    if isinstance(images[0], DeferredViews):
        return DeferredViews.cat(images)
    sizes = {tuple(image.shape) for image in images}
    if len(sizes) != 1:
        raise ConfigError(
            f"the dataset gives images of shapes {sorted(sizes)[:4]} in one batch; expected one: "
            f"set its `size`"
        )
    return torch.stack(list(images))
