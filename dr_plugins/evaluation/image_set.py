"""A set of labelled test images, and the classes that its labels mean."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from PIL import Image

from dr_plugins.errors import ImageReadError
from dr_plugins.images.decoding import open_image

Edit = Callable[[Image.Image, str], Image.Image]
"""What is done to an image before a model's own preprocessing, given the image and its key."""


@dataclass(frozen=True)
class ImageNetClasses:
    """The classes of ImageNet, and what other sets say about them.

    Attributes:
        wnids: WordNet ids (``n01440764``) in label order.
        r: Those in ImageNet-R.
        a: Those in ImageNet-A.
        real: For each validation image, in the order of their numbers, the labels of ImageNet-ReaL
            (Beyer et al., 2020); empty for images without one.

    Example:
        >>> ImageNetClasses(["n01440764", "n01443537"], r=["n01443537"], a=[], real=[[], [1]]).r
        ['n01443537']
    """

    wnids: Sequence[str]
    r: Sequence[str]
    a: Sequence[str]
    real: Sequence[Sequence[int]]


@dataclass(frozen=True)
class ImageSet:
    """Test images with their labels.

    Attributes:
        name: Such as ``imagenet`` or ``c/fog/3``.
        root: The directory that holds the files.
        files: Relative to `root`, with ``/``; the images' keys.
        labels: Class ids ``[N]`` among `classes`, or bool ``[N, classes]`` with all right ones.
        num_classes: Of a model that can be evaluated on it.
        classes: Ids of the classes that the softmax is taken over; None for all.
        whole: The images are cropped already: a model's preprocessing resizes but does not crop.
        edit: See `Edit`.
        edit_name: What `edit` does, with its version; part of a result's identity.
        expected: Number of images in the published set; 0 if unknown.

    Example:
        >>> ImageSet("mine", Path("images"), ("a.jpg", "b.jpg"), torch.tensor([0, 1]), 2)
        ImageSet('mine', 2 images, 'images')
    """

    name: str
    root: Path
    files: tuple[str, ...]
    labels: torch.Tensor
    num_classes: int
    classes: tuple[int, ...] | None = None
    whole: bool = False
    edit: Edit | None = None
    edit_name: str = ""
    expected: int = 0

    def __len__(self) -> int:
        return len(self.files)

    def __repr__(self) -> str:
        return f"ImageSet({self.name!r}, {len(self)} images, {str(self.root)!r})"

    def load(self, index: int) -> Image.Image:
        """Read one image, edited.

        Raises:
            ImageReadError: It cannot be read or edited.
        """
        key = self.files[index]
        image = open_image(self.root / key, f"{self.root}/{key}")
        if self.edit is None:
            return image
        try:
            return self.edit(image, key)
        except (ValueError, RuntimeError, AttributeError, IndexError) as error:
            raise ImageReadError(f"{self.edit_name} of {self.root}/{key}: {error}") from error

    def digest(self) -> str:
        """SHA-256 over keys, sizes of files, labels, classes and edit: changed data is noticed.

        Raises:
            ImageReadError: A file is missing.
        """
        found = hashlib.sha256(f"{self.num_classes} {self.classes} {self.whole}".encode())
        found.update(f"{self.edit_name}\n".encode())
        for key in self.files:
            try:
                size = (self.root / key).stat().st_size
            except OSError as error:  # a link that leads nowhere
                raise ImageReadError(f"cannot read image: {error}. Restore the file") from error
            found.update(f"{key}\0{size}\n".encode("utf-8", "surrogateescape"))
        found.update(self.labels.contiguous().view(torch.uint8).numpy().data)
        return found.hexdigest()

    def key_digest(self) -> str:
        """SHA-256 over the keys: sets that are made of the same images have the same one."""
        text = "\0".join(self.files)
        return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()
