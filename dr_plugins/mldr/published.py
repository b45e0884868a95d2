"""The archives that the authors of the paper published, as the README of ml-dr lists them."""

from __future__ import annotations

from dataclasses import dataclass

from dr_plugins.mldr.errors import DownloadError

BASE_URL = "https://docs-assets.developer.apple.com/ml-research/datasets/dr/"


@dataclass(frozen=True)
class Published:
    """One published archive.

    Attributes:
        name: Short name, for `dr-plugins download`.
        file: File name below `BASE_URL`.
        gigabytes: Size as the README states it.
        samples: Reinforcements per image.
        topk: Classes stored per reinforcement; None if the README does not state it.
        policy: Preset closest to the archive's policy.
        dataset: Training set it was made from.
        note: Warning for the user, if any.
    """

    name: str
    file: str
    gigabytes: float
    samples: int
    topk: int | None
    policy: str
    dataset: str = "imagenet"
    note: str = ""

    @property
    def lengths(self) -> tuple[int, int]:
        """Minimum and maximum file size in bytes: the README rounds, and GB may mean GiB."""
        sizes = [one.gigabytes for one in PUBLISHED if one.file == self.file and not one.note]
        return round((sizes[0] - 0.05) * 1e9), round((sizes[0] + 0.05) * (1 << 30))


_LINK = (
    "the README links to the full archive (53.3 GB, 400 reinforcements), so that is what is "
    "downloaded; no file name of a smaller one is published"
)

PUBLISHED = (
    Published("rrc", "imagenet_plus_rrc.tar.gz", 33.4, 400, 10, "rrc"),
    Published("mixing", "imagenet_plus_mixing.tar.gz", 46.3, 400, 10, "mixing"),
    Published("randaug", "imagenet_plus_randaug.tar.gz", 37.5, 400, 10, "randaug"),
    Published(
        "mixing-randaug", "imagenet_plus_mixing_randaug.tar.gz", 53.3, 400, 10, "randaug_mixing"
    ),
    Published("rrc-small", "imagenet_plus_rrc_small.tar.gz", 4.7, 100, 5, "rrc"),
    Published("mixing-small", "imagenet_plus_mixing_small.tar.gz", 7.8, 100, 5, "mixing"),
    Published("randaug-small", "imagenet_plus_randaug_small.tar.gz", 5.6, 100, 5, "randaug"),
    Published(
        "mixing-randaug-small",
        "imagenet_plus_mixing_randaug_small.tar.gz",
        9.4,
        100,
        5,
        "randaug_mixing",
    ),
    Published("rrc-mini", "imagenet_plus_rrc_mini.tar.gz", 4.4, 50, 10, "rrc"),
    Published("mixing-mini", "imagenet_plus_mixing_mini.tar.gz", 6.1, 50, 10, "mixing"),
    Published("randaug-mini", "imagenet_plus_randaug_mini.tar.gz", 4.9, 50, 10, "randaug"),
    Published(
        "mixing-randaug-mini",
        "imagenet_plus_mixing_randaug.tar.gz",
        7.0,
        50,
        10,
        "randaug_mixing",
        note=_LINK,
    ),
    Published("cifar100", "cifar100.tar.gz", 2.5, 800, None, "cifar", "cifar100"),
    Published("food101", "food_101.tar.gz", 4.2, 800, None, "randaug", "food101"),
    Published("flowers102", "flowers_102.tar.gz", 0.5, 8000, None, "randaug", "flowers102"),
)
"""In the README's order."""


def find_published(name: str) -> Published:
    """Return the archive with a short name.

    Raises:
        DownloadError: No archive has this name; the message lists all names.

    Example:
        >>> find_published("randaug-mini").file
        'imagenet_plus_randaug_mini.tar.gz'
    """
    for published in PUBLISHED:
        if published.name == name:
            return published
    names = ", ".join(published.name for published in PUBLISHED)
    raise DownloadError(f"no published archive is named {name!r}; choose one of {names}")
