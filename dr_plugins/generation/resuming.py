"""Resuming with the same images and teacher: repeats some stored views and answers.

The settings are not enough: the weights of an ONNX, TorchScript or remote teacher are not in its
``state_dict``, a teacher's preprocessing is stored nowhere, and images may change.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch

from dr_plugins.errors import ImageChangedError, SettingsMismatchError
from dr_plugins.generation.predictor import Predictor
from dr_plugins.generation.repeatable import check_repeatable, difference, tolerance
from dr_plugins.generation.views import ViewBatch
from dr_plugins.records import RecordLayout
from dr_plugins.replay.replayer import fingerprint
from dr_plugins.shards.key_index import KeyIndex
from dr_plugins.shards.location import Location
from dr_plugins.shards.shard import Shard

_SHARDS = 4  # finished shards to check, the first batch of each


def asked_again(finished: Sequence[int]) -> list[int]:
    """Return a few evenly spaced finished shards to compare, in order."""
    spread = np.linspace(0, len(finished) - 1, min(_SHARDS, len(finished)))
    return [finished[int(i)] for i in spread]


def check_views(
    batch: ViewBatch, shard: Shard, layout: RecordLayout, keys: KeyIndex, views: torch.Tensor
) -> None:
    """Compare repeated views with their stored parameters and fingerprints.

    Args:
        batch: Describes the views.
        shard: The finished shard of the views.
        layout: Byte layout of a record.
        keys: The images, in row order.
        views: uint8 ``[B, 3, H, W]``.

    Raises:
        ImageChangedError: The parameters or the fingerprinted view differ.
    """
    made, stored = batch.records.numpy().view(layout.dtype)[:, 0], _stored(batch, shard)
    names = [field.name for field in layout.parameters]
    for part in batch.parts:
        views_of_it = slice(part.start, part.stop)
        same = all((made[n][views_of_it] == stored[n][views_of_it]).all() for n in names)
        if same and part.fingerprinted is not None:
            digest = fingerprint(views[part.fingerprinted].cpu())
            same = digest == shard.fingerprints[part.row - shard.first_row].tobytes()
        if not same:
            raise ImageChangedError(
                f"the views of image {keys[part.row]!r} differ from those in the finished shards: "
                f"the image has changed. Restore the images to resume, or choose another "
                f"directory."
            )


def check_answers(
    batch: ViewBatch,
    shard: Shard,
    ask: Predictor,
    views: torch.Tensor,
    precision: str,
    out: Location,
) -> None:
    """Compare a teacher's answers with those stored for the same views.

    Args:
        batch: Describes the views.
        shard: The finished shard of the views.
        ask: Runs the teacher.
        views: uint8 ``[B, 3, H, W]``, on the teacher's device.
        precision: The teacher's precision, such as ``"float32"``.
        out: The set's directory, for the message.

    Raises:
        TeacherError: The teacher's answers are not reproducible.
        SettingsMismatchError: Another teacher made the shard.
    """
    stored = _stored(batch, shard)
    ids = torch.from_numpy(stored["ids"].astype(np.int64))
    expected = torch.from_numpy(stored["probs"].copy())
    limit = tolerance(views.device.type, precision)

    def answered() -> torch.Tensor:
        probs = ask.probs(views.clone())  # a teacher may modify its input
        return probs.cpu().gather(1, ids).to(expected.dtype)

    found = answered()
    differing = difference(found, expected)
    if differing <= limit:
        return
    check_repeatable(found, answered(), limit)
    raise SettingsMismatchError(
        f"the teacher's answers to views in {out / 'shard-*.safetensors'} differ from the stored "
        f"ones by {math.expm1(differing):.2%} on average, expected at most "
        f"{math.expm1(limit):.2%}: another network or another preprocessing made them. Resume "
        f"with that teacher, or choose another directory."
    )


def _stored(batch: ViewBatch, shard: Shard) -> np.ndarray:
    return shard.records.reshape(-1)[batch.first : batch.first + len(batch.records)]
