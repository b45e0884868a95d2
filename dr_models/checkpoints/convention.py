"""What a network was trained to be fed, carried in the file and checked against the host.

A network that learned from RGB between 0 and 1 without mean and standard deviation still answers
when it is fed ImageNet-normalised images, only worse: nothing else notices.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from dr_models.checkpoints.files import read_file_metadata
from dr_models.cvnets.inputs import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    INPUT_FIELDS,
    InputConvention,
    cvnets_convention,
)
from dr_plugins.errors import CheckpointError

__all__ = [
    "FORMAT_VERSION",
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "InputConvention",
    "check_convention",
    "check_metadata",
    "cvnets_convention",
    "is_converted",
    "parse_convention",
    "read_convention",
    "read_metadata",
]

FORMAT_VERSION = 1
"""Of the metadata that converted files carry."""

_TOLERANCE = 1e-3  # of the range 0 to 1: hosts round, such as 123.675 for 0.485 * 255


def is_converted(metadata: Mapping[str, str]) -> bool:
    """Whether a file's metadata are those that `convert` writes."""
    return "format_version" in metadata and "mean" in metadata


def check_metadata(metadata: Mapping[str, str], path: str | Path) -> Mapping[str, str]:
    """Make sure that a file's metadata can be understood, and return them.

    Raises:
        CheckpointError: They are not those that `convert` writes, or are damaged, or of a newer
            version of this package.
    """
    if not is_converted(metadata):
        raise CheckpointError(
            f"{path} does not say what images its network expects. Convert the checkpoint with "
            f"`dr-plugins convert-checkpoint`, which writes that into the file"
        )
    version = metadata["format_version"]
    if not version.isdecimal() or int(version) > FORMAT_VERSION:
        raise CheckpointError(
            f"{path} has metadata of version {version[:20]}; this package reads up to "
            f"{FORMAT_VERSION}. Install a newer dr-plugins"
        )
    return metadata


def read_metadata(path: str | Path) -> Mapping[str, str]:
    """What a converted file says about itself: arch, layout, model, source and the input.

    Raises:
        CheckpointError: Not a checkpoint, or one that `check_metadata` refuses.

    Example:
        >>> read_metadata("resnet50.safetensors")["arch"]                   # doctest: +SKIP
        'resnet_50'
    """
    return check_metadata(read_file_metadata(Path(path)), path)


def read_convention(path: str | Path) -> InputConvention:
    """The input convention that a converted file carries.

    Raises:
        CheckpointError: See `read_metadata`; or its fields are damaged.

    Example:
        >>> mean, std = read_convention("resnet50.safetensors").for_range(255)  # doctest: +SKIP
    """
    return parse_convention(read_metadata(path), path)


def parse_convention(metadata: Mapping[str, str], path: str | Path) -> InputConvention:
    """The input convention in a converted file's metadata.

    Raises:
        CheckpointError: Its fields are damaged.
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
    """Refuse to feed a network other images than it was trained on.

    Args:
        convention: From `read_convention`.
        mean: What the host is about to subtract, in its own order of channels.
        std: What it divides by afterwards.
        top: Largest value of the images that it does this to: 1, or 255.
        bgr: Its images come as blue, green, red.
        host: Its name, or that of the setting, for the message.

    Raises:
        CheckpointError: They are not the same.

    Example:
        >>> check_convention(InputConvention(), (123.675, 116.28, 103.53), (58.395, 57.12, 57.375),
        ...                  top=255)
    """
    # A caller that swaps channels itself states mean and std in its images' order.
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
            f"{list(expected_mean)} and std {list(expected_std)} in that range; set these, or it "
            f"gives worse answers without any other sign"
        )
