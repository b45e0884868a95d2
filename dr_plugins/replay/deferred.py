"""Views whose last operations are computed on the student's device.

Workers decode, crop and resize, because whole images are larger to send than views. Flips,
RandAugment, erasing and mixing yield the same bits on every device; a GPU computes them for the
whole batch and saves the workers' time.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from dr_plugins.errors import DeviceMismatchError, SettingsMismatchError
from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.transforms.kernels.batch import upload

_CHECKED_VIEWS = 96


class CroppedView(NamedTuple):
    """One view before its last operations.

    Attributes:
        policy: The shard set's policy.
        view: uint8 ``[3, H, W]``, from `Policy.crop`; already finished if `params` is None.
        params: Parameters of the remaining operations.
        partner: The partner's view, uint8 ``[3, H, W]``, from `Policy.crop`; None without mixing.
    """

    policy: Policy
    view: Tensor
    params: AugmentParams | None
    partner: Tensor | None = None


class DeferredViews:
    """A batch of views that is finished on the device it is sent to.

    `to` returns exactly the pixels that the teacher saw; each new device is checked first, see
    `check_device`. Loaders move and pin it like a tensor.

    Args:
        policy: The shard set's policy.
        cropped: uint8 ``[B + P, 3, H, W]``: the views, then those of the P partners.
        params: Parameters of each view's remaining operations; None if the view is finished.

    Example:
        >>> policy = Policy.load("randaug", size=8, backend="tensor")
        >>> params = policy.sample(np.random.default_rng(0), (20, 20))
        >>> cropped = policy.crop(np.zeros((20, 20, 3), np.uint8), params.view)
        >>> DeferredViews(policy, cropped[None], [params]).to("cpu").shape
        torch.Size([1, 3, 8, 8])
    """

    def __init__(
        self, policy: Policy, cropped: Tensor, params: Sequence[AugmentParams | None]
    ) -> None:
        self.policy = policy
        self.cropped = cropped
        self.params = params

    @classmethod
    def cat(cls, batches: Sequence[DeferredViews]) -> DeferredViews:
        """Concatenate at least one batch, all of the same view size.

        Raises:
            SettingsMismatchError: Their policies differ.
        """
        views = [batch.cropped[: len(batch)] for batch in batches]
        partners = [batch.cropped[len(batch) :] for batch in batches]
        params = [one for batch in batches for one in batch.params]
        policy = _only([batch.policy for batch in batches])
        return cls(policy, torch.cat([*views, *partners]), params)

    @property
    def shape(self) -> torch.Size:
        """``[B, 3, H, W]``."""
        return torch.Size((len(self.params), *self.cropped.shape[1:]))

    @property
    def device(self) -> torch.device:
        """Current device of the pixels."""
        return self.cropped.device

    def __len__(self) -> int:
        return len(self.params)

    def size(self, dim: int | None = None) -> torch.Size | int:
        """Shape, or one of its entries."""
        return self.shape if dim is None else self.shape[dim]

    def pin_memory(self) -> DeferredViews:
        """Copy to page-locked memory."""
        return DeferredViews(self.policy, self.cropped.pin_memory(), self.params)

    def is_pinned(self) -> bool:
        """Whether the pixels are in page-locked memory."""
        return self.cropped.is_pinned()

    def to(self, device: str | torch.device, non_blocking: bool = False) -> Tensor:
        """Move to a device and finish there, on its current stream.

        Args:
            device: Target device.
            non_blocking: Do not wait for the copy; effective if `is_pinned`.

        Returns:
            uint8 ``[B, 3, H, W]``.

        Raises:
            DeviceMismatchError: The pixels of device and CPU differ.
            TypeError: A dtype is passed.
        """
        if not isinstance(non_blocking, bool):
            raise TypeError(
                f"non_blocking is {non_blocking!r}, expected a boolean: views are finished as "
                f"uint8; convert what .to(device) returns"
            )
        cropped = self.cropped.to(device, non_blocking=non_blocking)
        check_device(self.policy, cropped.device)
        return _finish(self.policy, cropped, self.params)

    def cuda(self, device: Any = None, non_blocking: bool = False) -> Tensor:
        """Move to a GPU, by default the current one; see `to`."""
        if isinstance(device, int):  # alone, a number asks torch 2.6 for a GPU already here
            device = torch.device("cuda", device)
        return self.to(torch.device(device or "cuda"), non_blocking)

    def cpu(self) -> Tensor:
        """Finish on the CPU; see `to`."""
        return self.to("cpu")

    def __repr__(self) -> str:
        return f"DeferredViews({list(self.shape)}, on {self.cropped.device}; use .to(device))"


def join(views: Sequence[CroppedView], stack: Callable[..., Tensor] = torch.stack) -> DeferredViews:
    """Join views into a batch.

    Args:
        views: At least one.
        stack: Stacks tensors.

    Raises:
        SettingsMismatchError: Their policies differ.
    """
    policy = _only([view.policy for view in views])
    partners = [view.partner for view in views if view.partner is not None]
    cropped = stack([*(view.view for view in views), *partners])
    return DeferredViews(policy, cropped, [view.params for view in views])


def _only(policies: Sequence[Policy]) -> Policy:
    """The policy of all views in a batch: those of a ``ConcatDataset`` may have several."""
    first = policies[0]
    if any(policy is not first and policy != first for policy in policies):
        raise SettingsMismatchError(
            "the views of a batch are of shard sets with different policies, and a device finishes "
            "them by one: leave out defer, or load each set in batches of its own"
        )
    return first


@functools.cache
def check_device(policy: Policy, device: torch.device) -> None:
    """Compare views finished on the CPU and on a device, once per policy and device.

    Raises:
        DeviceMismatchError: They differ.
    """
    if device.type == "cpu":
        return
    cropped, params = _example(policy)
    expected = _finish(policy, cropped, params)
    found = _finish(policy, cropped.to(device), params).cpu()
    differing = int((expected != found).flatten(1).any(1).sum())
    if differing:
        raise DeviceMismatchError(
            f"{differing} of {len(params)} views computed on {device} differ from the CPU's, which "
            f"define the policy ({', '.join(policy.to_config())}); finish the views in the "
            f"workers: ReinforcedDataset(..., defer=False), dr-plugins reinforce --views-on workers"
        )


def _example(policy: Policy) -> tuple[Tensor, list[AugmentParams]]:
    rng = np.random.default_rng(0)
    partners = [(0, policy.view_size)]
    params = [policy.sample(rng, policy.view_size, partners) for _ in range(_CHECKED_VIEWS)]
    count = len(params) + sum(p.partner is not None for p in params)
    # Noise on gradients of different ranges: every level occurs, and the extremes and means of the
    # views differ.
    height, width = policy.view_size
    slope = np.linspace(0, rng.uniform(0, 255, (count, 3, 1)), width, axis=-1).astype(np.int16)
    noise = rng.integers(-20, 21, (count, 3, height, width), np.int16)
    return torch.from_numpy((slope + noise).clip(0, 255).astype(np.uint8)), params


def _finish(policy: Policy, cropped: Tensor, params: Sequence[AugmentParams | None]) -> Tensor:
    blank = policy.blank_view()
    mixed = [(i, p) for i, p in enumerate(params) if p is not None and p.partner is not None]
    views = [blank if p is None else p.view for p in params]
    finished = policy.augment(cropped, [*views, *(p.partner_view for _, p in mixed)])
    whole, partners = finished[: len(params)], finished[len(params) :]
    if not mixed:
        return whole
    index = upload(np.array([i for i, _ in mixed]), cropped.device)
    blended = policy.mix(whole.index_select(0, index), partners, [p.mixing for _, p in mixed])
    return whole.index_copy(0, index, blended)
