"""Pretrained backbones, fine-tuned on another real dataset: solar cells, some with defects.

ELPV (Buerhop-Lutz et al., 2018): 2,624 electroluminescence images of photovoltaic cells, each with
the experts' probability of a defect; ``pip install elpv-dataset scikit-learn`` has them all.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import timm
import torch
import torch.nn.functional as F
from torch import Tensor

from examples.evidence.training import Stepper, measure

_SIDE, _EPOCHS, _TRAINING = 112, 20, 1000


def finetune(cache: Path, weights: Path | None, seed: int, work: str) -> dict[str, float]:
    """Train all weights on 1,000 cells, and measure accuracy and ECE on the others, in percent."""
    pixels, labels = load_cells()
    train, test = torch.randperm(
        len(labels), generator=torch.Generator().manual_seed(0)
    ).tensor_split([_TRAINING])
    student = Stepper("cells", len(train), _EPOCHS, seed)
    if weights is not None:
        pretrained = timm.create_model("evidence_resnet10", checkpoint_path=str(weights))
        pretrained.reset_classifier(2)
        student.model.load_state_dict(pretrained.state_dict())
    for _ in range(_EPOCHS):
        student.learn(_flipped(pixels[train]), labels[train])
    found = measure(student.model, pixels[test], labels[test])
    return {"accuracy": 100 * found["accuracy"], "ECE": 100 * found["ece"]}


def load_cells() -> tuple[Tensor, Tensor]:
    """Return all cells, uint8 ``[N, 3, 112, 112]``, and whether the experts see a defect."""
    from elpv_dataset.utils import load_dataset

    images, probabilities, _ = load_dataset()
    grey = torch.from_numpy(images)[:, None]
    small = F.interpolate(grey, size=_SIDE, mode="bilinear", antialias=True)
    return small.expand(-1, 3, -1, -1), torch.from_numpy((probabilities > 0).astype(np.int64))


def _flipped(pixels: Tensor) -> Tensor:
    """Mirror each image in a random one of the four ways: a cell has no upper side."""
    for axis in (-1, -2):
        drawn = torch.rand(len(pixels)) < 0.5
        pixels = torch.where(drawn.view(-1, 1, 1, 1), pixels.flip(axis), pixels)
    return pixels
