"""Resuming with the same images and teacher: some stored views are made and asked about again.

The settings cannot say it all: the weights of an ONNX, TorchScript or remote teacher are not in
its ``state_dict``, how a teacher prepares its input is nowhere, and images may change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch

from dr_plugins.errors import ImageChangedError, SettingsMismatchError, TeacherError
from dr_plugins.generation.predictor import Predictor
from dr_plugins.generation.views import ViewBatch
from dr_plugins.records import RecordLayout
from dr_plugins.replay.replayer import fingerprint
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.shard import Shard

__all__ = ["asked_again", "check_answers", "check_views"]

_SHARDS = 4  # of the finished ones, each with its first batch
# Mean difference of the stored probabilities' logarithms, which is about that of the logits. Other
# kernels and GPUs change less; another network or another preparation of its input changes more.
_TOLERANCE, _REDUCED_TOLERANCE = 0.05, 0.15
_LEAST_PROB = 2.0**-14  # float16 rounds smaller ones coarsely, or to 0


def asked_again(finished: Sequence[int]) -> list[int]:
    """Return the finished shards to compare: a few, spread evenly, in order."""
    spread = np.linspace(0, len(finished) - 1, min(_SHARDS, len(finished)))
    return [finished[int(i)] for i in spread]


def check_views(
    batch: ViewBatch, shard: Shard, layout: RecordLayout, keys: KeyIndex, views: torch.Tensor
) -> None:
    """Compare views that were made again with what is stored of them.

    Args:
        batch: Describes the views.
        shard: The finished shard that they belong to.
        layout: Byte layout of a record.
        keys: The images, in row order.
        views: uint8 ``[B, 3, H, W]``.

    Raises:
        ImageChangedError: Other parameters are drawn, or the view on record has other pixels.
    """
    made, stored = batch.records.numpy().view(layout.dtype)[:, 0], _stored(batch, shard)
    names = [field.name for field in layout.fields[:-2]]  # without ids and probs
    for part in batch.parts:
        views_of_it = slice(part.start, part.stop)
        same = all((made[n][views_of_it] == stored[n][views_of_it]).all() for n in names)
        if same and part.fingerprinted is not None:
            digest = fingerprint(views[part.fingerprinted].cpu())
            same = digest == shard.fingerprints[part.row - shard.first_row].tobytes()
        if not same:
            raise ImageChangedError(
                f"image {keys[part.row]!r} gives other views than those in the finished shards: "
                f"the image has changed since. Restore the images to resume, or choose another "
                f"directory."
            )


def check_answers(
    batch: ViewBatch, shard: Shard, ask: Predictor, views: torch.Tensor, precision: str, out: Path
) -> None:
    """Compare a teacher's answers with those stored for the same views.

    Args:
        batch: Describes the views.
        shard: The finished shard that they belong to.
        ask: Asks the teacher.
        views: uint8 ``[B, 3, H, W]``, on the teacher's device.
        precision: The teacher's, such as ``"float32"``.
        out: The set's directory, for the message.

    Raises:
        TeacherError: The teacher answers the same views differently each time.
        SettingsMismatchError: It is not the teacher that made the shard.
    """
    stored = _stored(batch, shard)
    ids = torch.from_numpy(stored["ids"].astype(np.int64))
    expected = torch.from_numpy(stored["probs"].astype(np.float32))
    tolerance = _TOLERANCE if precision == "float32" else _REDUCED_TOLERANCE

    def answered() -> torch.Tensor:
        return ask.probs(views.clone()).cpu().gather(1, ids)  # a teacher may change its input

    found = answered()
    difference = _difference(found, expected)
    if difference <= tolerance:
        return
    if not _difference(found, answered()) <= tolerance:
        raise TeacherError(
            "the teacher answers the same views differently each time; what it draws at random, "
            "such as dropout, must be off"
        )
    raise SettingsMismatchError(
        f"the teacher's answers to views in {out / 'shard-*.safetensors'} differ from the stored "
        f"ones by a factor of {math.exp(difference):.2f} on average, expected at most "
        f"{math.exp(tolerance):.2f}: another network made them, or one with another preparation "
        f"of its input. Resume with that teacher, or choose another directory."
    )


def _difference(probs: torch.Tensor, others: torch.Tensor) -> float:
    logarithms = [p.clamp(min=_LEAST_PROB).log() for p in (probs, others)]
    return float((logarithms[0] - logarithms[1]).abs().mean())


def _stored(batch: ViewBatch, shard: Shard) -> np.ndarray:
    return shard.records.reshape(-1)[batch.first : batch.first + len(batch.records)]
