"""The input convention of a network, stored in converted files and checked against the host.

A network trained on RGB from 0 to 1 without mean and standard deviation still works on
ImageNet-normalized images, only worse, and without any error.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dr_models.checkpoints.files import read_file_metadata
from dr_models.cvnets.inputs import (
    INPUT_FIELDS,
    InputConvention,
)
from dr_plugins.errors import CheckpointError

FORMAT_VERSION = 1
"""Version of the metadata in converted files."""

_TOLERANCE = 1e-3  # for the range 0 to 1: hosts round, such as 123.675 for 0.485 * 255


def is_converted(metadata: Mapping[str, str]) -> bool:
    """Return whether `convert` wrote a file's metadata."""
    return "format_version" in metadata and "mean" in metadata


def check_metadata(metadata: Mapping[str, str], path: str | Path) -> Mapping[str, str]:
    """Return a file's metadata if this version can read them.

    Raises:
        CheckpointError: `convert` did not write them, or they are damaged or from a newer version
            of this package.
    """
    if not is_converted(metadata):
        raise CheckpointError(
            f"{path} does not state the input convention of its network. Convert the checkpoint "
            f"with `dr-plugins convert-checkpoint`, which adds it"
        )
    version = metadata["format_version"]
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has metadata of version {version[:20]}; this package reads up to "
            f"{FORMAT_VERSION}. Install a newer dr-plugins"
        )
    return metadata


def read_metadata(path: str | Path) -> Mapping[str, str]:
    """Read a converted file's metadata: arch, layout, model, source and input convention.

    Raises:
        CheckpointError: The file is not a checkpoint, or `check_metadata` raises.

    Example:
        >>> read_metadata("resnet50.safetensors")["arch"]                   # doctest: +SKIP
        'resnet_50'
    """
    return check_metadata(read_file_metadata(Path(path)), path)


def read_convention(path: str | Path) -> InputConvention:
    """Read the input convention of a converted file.

    Raises:
        CheckpointError: See `read_metadata`; or the fields are damaged.

    Example:
        >>> mean, std = read_convention("resnet50.safetensors").for_range(255)  # doctest: +SKIP
    """
    return parse_convention(read_metadata(path), path)


def parse_convention(metadata: Mapping[str, str], path: str | Path) -> InputConvention:
    """Parse the input convention in a converted file's metadata.

    Raises:
        CheckpointError: The fields are damaged.
    """
    try:
        values = {name: json.loads(metadata[name]) for name in INPUT_FIELDS}
        return InputConvention(
            tuple(float(value) for value in values["mean"]),  # type: ignore[arg-type]
            tuple(float(value) for value in values["std"]),  # type: ignore[arg-type]
            (int(values["input_size"][0]), int(values["input_size"][1])),
            metadata["interpolation"],
            float(values["crop_pct"]),
        )
    except CheckpointError as error:
        raise CheckpointError(f"{path}: {error}") from error
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError) as error:
        raise CheckpointError(
            f"{path} has damaged metadata ({str(error)[:80]!r}); convert the checkpoint again"
        ) from error


def check_convention(
    convention: InputConvention,
    mean: Sequence[float],
    std: Sequence[float],
    *,
    top: float = 1.0,
    bgr: bool = False,
    host: str = "the host",
) -> None:
    """Raise unless a host's normalization matches the network's input convention.

    Args:
        convention: From `read_convention`.
        mean: Mean that the host subtracts, in its channel order.
        std: Standard deviation that it divides by.
        top: Largest value of its images before normalization: 1 or 255.
        bgr: Its images have the channel order blue, green, red.
        host: Name of the host or the setting, for the message.

    Raises:
        CheckpointError: They differ.

    Example:
        >>> check_convention(InputConvention(), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375),
        ...                  top=255)
    """
    # A caller that swaps channels passes mean and std in the order of its images.
    expected_mean, expected_std = convention.for_range(top)
    wrong = len(mean) != 3 or len(std) != 3
    for given, expected in ((mean, expected_mean), (std, expected_std)):
        wrong = wrong or any(
            not abs(a - b) <= _TOLERANCE * top for a, b in zip(given, expected, strict=True)
        )
    if wrong or bgr:
        order = "BGR" if bgr else "RGB"
        raise CheckpointError(
            f"{host} feeds {order} images from 0 to {top:g} with mean {list(mean)} and std "
            f"{list(std)}, but the checkpoint was trained on RGB images with mean "
            f"{list(expected_mean)} and std {list(expected_std)} in that range; set these, or the "
            f"results get worse without any error"
        )
