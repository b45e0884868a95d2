"""Fashion-MNIST: what the quickstart needs lies beside this file; the rest is installed or fetched.

60,000 training and 10,000 test images, 28x28, grey, ten classes (Xiao, Rasul and Vollgraf, 2017,
arXiv 1708.07747). ``fashion_mnist.npz`` holds the first 200 training images of each class and all
test images; more come from Debian's package if it is installed, else from torchvision's download.
"""

from __future__ import annotations

import gzip
import os
import shutil
import tempfile
import zlib
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from torchvision.datasets import FashionMNIST

# Made by `pack_images.py`; its licence is in `fashion_mnist.LICENSE`.
PACKED = Path(__file__).with_name("fashion_mnist.npz")
PACKED_PER_CLASS = 200
DEBIAN_PACKAGE = Path("/usr/share/datasets/fashion-mnist")

# An IDX file is a 4-byte magic number, 4 bytes for each dimension and one byte for each element.
FILES = {
    "train-images-idx3-ubyte": 16 + 60_000 * 28 * 28,
    "train-labels-idx1-ubyte": 8 + 60_000,
    "t10k-images-idx3-ubyte": 16 + 10_000 * 28 * 28,
    "t10k-labels-idx1-ubyte": 8 + 10_000,
}


class DatasetUnavailableError(RuntimeError):
    """Fashion-MNIST is neither installed nor downloadable."""


@dataclass(frozen=True)
class Images:
    """Some of the images of one split.

    Attributes:
        pixels: uint8 ``[N, 28, 28]``.
        labels: uint8 ``[N]``, 0 to 9.
        numbers: integers ``[N]``, each image's position in the original's split, ascending.
    """

    pixels: np.ndarray
    labels: np.ndarray
    numbers: np.ndarray

    def __len__(self) -> int:
        return len(self.labels)

    def first_of_each_class(self, count: int) -> Images:
        """Return the first `count` images of each class, in the order that they have here."""
        firsts = [np.flatnonzero(self.labels == label)[:count] for label in range(10)]
        chosen = np.sort(np.concatenate(firsts))
        return Images(self.pixels[chosen], self.labels[chosen], self.numbers[chosen])


def load(train_per_class: int, root: str | os.PathLike[str]) -> tuple[Images, Images]:
    """Return training and test images.

    Args:
        train_per_class: Training images of each class; the repository has `PACKED_PER_CLASS`.
        root: Directory for the original where more are asked for; see `prepare`.

    Raises:
        DatasetUnavailableError: More are asked for, and the original is not to be had.
    """
    with np.load(PACKED) as packed:
        arrays = dict(packed)
    test = Images(arrays["test_pixels"], arrays["test_labels"], np.arange(10_000))
    if train_per_class > PACKED_PER_CLASS:
        train = load_original(root, train=True)
    else:
        train = Images(arrays["train_pixels"], arrays["train_labels"], arrays["train_numbers"])
    return train.first_of_each_class(train_per_class), test


def load_original(root: str | os.PathLike[str], train: bool) -> Images:
    """Return all images of a split of the original, which `prepare` puts into `root`."""
    split = FashionMNIST(prepare(root), train=train)
    labels = split.targets.numpy().astype(np.uint8)
    return Images(split.data.numpy(), labels, np.arange(len(labels)))


def prepare(root: str | os.PathLike[str], package: str | os.PathLike[str] = DEBIAN_PACKAGE) -> Path:
    """Make sure that ``torchvision.datasets.FashionMNIST(root)`` finds its files.

    Files that are already there with the right size are kept. The others are unpacked from
    ``package``, each appearing whole or not at all, or else downloaded by torchvision.

    Args:
        root: Directory for ``FashionMNIST/raw/*-ubyte``; created if missing.
        package: Directory of the four gzipped IDX files, as Debian's ``dataset-fashion-mnist``
            installs them.

    Returns:
        ``root`` as a path.

    Raises:
        DatasetUnavailableError: The package is absent and the download failed, or one of the
            package's files is damaged.

    Example:
        >>> len(FashionMNIST(prepare("data"), train=False))  # doctest: +SKIP
        10000
    """
    root, package = Path(root), Path(package)
    raw = root / "FashionMNIST" / "raw"
    missing = [name for name in FILES if not _is_complete(raw / name)]
    if not missing:
        return root
    raw.mkdir(parents=True, exist_ok=True)
    if all((package / f"{name}.gz").is_file() for name in FILES):
        for name in missing:
            _gunzip(package / f"{name}.gz", raw / name)
    else:
        _download(root, package)
    return root


def _is_complete(path: Path) -> bool:
    return path.is_file() and path.stat().st_size == FILES[path.name]


def _gunzip(source: Path, target: Path) -> None:
    with tempfile.NamedTemporaryFile(
        dir=target.parent, prefix=f".{target.name}.", delete=False
    ) as part:
        try:
            try:
                with gzip.open(source) as packed:
                    shutil.copyfileobj(packed, part)
                part.close()
                found = f"{os.path.getsize(part.name)} bytes"
            except (EOFError, zlib.error, gzip.BadGzipFile) as error:
                found = str(error)
            if found != (expected := f"{FILES[target.name]} bytes"):
                raise DatasetUnavailableError(
                    f"{source} is damaged: unpacking it gave {found}, expected {expected}; "
                    "run `apt-get install --reinstall dataset-fashion-mnist`"
                )
            os.chmod(part.name, 0o644)
            os.replace(part.name, target)
        except BaseException:
            Path(part.name).unlink(missing_ok=True)
            raise


def _download(root: Path, package: Path) -> None:
    # A partial earlier attempt must not stand in the way of torchvision's own existence check.
    for name in FILES:
        path = root / "FashionMNIST" / "raw" / name
        if not _is_complete(path):
            path.unlink(missing_ok=True)
    try:
        FashionMNIST(root, train=True, download=True)
    except Exception as error:
        raise DatasetUnavailableError(
            f"Fashion-MNIST is not in {package}, and torchvision could not download it to {root} "
            f"({error}). For up to {10 * PACKED_PER_CLASS:,} training images the quickstart needs "
            f"neither; for more, run `apt-get install dataset-fashion-mnist` (Debian, Ubuntu), or "
            f"put the files {', '.join(FILES)} into {root / 'FashionMNIST' / 'raw'}"
        ) from error
