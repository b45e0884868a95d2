"""Rules that give an image the same key in every copy of a dataset."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import PurePosixPath

from dr_plugins.errors import DatasetMismatchError

_IMAGENET = re.compile(r"(n\d{8})_(\d+)(?:_n\d{8})?(?:\.\w+)?")


def imagenet_key(name: str) -> str:
    """Return the key of a training image of ImageNet (1k or 21k): ``WNID/WNID_NUMBER.JPEG``.

    Args:
        name: Its name in any copy: with the folder of the class, of the split, or none, and with
            the class repeated at the end, as on the Hub.

    Raises:
        ValueError: It is no name of ImageNet's.

    Example:
        >>> imagenet_key("train/n01440764_10026_n01440764.JPEG")
        'n01440764/n01440764_10026.JPEG'
    """
    found = _IMAGENET.fullmatch(PurePosixPath(name).name)
    if found is None:
        raise ValueError(name)
    return f"{found[1]}/{found[1]}_{found[2]}.JPEG"


KEY_RULES: dict[str, Callable[[str], str]] = {"path": str, "imagenet": imagenet_key}
"""Rules by name; ``path`` leaves an image's relative path as it is."""


def ruled_keys(names: Sequence[str], rule: str) -> list[str]:
    """Return the keys of images by a rule of `KEY_RULES`.

    Raises:
        DatasetMismatchError: There is no such rule, it does not apply to a name, or two images get
            the same key.
    """
    if rule not in KEY_RULES:
        raise DatasetMismatchError(
            f"keys is {rule!r}; expected one of the rules {', '.join(KEY_RULES)}, or a sequence "
            f"with a key for each image"
        )
    try:
        keys = [KEY_RULES[rule](name) for name in names]
    except ValueError as error:
        raise DatasetMismatchError(
            f"the key rule {rule!r} does not apply to an image called {error.args[0]!r}; leave the "
            f"rule out, or use the images of that dataset"
        ) from error
    if len(set(keys)) < len(keys):
        seen: dict[str, str] = {}
        for key, name in zip(keys, names, strict=True):
            if key in seen:
                raise DatasetMismatchError(
                    f"by the key rule {rule!r}, {seen[key]!r} and {name!r} are the same image, "
                    f"{key!r}; remove one of them"
                )
            seen[key] = name
    return keys
