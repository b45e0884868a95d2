"""Moving views to the teacher's device, and making them there if the workers did not."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch

from dr_plugins.errors import DeviceMismatchError
from dr_plugins.generation.views import ImagePart, ViewBatch
from dr_plugins.policies.policy import AugmentParams, Policy
from dr_plugins.records import RecordLayout
from dr_plugins.replay.deferred import DeferredViews

_CHECKED_VIEWS = 32


class ReadyViews(NamedTuple):
    """Views on the teacher's device, possibly still being computed.

    Attributes:
        views: uint8 ``[B, 3, H, W]``.
        done: CUDA event after which they are complete; None on other devices.
    """

    views: torch.Tensor
    done: torch.cuda.Event | None

    def take(self) -> torch.Tensor:
        """Return the views for use on the current stream, without waiting on the CPU."""
        if self.done is not None:
            stream = torch.cuda.current_stream(self.views.device)
            stream.wait_event(self.done)
            self.views.record_stream(stream)  # their memory belongs to the stream that made them
        return self.views


class ViewMaker:
    """Makes the views of consecutive batches on a device.

    On CUDA it uses a separate stream, so views are made while the teacher answers earlier ones.
    Images whose views continue in the next batch stay on the device. The views of the first batch
    are compared with those computed on the CPU.

    Args:
        policy: Augmentation of the views.
        layout: Byte layout of a record.
        device: Where the teacher runs.
    """

    def __init__(self, policy: Policy, layout: RecordLayout, device: torch.device) -> None:
        self._policy, self._layout, self._device = policy, layout, device
        self._stream = torch.cuda.Stream(device, priority=-1) if device.type == "cuda" else None
        self._cached: dict[int, torch.Tensor] = {}
        self._checked = False

    def __call__(self, batch: ViewBatch) -> ReadyViews:
        """Start making the views of a batch; batches must arrive in order.

        Raises:
            DeviceMismatchError: The pixels of device and CPU differ.
        """
        with nullcontext() if self._stream is None else torch.cuda.stream(self._stream):
            views_here = self._from_pictures(batch) if batch.views is None else batch.views
            views = views_here.to(self._device, non_blocking=self._stream is not None)
        return ReadyViews(views, None if self._stream is None else self._stream.record_event())

    def _from_pictures(self, batch: ViewBatch) -> DeferredViews:
        params = self._policy.decode(batch.records.numpy().view(self._layout.dtype)[:, 0])
        if not self._checked:
            self._check(batch.parts, params)
            self._checked = True
        return self._begin(batch.parts, params)

    def _begin(self, parts: Sequence[ImagePart], params: Sequence[AugmentParams]) -> DeferredViews:
        """Crop and resize: first the views, then their partners."""
        images: list[torch.Tensor] = []
        which: list[int] = []
        partners: list[int] = []
        for part in parts:
            self._cache_pictures(part)
            index = {row: len(images) + i for i, row in enumerate(self._cached)}
            images += self._cached.values()
            which += [index[part.row]] * (part.stop - part.start)
            mixed = (one.partner for one in params[part.start : part.stop])
            partners += [index[row] for row in mixed if row is not None]
        values = [one.view for one in params]
        values += [one.partner_view for one in params if one.partner is not None]
        cropped = self._policy.crop_batch(images, which + partners, values)
        return DeferredViews(self._policy, cropped, params)

    def _cache_pictures(self, part: ImagePart) -> None:
        if part.pictures is not None:
            self._cached = {
                row: self._upload(picture).permute(2, 0, 1)
                for row, picture in part.pictures.items()
            }

    def _upload(self, tensor: torch.Tensor) -> torch.Tensor:
        return tensor.to(self._device, non_blocking=self._stream is not None)

    def _check(self, parts: Sequence[ImagePart], params: Sequence[AugmentParams]) -> None:
        part = parts[0]
        assert part.pictures is not None, "a shard begins with an image"
        pictures: dict[Any, Any] = {r: p.numpy() for r, p in part.pictures.items()} | {None: None}
        some = params[part.start : min(part.stop, part.start + _CHECKED_VIEWS)]
        expected = [self._policy.apply(pictures[part.row], p, pictures[p.partner]) for p in some]
        only = part._replace(stop=part.start + len(some))
        found = self._begin([only], some).to(self._device).cpu()
        differing = int((torch.stack(expected) != found).flatten(1).any(1).sum())
        if differing:
            raise DeviceMismatchError(
                f"{differing} of {len(some)} views computed on {self._device} differ from the "
                f"CPU's, which define the policy; make the views in the workers: "
                f"dr-plugins reinforce --views-on workers, or reinforce(..., views_on='workers')"
            )
