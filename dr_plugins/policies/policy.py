"""A policy: its transforms, their order, and how their parameters are stored.

The order is fixed and follows the code of Faghri et al., 2023: resize, crops, flip, RandAugment,
erasing, then mixing with another image's view.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import takewhile
from os import PathLike
from typing import Any, NamedTuple, cast

import numpy as np
import torch

from dr_plugins.errors import PolicyError
from dr_plugins.images.decoding import Picture
from dr_plugins.policies.config import read_policy
from dr_plugins.policies.view_geometry import ViewGeometry
from dr_plugins.records import NO_PARTNER, Field
from dr_plugins.transforms import (
    AnyImage,
    CenterCrop,
    CropTransform,
    CutMix,
    Mixing,
    Mixup,
    RandAugment,
    RandomCrop,
    RandomErasing,
    RandomHorizontalFlip,
    RandomResizedCrop,
    Resize,
    Transform,
    ViewTransform,
)
from dr_plugins.transforms.base import Size
from dr_plugins.transforms.kernels import pil, tensor
from dr_plugins.transforms.kernels.pillow_order import pillow_order

BACKENDS = {"pil": pil, "tensor": tensor}
_VIEW: tuple[type[Transform], ...] = (
    Resize,
    CenterCrop,
    RandomCrop,
    RandomResizedCrop,
    RandomHorizontalFlip,
    RandAugment,
    RandomErasing,
)
_MIXING: tuple[type[Mixing], ...] = (Mixup, CutMix)


class AugmentParams(NamedTuple):
    """Parameters of one augmented view, as plain numbers.

    Attributes:
        view: One entry per transform that has parameters.
        partner: Row of the partner; None without mixing.
        partner_view: Like `view`, for the partner's view; empty if `partner` is None.
        mixing: One entry per mixing; empty if `partner` is None.
    """

    view: Sequence[Any]
    partner: int | None = None
    partner_view: Sequence[Any] = ()
    mixing: Sequence[Any] = ()


@dataclass(frozen=True)
class Policy:
    """Transforms of a view, mixings of two views, and the backend that computes them.

    Attributes:
        transforms: In the order in which they are applied.
        mixings: Applied after the transforms, to uint8 tensors.
        backend: ``"pil"`` (Pillow's resampling; the default) or ``"tensor"`` (torch's: faster,
            equal within rounding). All other operations are bit-identical in both.

    Example:
        >>> policy = Policy.load("randaug", size=64)
        >>> [field.name for field in policy.fields]
        ['crop', 'flip', 'ops', 'erase']
        >>> params = policy.sample(np.random.default_rng(0), (375, 500))
        >>> policy.apply(np.zeros((375, 500, 3), np.uint8), params).shape
        torch.Size([3, 64, 64])
    """

    transforms: tuple[Transform, ...]
    mixings: tuple[Mixing, ...] = ()
    backend: str = "pil"

    def __post_init__(self) -> None:
        if self.backend not in list(BACKENDS):
            raise PolicyError(f"backend is {self.backend!r}; expected one of {sorted(BACKENDS)}")
        if not any(t.decides_size for t in self.transforms):
            choice = ", ".join(t.name for t in _VIEW if t.decides_size)
            raise PolicyError(
                f"the policy ({', '.join(t.name for t in self.transforms) or 'empty'}) does not "
                f"determine the size of its views; add one of {choice}"
            )

    @classmethod
    def load(
        cls,
        name_or_path: str | PathLike[str],
        *,
        size: int | None = None,
        backend: str | None = None,
    ) -> Policy:
        """Load a preset by name, or a policy from a YAML file.

        A file lists transforms with their hyper-parameters. With ``preset: NAME`` it extends that
        preset: its entries replace single hyper-parameters, and ``null`` removes a transform.

        Args:
            name_or_path: A preset, see `preset_names`, or the path of a ``.yaml`` file.
            size: Overrides the side of the views, in pixels.
            backend: Overrides the backend.

        Raises:
            PolicyError: The file is unreadable, or the preset, a transform or a hyper-parameter is
                unknown.
        """
        config = read_policy(str(name_or_path))
        if size is not None:
            config = {k: {**v, "size": size} if _takes_size(v) else v for k, v in config.items()}
        if backend is not None:
            config["backend"] = backend
        return cls.from_config(config)

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> Policy:
        """Build a policy from plain data, ``{transform name: {hyper-parameter: value}}``.

        Raises:
            PolicyError: A transform or hyper-parameter is unknown, or a value is out of range.
        """
        known: dict[str, Any] = {t.name: t for t in _VIEW} | {t.name: t for t in _MIXING}
        unknown = set(config) - set(known) - {"backend"}
        if unknown:
            raise PolicyError(
                f"unknown transforms in the policy: {sorted(map(str, unknown))}; expected some of "
                f"{sorted(known)} and `backend`"
            )
        built = {n: _build(known[n], config[n]) for n in known if config.get(n) is not None}
        return cls(
            tuple(built[t.name] for t in _VIEW if t.name in built),
            tuple(built[t.name] for t in _MIXING if t.name in built),
            config.get("backend", "pil"),
        )

    def to_config(self) -> dict[str, Any]:
        """Return the policy as plain data with every hyper-parameter; see `from_config`."""
        parts: tuple[Any, ...] = (*self.transforms, *self.mixings)
        described = {
            t.name: {k: list(v) if isinstance(v, tuple) else v for k, v in vars(t).items()}
            for t in parts
        }
        return {"backend": self.backend, **described}

    @cached_property
    def fields(self) -> tuple[Field, ...]:
        """Record fields of the parameters, in byte order."""
        view = tuple(t.field for t in self._parametric)
        if not self.mixings:
            return view
        partner = tuple(dataclasses.replace(f, name=f"partner_{f.name}") for f in view)
        return (*view, Field("partner", "<u4"), *partner, *(m.field for m in self.mixings))

    @cached_property
    def view_size(self) -> Size:
        """(height, width) of the views, in pixels."""
        size = (1 << 14, 1 << 14)  # large enough for any crop; crops determine the size
        for transform in self.transforms:
            size = transform.output_size(size)
        return size

    @cached_property
    def _parametric(self) -> list[Any]:
        return [t for t in self.transforms if t.field is not None]

    def sample(
        self, rng: np.random.Generator, size: Size, partners: Sequence[tuple[int, Size]] = ()
    ) -> AugmentParams:
        """Draw the parameters of one augmented view.

        Args:
            rng: Source of randomness.
            size: (height, width) of the image.
            partners: (row, (height, width)) of the images that may be mixed in; if empty, nothing
                is mixed.
        """
        view = self._sample_view(rng, size)
        if not self.mixings or not partners:
            return AugmentParams(view)
        mixing = [m.sample(rng, self.view_size) for m in self.mixings]
        if mixing == [m.unmixed for m in self.mixings]:
            return AugmentParams(view)
        row, partner_size = partners[int(rng.integers(len(partners)))]
        return AugmentParams(view, row, self._sample_view(rng, partner_size), mixing)

    def _sample_view(self, rng: np.random.Generator, size: Size) -> list[Any]:
        view = []
        for transform in self.transforms:
            params = transform.sample(rng, size)
            if transform.field is not None:
                view.append(params)
            size = transform.output_size(size)
        return view

    def encode(self, params: AugmentParams, record: np.void) -> None:
        """Store parameters in a record, in place.

        Raises:
            PolicyError: A value does not fit its field (images are limited to 65,535 pixels).
        """
        values = list(params.view)
        if self.mixings:
            if params.partner is None:
                unmixed = [m.unmixed for m in self.mixings]
                params = AugmentParams(params.view, NO_PARTNER, self.blank_view(), unmixed)
            values += [params.partner, *params.partner_view, *params.mixing]
        try:
            for field, value in zip(self.fields, values, strict=True):
                record[field.name] = _stored(field, value)
        except (OverflowError, ValueError) as error:
            raise PolicyError(
                f"parameters {params} do not fit a record: {error}. Downscale images of more than "
                f"65,535 pixels a side first."
            ) from error

    def blank_view(self) -> list[Any]:
        """Return zero parameters, with which `augment` changes nothing."""
        return [np.zeros(t.field.shape, t.field.dtype) for t in self._parametric]

    def decode(self, records: np.ndarray) -> list[AugmentParams]:
        """Read parameters back from records ``[B]``; the inverse of `encode`."""
        rows = zip(*(records[field.name].tolist() for field in self.fields), strict=True)
        count = len(self._parametric)
        if not self.mixings:
            return [AugmentParams(row) for row in rows]
        return [
            AugmentParams(row[:count])
            if row[count] == NO_PARTNER
            else AugmentParams(
                row[:count], row[count], row[count + 1 : 2 * count + 1], row[2 * count + 1 :]
            )
            for row in rows
        ]

    def is_mixed(self, records: np.ndarray) -> np.ndarray:
        """Return which records mix in another image: booleans of the shape of `records`."""
        if not self.mixings:
            return np.zeros(records.shape, bool)
        return records["partner"] != NO_PARTNER

    def apply(
        self, image: Picture, params: AugmentParams, partner: Picture | None = None
    ) -> torch.Tensor:
        """Compute an augmented view, for teacher and student alike.

        Args:
            image: RGB PIL image, or its pixels as uint8 ``[height, width, 3]``; PIL images are
                faster with the backend ``"pil"``, pixels with ``"tensor"``.
            params: From `sample` or `decode`.
            partner: Image of row ``params.partner``; required if that is not None.

        Returns:
            uint8 ``[3, H, W]`` with (H, W) = `view_size`.
        """
        view = self._view(self.transforms, image, params.view)
        if params.partner is None:
            return view
        assert partner is not None, "a mixed view needs its partner's image"
        other = self._view(self.transforms, partner, params.partner_view)
        for mixing, values in zip(self.mixings, params.mixing, strict=True):
            view = mixing.apply(view, other, values)
        return view

    def check_fit(self, params: Sequence[Any], size: Size) -> None:
        """Check that the crop of a view lies within its image.

        Args:
            params: `AugmentParams.view`, or `AugmentParams.partner_view`.
            size: (height, width) of the image.

        Raises:
            ValueError: The crop leaves the image.
        """
        for transform in self.transforms:
            if isinstance(transform, CropTransform):
                transform.check_fit(params[0], size)  # earlier transforms have no parameters
                return
            size = transform.output_size(size)

    def geometry(self, params: Sequence[Any], size: Size) -> ViewGeometry:
        """Return where a view shows the pixels of its image, without computing it.

        Args:
            params: `AugmentParams.view`; or `AugmentParams.partner_view`, for where the partner is
                before mixing.
            size: (height, width) of the image, as in `ImageInfo.size` of a shard set.

        Example:
            >>> params = policy.decode(shards.read([row], [17]))[0]        # doctest: +SKIP
            >>> size = shards.image(row).size                              # doctest: +SKIP
            >>> geometry = policy.geometry(params.view, size)              # doctest: +SKIP
            >>> draw.polygon([tuple(p) for p in geometry.outline()])       # doctest: +SKIP
        """
        steps, frame, values = [], size, iter(params)
        for transform in self.transforms:
            value = next(values) if transform.field is not None else None
            output = transform.output_size(frame)
            steps += [(matrix, output) for matrix in transform.matrices(value, frame)]
            frame = output
        return ViewGeometry(size, tuple(steps))

    def crop(self, image: Picture, params: Sequence[Any]) -> torch.Tensor:
        """Compute the operations that need the whole image: resizing and cropping.

        Followed by `augment` and `mix`, the result is bit-identical to `apply`.

        Args:
            image: See `apply`.
            params: `AugmentParams.view`, or `AugmentParams.partner_view`.

        Returns:
            uint8 ``[3, H, W]`` with (H, W) = `view_size`.
        """
        return self._view(self._leading, image, params)

    def crop_batch(
        self,
        images: Sequence[torch.Tensor],
        which: Sequence[int],
        params: Sequence[Sequence[Any]],
    ) -> torch.Tensor:
        """Compute `crop` for a batch of views on any device, with identical bits.

        Requires `has_batches`.

        Args:
            images: uint8 ``[3, height, width]`` of any sizes, on one device.
            which: Index of the image of each view, ``[B]``.
            params: The parameters of `crop` for each view.

        Returns:
            uint8 ``[B, 3, H, W]`` on the same device.
        """
        assert self.has_batches
        columns = zip(*params, strict=True)
        views: torch.Tensor | None = None
        for transform in self._leading:  # transforms without parameters come first, see `_VIEW`
            if isinstance(transform, CropTransform):
                images = images if views is None else views.unbind()
                column = np.asarray(next(columns))
                views = transform.crop_batch(images, which, column, self.backend)
                which = range(len(views))
            else:
                images = [transform.apply_as(image, self.backend) for image in images]
        return torch.stack([images[index] for index in which]) if views is None else views

    def augment(self, views: torch.Tensor, params: Sequence[Sequence[Any]]) -> torch.Tensor:
        """Compute the remaining operations of a batch after `crop`: flips, RandAugment, erasing.

        Args:
            views: uint8 ``[B, 3, H, W]`` on any device.
            params: The parameters of `crop` for each view.

        Returns:
            uint8 ``[B, 3, H, W]`` on the same device.
        """
        trailing = self.transforms[len(self._leading) :]
        first = len(self._parametric) - len(trailing)
        columns = list(zip(*params, strict=True))[first:]
        for transform, column in zip(trailing, columns, strict=True):
            views = cast(ViewTransform, transform).apply_batch(views, np.asarray(column))
        return views

    def mix(
        self, views: torch.Tensor, partners: torch.Tensor, params: Sequence[Sequence[Any]]
    ) -> torch.Tensor:
        """Mix finished views with their partners' views.

        Args:
            views: uint8 ``[B, 3, H, W]`` on any device.
            partners: uint8 ``[B, 3, H, W]`` on the same device.
            params: `AugmentParams.mixing` of each view.

        Returns:
            uint8 ``[B, 3, H, W]``.
        """
        for mixing, column in zip(self.mixings, zip(*params, strict=True), strict=True):
            views = mixing.apply_batch(views, partners, np.asarray(column))
        return views

    @property
    def takes_pixels(self) -> bool:
        """Whether `apply` is faster with an image's pixels than with a PIL image."""
        return self.backend == "tensor"

    @property
    def has_batches(self) -> bool:
        """Whether `crop_batch` supports the backend; ``"pil"`` needs a known `pillow_order`."""
        return self.backend == "tensor" or pillow_order() is not None

    @cached_property
    def _leading(self) -> tuple[Transform, ...]:
        """The transforms before the first `ViewTransform`; see `_VIEW` for the order."""
        return tuple(takewhile(lambda t: not isinstance(t, ViewTransform), self.transforms))

    def _view(
        self, transforms: Sequence[Transform], image: Picture, params: Sequence[Any]
    ) -> torch.Tensor:
        kernels = BACKENDS[self.backend]
        view: AnyImage = kernels.from_image(image)
        values = iter(params)
        for transform in transforms:
            view = transform.apply(view, next(values) if transform.field is not None else None)
        return kernels.to_uint8_chw(view)


def _stored(field: Field, value: Any) -> np.ndarray:
    exact = np.asarray(value)
    stored = exact.astype(field.dtype)
    if np.any(stored != exact):  # NumPy 1 stores numbers that are too large modulo 65,536
        raise OverflowError(f"{field.name} {value} is not a {field.dtype}")
    return stored


def _takes_size(value: Any) -> bool:
    return isinstance(value, dict) and "size" in value


def _build(kind: type[Any], values: Any) -> Any:
    try:
        return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in values.items()})
    except (TypeError, ValueError, AttributeError) as error:
        names = [f.name for f in dataclasses.fields(kind)]
        raise PolicyError(
            f"policy entry {kind.name}: {error}; its hyper-parameters are {', '.join(names)}"
        ) from error
