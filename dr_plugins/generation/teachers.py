"""Teachers: networks that answer the augmented views.

A teacher is a ``torch.nn.Module`` from uint8 views ``[B, 3, H, W]`` to logits ``[B, C]``; it
resizes and normalizes its input itself.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import nn

from dr_plugins.errors import TeacherError


class Ensemble(nn.Module):
    """Mean of the softmax outputs of one or more teachers (Faghri et al., 2023, section 3).

    Args:
        teachers: Modules from uint8 views ``[B, 3, H, W]`` to logits ``[B, C]``, all the same C.
        temperature: Divisor of the logits; above 1, answers are softer. Train the student with
            ``KDLoss(temperature=...)`` of the same value.
        autocast: ``torch.bfloat16`` runs the teachers in mixed precision; None in float32.
        compiled: Whether `answerer` uses `torch.compile`.
        devices: A device for each teacher, for ensembles that are larger than one device; their
            logits are combined on the device of the views. Empty means that of the ensemble.

    Raises:
        TeacherError: There are no teachers, the temperature is not positive and finite, or the
            numbers of teachers and devices differ.

    Example:
        >>> class Constant(nn.Module):
        ...     def forward(self, views):
        ...         return torch.zeros(len(views), 4)
        >>> Ensemble([Constant(), Constant()])(torch.zeros(1, 3, 8, 8, dtype=torch.uint8))
        tensor([[0.2500, 0.2500, 0.2500, 0.2500]])
    """

    def __init__(
        self,
        teachers: Sequence[nn.Module],
        temperature: float = 1.0,
        autocast: torch.dtype | None = None,
        compiled: bool = False,
        devices: Sequence[str | torch.device] = (),
    ) -> None:
        super().__init__()
        if devices and len(devices) != len(teachers):
            raise TeacherError(
                f"got {len(devices)} devices for {len(teachers)} teachers; expected one for each"
            )
        if not teachers or not 0 < temperature < math.inf:
            raise TeacherError(
                f"got {len(teachers)} teachers and temperature {temperature}; expected at least "
                f"one teacher and a finite temperature above 0"
            )
        self.teachers = nn.ModuleList(teachers)
        self.temperature = temperature
        self.autocast = autocast
        self.compiled = compiled
        self.devices = tuple(map(torch.device, devices))
        self.eval().requires_grad_(False)

    def placed(self, device: torch.device) -> Ensemble:
        """Move every teacher to its own device, or to `device` if it has none."""
        for number, teacher in enumerate(self.teachers):
            teacher.to(self.devices[number] if self.devices else device)
        return self

    def forward(self, views: torch.Tensor) -> torch.Tensor:
        """Return class probabilities.

        Args:
            views: uint8 ``[B, 3, H, W]``.

        Returns:
            float32 ``[B, C]``, rows sum to 1.

        Raises:
            TeacherError: The teachers differ in the number of classes, or do not return finite
                logits (but probabilities, for example).
        """
        probs = self._mean(views, self.teachers, check=True)
        check_finite(bool(torch.isfinite(probs).all()))
        return probs

    def answerer(self, batch_size: int) -> Callable[[torch.Tensor], torch.Tensor]:
        """Return a function that computes `forward` without synchronizing with the device.

        The caller checks that the answers are finite; see `check_finite`.

        Args:
            batch_size: Maximum number of views. Batches of compiled teachers are padded to it,
                because every other size would be compiled separately.
        """
        if not self.compiled:
            return lambda views: self._mean(views, self.teachers)
        # Compiled for this size only: dynamic shapes are slower.
        teachers = [torch.compile(teacher, dynamic=False) for teacher in self.teachers]

        def answer(views: torch.Tensor) -> torch.Tensor:
            padding = views[:1].expand(batch_size - len(views), *views.shape[1:])
            whole = torch.cat([views, padding]) if len(padding) else views
            return self._mean(whole, teachers)[: len(views)]

        return answer

    @torch.inference_mode()
    def _mean(
        self, views: torch.Tensor, teachers: Iterable[Any], check: bool = False
    ) -> torch.Tensor:
        total: torch.Tensor | None = None
        # All teachers have begun before one is waited for.
        for logits in list(self._logits(views, teachers)):
            if isinstance(logits, torch.Tensor):
                logits = logits.to(views.device)
            _check_logits(logits, len(views))
            if check:
                _refuse_probabilities(logits)
            probs = torch.softmax(logits.float() / self.temperature, dim=-1)
            if total is not None and probs.shape != total.shape:
                raise TeacherError(
                    f"the teachers have {total.shape[-1]} and {probs.shape[-1]} classes; an "
                    f"ensemble needs teachers of the same classes"
                )
            total = probs if total is None else total + probs
        assert total is not None
        return total / len(self.teachers)

    def _logits(self, views: torch.Tensor, teachers: Iterable[Any]) -> Iterator[Any]:
        for number, teacher in enumerate(teachers):
            device = self.devices[number] if self.devices else views.device
            with self._precision(device.type), _naming_memory(device, len(views)):
                # A teacher may change its input, which the next one must not see.
                copied = len(self.teachers) > 1
                logits = teacher(views.to(device, non_blocking=True, copy=copied))
            yield logits

    def _precision(self, device_type: str) -> Any:
        if self.autocast is None:
            return nullcontext()
        return torch.autocast(device_type, self.autocast)


@contextmanager
def _naming_memory(device: torch.device, views: int) -> Iterator[None]:
    try:
        yield
    except torch.OutOfMemoryError as error:
        reason = str(error).partition(". ")[0]
        raise TeacherError(
            f"{device} has too little memory for the teacher's answers to {views} views: {reason}. "
            f"Free some, for example of other processes; or use smaller batches (--batch-size, "
            f"which makes it another set: choose another directory) or --bf16"
        ) from error


def check_finite(finite: bool) -> None:
    """Check a teacher's answers.

    Raises:
        TeacherError: They are not `finite`.
    """
    if not finite:
        raise TeacherError(
            "the teacher's answers are not finite numbers (NaN, or only infinite logits); "
            "check its weights, and try it without bfloat16"
        )


def _check_logits(logits: Any, views: int) -> None:
    is_tensor = isinstance(logits, torch.Tensor)
    if not is_tensor or logits.ndim != 2 or len(logits) != views:
        found = f"shape {list(logits.shape)}" if is_tensor else f"a {type(logits).__name__}"
        raise TeacherError(
            f"the teacher answered {views} views with {found}; it must return a tensor of logits "
            f"[B, C] for uint8 views [B, 3, H, W]"
        )


def _refuse_probabilities(logits: torch.Tensor) -> None:
    """Reject answers that look like softmax's output: a second softmax makes them nearly equal."""
    rows = logits.float()
    if rows.shape[1] > 1 and bool((rows >= 0).all() & ((rows.sum(1) - 1).abs() < 1e-2).all()):
        raise TeacherError(
            "the teacher's answers are probabilities (none is negative, each row sums to 1), to "
            "which softmax would be applied again; return logits, or the probabilities' logarithm"
        )


def weights_digest(teacher: nn.Module) -> str:
    """Return 16 hexadecimal digits that identify a teacher's weights and buffers.

    Raises:
        TeacherError: Some are not tensors, as in quantized networks.
    """
    digest = hashlib.sha256()
    for name, tensor in sorted(teacher.state_dict().items()):
        if not isinstance(tensor, torch.Tensor):
            raise TeacherError(
                f"{name} in the teacher's state_dict is a {type(tensor).__name__}, not a tensor, "
                f"so its weights cannot be recognized; use a network that is not quantized"
            )
        digest.update(f"{name}:{tensor.dtype}:{tuple(tensor.shape)}".encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest.hexdigest()[:16]
