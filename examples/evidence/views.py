"""Fashion-MNIST in memory, and the stream of augmented views that all methods draw from."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torchvision.datasets import FashionMNIST

from dr_plugins import ImageSource, Policy
from examples.quickstart.data import Images, load
from examples.quickstart.running import POLICY as CROP

# The crop of the quickstart, with more on top of it for reinforced views.
POLICIES = {
    "crop": {},
    "randaug": {
        "rand_augment": {"num_ops": 2, "magnitude": 9, "p": 1.0},
        "random_erase": {"p": 0.25},
    },
    "mixing": {
        "mixup": {"alpha": 1.0, "div_by": 2.0, "p": 0.5},
        "cutmix": {"alpha": 1.0, "p": 0.5},
    },
}


def load_policy(name: str) -> Policy:
    """Return a policy of `POLICIES`."""
    return Policy.from_config({**Policy.load(CROP).to_config(), **POLICIES[name]})


class InMemory(Sequence):
    """Decoded images, as a dataset of (PIL image, label)."""

    classes = FashionMNIST.classes

    def __init__(self, images: Images) -> None:
        self._images = [Image.fromarray(pixels).convert("RGB") for pixels in images.pixels]
        self._labels = images.labels.tolist()

    def __len__(self) -> int:
        return len(self._labels)

    def __getitem__(self, index: int) -> tuple[Image.Image, int]:
        return self._images[index], self._labels[index]


def source_of(count: int, cache: Path) -> ImageSource:
    """Return the first training images of each class.

    Args:
        count: Of all classes together, a multiple of 10.
        cache: Where the original is put, if more are asked for than the repository has.
    """
    train, _ = load(count // 10, cache / "data")
    return ImageSource(InMemory(train), keys=[f"train/{number}" for number in train.numbers])


def load_test(per_class: int = 1000) -> tuple[torch.Tensor, torch.Tensor]:
    """Return test images, uint8 ``[N, 3, 28, 28]``, and their labels."""
    test = load(1, "")[1].first_of_each_class(per_class)
    pixels = torch.from_numpy(test.pixels)[:, None].expand(-1, 3, -1, -1).contiguous()
    return pixels, torch.from_numpy(test.labels).long()


class Stream:
    """Augmented views of all images, a pure function of seed and epoch.

    Args:
        source: The images.
        seed: Of the views.
    """

    def __init__(self, source: ImageSource, seed: int) -> None:
        self._source, self._seed = source, seed
        self._policy = load_policy("crop")

    def views(self, epoch: int) -> torch.Tensor:
        """Return a view of each image, uint8 ``[N, 3, 28, 28]``."""
        rng = np.random.default_rng((self._seed, epoch))
        pictures = (self._source.load_picture(i)[0] for i in range(len(self._source)))
        return torch.stack([self.augment(picture, rng) for picture in pictures])

    def augment(self, picture: Image.Image, rng: np.random.Generator) -> torch.Tensor:
        """Return one view, uint8 ``[3, 28, 28]``."""
        return self._policy.apply(picture, self._policy.sample(rng, (28, 28)))

    def unaugmented(self) -> torch.Tensor:
        """Return the images themselves, uint8 ``[N, 3, 28, 28]``."""
        images = [np.asarray(self._source.load(i)[0]) for i in range(len(self._source))]
        return torch.from_numpy(np.stack(images)).permute(0, 3, 1, 2)

    def labels(self) -> torch.Tensor:
        """Return the label of each image, int64 ``[N]``."""
        return torch.tensor([self._source.load(i)[1] for i in range(len(self._source))])
