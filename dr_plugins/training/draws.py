"""Counts how often each image is served in an epoch, to detect a missing `set_epoch`."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import torch

_FEW = 8  # fewer repeats are ignored: somebody may look at a batch twice
_SMALL = 16  # from this batch size on, a sampler with replacement soon repeats an image in a batch
_EPOCH, _COUNT, _AGAIN, _BATCH, _QUIET = range(5)


class Draws:
    """Counts the images served in an epoch, by all workers, including finished ones.

    Counts are approximate if workers write at the same moment.

    Args:
        images: Number of images.
    """

    def __init__(self, images: int) -> None:
        # In shared memory, where all workers count.
        self._times = torch.zeros(images, dtype=torch.uint8).share_memory_()
        self._state = torch.zeros(5, dtype=torch.int64).share_memory_()

    def count(self, epoch: int, indices: np.ndarray) -> None:
        """Count a batch, and warn if the images of an earlier pass are served again.

        A sampler that repeats images on purpose causes no warning. It can be recognized because
        consecutive passes never repeat an image within a batch, and serve no image a third time
        before most were served twice (except on several ranks, which divide the images differently
        in each pass).

        Args:
            epoch: The dataset's epoch, from 0.
            indices: Indices of the batch, int64 ``[B]``, at least -N and less than N.
        """
        state, times = self._state.numpy(), self._times.numpy()
        if state[_EPOCH] != epoch:
            times[:] = 0
            state[:] = epoch, 0, 0, 0, 0
        if state[_QUIET]:
            return
        before = times[indices]
        times[indices] = before + (before < 2)
        state[_COUNT] += len(indices)
        state[_AGAIN] += np.count_nonzero(before)
        state[_BATCH] = max(state[_BATCH], len(indices))
        is_third = state[_BATCH] < _SMALL and (before == 2).any()
        if len(np.unique(indices)) < len(indices) or (is_third and _few_came_twice(times)):
            state[_QUIET] = 1
        elif state[_AGAIN] >= max(_FEW, state[_COUNT] / 3):
            state[_QUIET] = 1
            warnings.warn(
                f"{state[_AGAIN]} of {state[_COUNT]} images were already served in epoch "
                f"{epoch}, with the same views. Call set_epoch(epoch) before each epoch.",
                stacklevel=4,
            )

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__dict__.update(state)
        self._times.share_memory_()  # a copy has its own workers
        self._state.share_memory_()


def _few_came_twice(times: np.ndarray) -> bool:
    return bool(2 * np.count_nonzero(times == 2) < np.count_nonzero(times))
