"""One file for each model and set: scores of all images, and what they were computed from."""

from __future__ import annotations

import contextlib
import json
import logging
import os
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch

from dr_plugins.errors import EvaluationError
from dr_plugins.evaluation.image_set import ImageSet
from dr_plugins.metrics import ImageScores

_SCALED = "scaled."
_logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class SetResult:
    """A model's scores on a set.

    Attributes:
        model: Its name.
        set_name: That of the set.
        scores: Of each image, in the order of the set.
        scaled: The same with temperature scaling: each half of the images (every other one) with
            the temperature that fits the other half, so none is scaled by what it taught.
        temperatures: That fit the first and the second half.
        expected: Number of images in the published set; 0 if unknown.
        identity: What the scores depend on.

    Example:
        >>> result.scores.metrics()["ece"], result.scaled.metrics()["ece"]  # doctest: +SKIP
        (0.0373, 0.0092)
    """

    model: str
    set_name: str
    scores: ImageScores
    scaled: ImageScores
    temperatures: tuple[float, float]
    expected: int
    identity: dict[str, Any]


def result_path(out: Path, model: str, set_name: str) -> Path:
    """The file of a result."""
    return out / _as_file_name(model) / f"{set_name}.safetensors"


def _as_file_name(name: str) -> str:
    return name.replace("/", "_").replace(":", "_")


def write_result(path: Path, result: SetResult) -> None:
    """Write a result whole, or not at all.

    Raises:
        EvaluationError: It cannot be written.
    """
    tensors = {
        **result.scores.columns(),
        **{_SCALED + name: value for name, value in result.scaled.columns().items()},
    }
    metadata = {
        "identity": json.dumps(result.identity, sort_keys=True),
        "temperatures": json.dumps(result.temperatures),
    }
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        safetensors.torch.save_file(tensors, temporary, metadata)
        os.replace(temporary, path)
    except (OSError, safetensors.SafetensorError) as error:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise EvaluationError(
            f"cannot write {path}: {error}. Choose a writable directory with enough space"
        ) from error


def read_result(path: Path, identity: dict[str, Any], images: ImageSet) -> SetResult | None:
    """Read a result; None if there is none, or one of another model, other images or scores.

    Raises:
        EvaluationError: The file is damaged.
    """
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, "pt") as file:
            metadata = file.metadata()
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        # Through JSON, which turns tuples into lists.
        if json.loads(metadata["identity"]) != json.loads(json.dumps(identity)):
            _logger.info("%s is of another model, precision or other images: evaluated again", path)
            return None
        first, second = json.loads(metadata["temperatures"])
        names = {each.name for each in fields(ImageScores)}
        if set(tensors) != names | {_SCALED + name for name in names}:
            _logger.info("%s has other scores than this version: evaluated again", path)
            return None
        scores = ImageScores(**{name: tensors[name] for name in names})
        scaled = ImageScores(**{name: tensors[_SCALED + name] for name in names})
        if len(scores) != len(images):
            raise ValueError(f"{len(scores)} images, but the set has {len(images)}")
    except (safetensors.SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
        raise EvaluationError(
            f"{path} is damaged ({error}); delete it, and the set is evaluated again"
        ) from error
    return SetResult(
        identity["model"],
        images.name,
        scores,
        scaled,
        (first, second),
        images.expected,
        identity,
    )
