"""The teacher's side of generation: top-k answers to batches of views, without blocking."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch

from dr_plugins.errors import TeacherError
from dr_plugins.generation.teachers import Ensemble, check_finite
from dr_plugins.generation.view_maker import ReadyViews
from dr_plugins.generation.views import ViewBatch
from dr_plugins.records import BASIC_ANSWER, answer_fields
from dr_plugins.transforms.kernels.batch import upload


class Prediction(NamedTuple):
    """The stored part of a teacher's answer to a batch: CPU tensors, complete after `wait`.

    Attributes:
        batch: The views.
        answer: What records store of it, by the name of the field, see `AnswerField`.
        fingerprinted: uint8 ``[n, 3, H, W]``, the views to fingerprint, as the teacher got them.
        finite: Boolean; whether all probabilities are finite.
        copied: CUDA event after which the copies are complete; None on other devices.
    """

    batch: ViewBatch
    answer: dict[str, torch.Tensor]
    fingerprinted: torch.Tensor
    finite: torch.Tensor
    copied: torch.cuda.Event | None

    def wait(self) -> None:
        """Wait for the copies.

        Raises:
            TeacherError: The answers are not finite.
        """
        if self.copied is not None:
            self.copied.synchronize()
        check_finite(bool(self.finite))


class Predictor:
    """Runs a teacher on batches of views.

    Args:
        teacher: On its device.
        num_classes: Number of the teacher's classes.
        topk: Number of classes kept per answer.
        batch_size: Maximum number of views in a batch.
        answer: Names of what is kept of an answer, see `ANSWER_FIELDS`.
    """

    def __init__(
        self,
        teacher: Ensemble,
        num_classes: int,
        topk: int,
        batch_size: int,
        answer: Sequence[str] = BASIC_ANSWER,
    ) -> None:
        self._answer = teacher.answerer(batch_size)
        self._num_classes, self._topk = num_classes, topk
        self._parts = answer_fields(answer)

    def probs(self, views: torch.Tensor) -> torch.Tensor:
        """Return the probabilities of all classes, float32 ``[B, C]``, without synchronizing.

        Raises:
            TeacherError: The answer has another number of classes.
        """
        probs = self._answer(views)
        if probs.shape[1] != self._num_classes:
            raise TeacherError(
                f"the teacher answered a batch of {len(views)} views with {probs.shape[1]} "
                f"classes, but with {self._num_classes} before; it must always return logits "
                f"[B, {self._num_classes}]"
            )
        return probs

    def __call__(self, batch: ViewBatch, ready: ReadyViews) -> Prediction:
        """Start predicting one batch.

        Raises:
            TeacherError: The answer has another number of classes.
        """
        views = ready.take()
        chosen = [part.fingerprinted for part in batch.parts if part.fingerprinted is not None]
        # Before calling the teacher, which may modify the views.
        fingerprinted = views.index_select(0, upload(np.array(chosen, np.int64), views.device))
        probs = self.probs(views)
        top = probs.topk(self._topk, dim=1)
        on_cuda = views.device.type == "cuda"  # other devices have no event for a finished copy
        parts = (part.compute(probs, top) for part in self._parts)
        kept = (*parts, fingerprinted, torch.isfinite(probs).all())
        *answer, fingerprinted, finite = (t.to("cpu", non_blocking=on_cuda) for t in kept)
        copied = torch.cuda.current_stream(views.device).record_event() if on_cuda else None
        names = (part.name for part in self._parts)
        return Prediction(
            batch, dict(zip(names, answer, strict=True)), fingerprinted, finite, copied
        )
