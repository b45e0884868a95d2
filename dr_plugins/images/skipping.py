"""Lists of images to leave out: files with one key a line, such as `dr-plugins suspects` writes."""

from __future__ import annotations

from collections.abc import Container, Sequence
from os import PathLike, fspath

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.keys import KEY_RULES
from dr_plugins.utils.quoting import quoted

SkipList = str | PathLike[str] | Sequence[str]
"""A file with one key a line, or the keys themselves."""


def read_keys(path: str | PathLike[str]) -> list[str]:
    """Read a list of keys.

    Args:
        path: UTF-8 text file, one key per line; empty lines are ignored.

    Returns:
        The keys, sorted, each once.

    Raises:
        DatasetMismatchError: The file cannot be read.
    """
    try:
        with open(path, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
            text = file.read()
    except OSError as error:
        raise DatasetMismatchError(
            f"cannot read {fspath(path)}, the list of images to leave out: "
            f"{error.strerror or error}"
        ) from error
    return sorted({line.removesuffix("\r") for line in text.split("\n")} - {""})


def skipped_keys(
    skip: SkipList, keys: Sequence[str], others: Sequence[Container[str]] = ()
) -> list[str]:
    """Return the keys of the images that a list leaves out.

    A list may come from another copy of the dataset, which names the images differently: if one of
    `KEY_RULES` makes all names in it those of images, it is applied.

    Args:
        skip: The list.
        keys: Keys of the images.
        others: Keys that may also be listed: of images that are elsewhere, or left out already.

    Raises:
        DatasetMismatchError: A key in the list is no image's, or the file cannot be read.

    Example:
        >>> skipped_keys(["train/n01440764_3.JPEG"], ["n01440764/n01440764_3.JPEG"])
        ['n01440764/n01440764_3.JPEG']
    """
    listed = read_keys(skip) if isinstance(skip, str | PathLike) else sorted(set(skip))
    known = set(keys)
    unknown = [key for key in listed if not any(key in each for each in (known, *others))]
    if not unknown:
        return [key for key in listed if key in known]
    for key_of in KEY_RULES.values():
        try:
            by_rule = {key_of(key): key for key in keys}
            return sorted({by_rule[key_of(key)] for key in listed})
        except (ValueError, KeyError):
            continue
    name = fspath(skip) if isinstance(skip, str | PathLike) else "the list to leave out"
    examples = ", ".join(map(quoted, unknown[:3])) + (", ..." if len(unknown) > 3 else "")
    here = f" (keys such as {quoted(keys[0])})" if len(keys) else ""
    raise DatasetMismatchError(
        f"{len(unknown)} of {len(listed)} keys in {name} are not among the images{here}: "
        f"{examples}. Write one key a line, as `dr-plugins suspects --keys` does, of these images"
    )
