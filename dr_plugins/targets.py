"""Sparse soft targets: the teacher's top-k probabilities of a batch, used like a tensor."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any, TypeVar

import torch
from torch import Tensor

from dr_plugins.utils.html import html_table

_SHOWN_SAMPLES, _SHOWN_CLASSES = 8, 5  # in notebooks
_Function = TypeVar("_Function", bound=Callable[..., Tensor])


class SparseTargets:
    """The `k` listed class probabilities of each sample in a batch, or of a single sample.

    Immutable. An id of -1 is padding and its probability is ignored, so one-hot and top-k rows can
    share a batch. The listed probabilities are used unchanged, unless they sum to more than 1
    (rounding) or list every class: then they are divided by their sum. `densify` selects the
    probability of classes that are not listed:

    - "smooth": an equal share of the remaining mass. A row of zeros is uniform over them.
    - "zeros": zero, and the listed probabilities are divided by their sum. A row of zeros stays
      zero and contributes nothing to a loss. (With either rule, so does a row of zeros that lists
      every class.)

    `torch.nn.functional.cross_entropy(logits, targets)`, and therefore
    `torch.nn.CrossEntropyLoss()`, computes the soft-target cross-entropy; every other torch
    function raises `TypeError`. A loss whose temperature differs from that of the targets raises
    `ValueError`.

    Args:
        ids: class ids in [-1, num_classes), integers, [B, k], or [k] for a single sample.
            A class occurs at most once per row.
        probs: probabilities, finite and >= 0, same shape as `ids`. Stored as float32.
        labels: ground-truth classes in [-1, num_classes), [B], or a scalar for a single sample.
            -1, the default, means unknown or not defined (mixed images).
        num_classes: number of classes C, >= 1. Must be given.
        densify: "smooth" or "zeros".
        temperature: divisor of the teacher's logits before its softmax, finite and > 0;
            None, the default, means unknown, and is accepted by every loss.
        extras: further parts of the teacher's answer by name, one row per sample, [B, ...], or
            [...] for a single sample; for losses that read them.

    Raises:
        ValueError: if a value or a shape breaks these rules. The check synchronises with a GPU;
            `unchecked` skips it.
        TypeError: if `ids` or `labels` are not integers, or `probs` not floating point.

    Example:
        >>> targets = SparseTargets([[2, 0], [1, -1]], [[0.7, 0.2], [1.0, 0.0]], num_classes=4)
        >>> targets.dense()
        tensor([[0.2000, 0.0500, 0.7000, 0.0500],
                [0.0000, 1.0000, 0.0000, 0.0000]])
    """

    # Not a tuple or dataclass: libraries unpack those and rebuild them from their tensors.
    __slots__ = ("densify", "extras", "ids", "labels", "num_classes", "probs", "temperature")

    ids: Tensor
    probs: Tensor
    labels: Tensor
    num_classes: int
    densify: str
    temperature: float | None
    extras: Mapping[str, Tensor]

    def __init__(
        self,
        ids: Any,
        probs: Any,
        labels: Any = None,
        num_classes: int = 0,
        densify: str = "smooth",
        temperature: float | None = None,
        extras: Mapping[str, Any] | None = None,
    ) -> None:
        ids, probs = _integers("ids", ids), torch.as_tensor(probs)
        if not probs.is_floating_point():
            raise TypeError(f"probs have dtype {probs.dtype}, expected probabilities: pass floats")
        labels = ids.new_full(ids.shape[:-1], -1) if labels is None else _integers("labels", labels)
        if num_classes < 1:
            raise ValueError(f"num_classes is {num_classes}, expected >= 1: pass num_classes=")
        _check_method(densify)
        if temperature is not None:
            check_temperature(temperature)
        probs = probs.to(torch.float32)
        _check_shapes(ids, probs, labels)
        _check_range("ids", ids, -1, num_classes)
        _check_range("labels", labels, -1, num_classes)
        _check_rows(ids, probs)
        extras = {name: torch.as_tensor(values) for name, values in (extras or {}).items()}
        _check_extras(ids, extras)
        self._assign(ids, probs, labels, num_classes, densify, temperature, extras)

    def _assign(self, *fields: Any) -> None:
        for name, value in zip(_FIELDS, fields, strict=True):
            object.__setattr__(self, name, value)

    def __setattr__(self, name: str, value: Any) -> None:
        raise AttributeError(f"SparseTargets are immutable, cannot set {name!r}: build new ones")

    @classmethod
    def unchecked(
        cls,
        ids: Tensor,
        probs: Tensor,
        labels: Tensor,
        num_classes: int,
        densify: str = "smooth",
        temperature: float | None = None,
        extras: Mapping[str, Tensor] | None = None,
    ) -> SparseTargets:
        """Build from valid int64, float32 and int64 tensors without checking them."""
        self = object.__new__(cls)
        self._assign(ids, probs, labels, num_classes, densify, temperature, extras or {})
        return self

    def _replace(
        self, ids: Tensor, probs: Tensor, labels: Tensor, extras: Mapping[str, Tensor]
    ) -> SparseTargets:
        settings = (self.num_classes, self.densify, self.temperature)
        return self.unchecked(ids, probs, labels, *settings, extras)

    def _map(self, change: Callable[[Tensor], Tensor]) -> SparseTargets:
        ids, probs, labels = (change(tensor) for tensor in (self.ids, self.probs, self.labels))
        extras = {name: change(tensor) for name, tensor in self.extras.items()}
        return self._replace(ids, probs, labels, extras)

    def __reduce__(self) -> tuple[Callable[..., SparseTargets], tuple[Any, ...]]:
        return SparseTargets.unchecked, tuple(getattr(self, name) for name in _FIELDS)

    @classmethod
    def one_hot(
        cls,
        labels: Any,
        num_classes: int,
        k: int = 1,
        densify: str = "smooth",
        temperature: float | None = None,
    ) -> SparseTargets:
        """Put all mass on the label, padded to `k` entries to stack with top-k samples.

        Args:
            labels: classes in [0, num_classes), [B], or a scalar for a single sample.
            num_classes: number of classes.
            k: entries per row, >= 1.
            densify: "smooth" or "zeros".
            temperature: temperature of the top-k samples in the same batch.

        Raises:
            ValueError: if a label is not a class, or `k` < 1.

        Example:
            >>> SparseTargets.one_hot([3, 1], num_classes=5, k=2).ids
            tensor([[ 3, -1],
                    [ 1, -1]])
        """
        labels = _integers("labels", labels)
        if k < 1:
            raise ValueError(f"k is {k}, expected at least 1: a row needs room for its label")
        _check_range("labels", labels, 0, num_classes)
        ids = labels.new_full((*labels.shape, k), -1)
        ids[..., 0] = labels
        probs = (ids >= 0).to(torch.float32)
        return cls(ids, probs, labels, num_classes, densify, temperature)

    @classmethod
    def stack(cls, samples: Iterable[SparseTargets]) -> SparseTargets:
        """Collate single samples into a batch.

        Raises:
            ValueError: if `samples` is empty, contains a batch, or the samples differ in `k`,
                `num_classes`, `densify`, `temperature` or the names of `extras`.
        """
        samples = list(samples)
        kinds = {
            (tuple(s.ids.shape), s.num_classes, s.densify, s.temperature, tuple(s.extras))
            for s in samples
        }
        if len(kinds) != 1 or samples[0].ids.dim() != 1:
            raise ValueError(
                f"cannot stack (ids shape, num_classes, densify, temperature, extras) "
                f"{sorted(kinds, key=str)}, expected single samples that agree: pad rows with id "
                f"-1 or SparseTargets.one_hot(..., k=), and load each shard set separately"
            )
        ids, probs, labels = (
            torch.stack([getattr(s, name) for s in samples]) for name in ("ids", "probs", "labels")
        )
        names = samples[0].extras
        extras = {name: torch.stack([s.extras[name] for s in samples]) for name in names}
        return samples[0]._replace(ids, probs, labels, extras)

    def normalized(
        self, method: str | None = None, dtype: torch.dtype = torch.float32
    ) -> tuple[Tensor, Tensor]:
        """Return the probabilities of `dense` in sparse form.

        Args:
            method: "smooth" or "zeros"; None means `densify`.
            dtype: floating-point type to compute in.

        Returns:
            The probability of every listed class, 0 for padding, [B, k]; and the probability of
            each class that is not listed, [B, 1].
        """
        valid = self.ids >= 0
        probs = torch.where(valid, self.probs.to(dtype), 0.0)
        total = probs.sum(-1, keepdim=True)
        if _check_method(method or self.densify) == "zeros":
            return probs / torch.where(total > 0, total, 1.0), torch.zeros_like(total)
        unlisted = self.num_classes - valid.sum(-1, keepdim=True)
        full = (total > 1) | (unlisted == 0)
        share = torch.where(full, 0.0, (1 - total) / unlisted.clamp(min=1))
        return probs / torch.where(full & (total > 0), total, 1.0), share

    def dense(self, method: str | None = None) -> Tensor:
        """Probabilities of all classes, float32 [B, num_classes]; see `normalized`."""
        probs, share = self.normalized(method)
        # Padding is scattered into an extra column.
        slots = torch.where(self.ids < 0, self.num_classes, self.ids)
        out = share.expand(*share.shape[:-1], self.num_classes + 1).clone()
        return out.scatter_(-1, slots, probs)[..., :-1].contiguous()

    def to(self, *args: Any, **kwargs: Any) -> SparseTargets:
        """Move, with the arguments of `torch.Tensor.to`; a dtype changes only `probs`.

        Raises:
            TypeError: if the dtype is not floating point, which would truncate probabilities.
        """
        probs = self.probs.to(*args, **kwargs)
        if not probs.is_floating_point():
            raise TypeError(f"cannot hold probs as {probs.dtype}: leave out the dtype")
        flags = [a for a in args if isinstance(a, bool)]
        kept = {"non_blocking": kwargs.get("non_blocking", flags[0] if flags else False)}
        ids, labels = self.ids.to(probs.device, **kept), self.labels.to(probs.device, **kept)
        extras = {name: tensor.to(probs.device, **kept) for name, tensor in self.extras.items()}
        return self._replace(ids, probs, labels, extras)

    def cpu(self) -> SparseTargets:
        """Move to the CPU."""
        return self.to("cpu")

    def cuda(self, device: Any = None, non_blocking: bool = False) -> SparseTargets:
        """Move to a GPU, by default the current one."""
        if isinstance(device, int):  # alone, a number asks torch 2.6 for a GPU already here
            device = torch.device("cuda", device)
        return self.to(torch.device(device or "cuda"), non_blocking=non_blocking)

    def pin_memory(self) -> SparseTargets:
        """Copy to page-locked memory."""
        return self._map(Tensor.pin_memory)

    def is_pinned(self) -> bool:
        """Whether all tensors are in page-locked memory."""
        tensors = (self.ids, self.probs, self.labels, *self.extras.values())
        return all(tensor.is_pinned() for tensor in tensors)

    @property
    def device(self) -> torch.device:
        """Where the tensors are."""
        return self.probs.device

    @property
    def shape(self) -> torch.Size:
        """Shape of `dense()`: [B, num_classes], or [num_classes] for a single sample."""
        return torch.Size((*self.ids.shape[:-1], self.num_classes))

    def size(self, dim: int | None = None) -> torch.Size | int:
        """`shape`, or one entry of it."""
        return self.shape if dim is None else self.shape[dim]

    def __len__(self) -> int:
        if self.ids.dim() == 1:
            raise TypeError("a single sample has no len(): collate with SparseTargets.stack")
        return self.ids.shape[0]

    def __getitem__(self, index: Any) -> SparseTargets:
        """Select rows: an int returns a single sample; a slice, list or 1-d tensor, a batch."""
        if self.ids.dim() == 1:
            raise TypeError("a single sample has no rows: collate with SparseTargets.stack")
        odd = index is None or index is ... or isinstance(index, (tuple, bool))
        if odd or getattr(index, "ndim", 0) > 1:
            raise TypeError(f"expected an index of rows, got {index!r}: use .dense() for classes")
        return self._map(lambda tensor: tensor[index])

    def __repr__(self) -> str:
        batch = f"batch={len(self)}, " if self.ids.dim() > 1 else ""
        extras = f"extras={list(self.extras)}, " if self.extras else ""
        return (
            f"SparseTargets({batch}k={self.ids.shape[-1]}, num_classes={self.num_classes}, "
            f"densify={self.densify!r}, temperature={self.temperature}, {extras}"
            f"device={str(self.device)!r})"
        )

    def _repr_html_(self) -> str:
        """The most probable classes of the first samples, for notebooks."""
        k = self.ids.shape[-1]
        ids, probs = self.ids.reshape(-1, k).cpu(), self.probs.reshape(-1, k).cpu()
        rows = []
        for number, label in enumerate(self.labels.reshape(-1)[:_SHOWN_SAMPLES].tolist()):
            order = probs[number].argsort(descending=True)[:_SHOWN_CLASSES]
            listed = zip(ids[number, order].tolist(), probs[number, order].tolist(), strict=True)
            answer = ", ".join(f"{c}: {p:.3f}" for c, p in listed if c >= 0)
            rows.append([str(number), "" if label < 0 else str(label), answer])
        if len(ids) > len(rows):
            rows.append(["...", "", ""])
        return html_table(repr(self), rows, ["sample", "label", "most probable classes"])

    @classmethod
    def __torch_function__(
        cls, func: Any, types: Sequence[type], args: tuple[Any, ...] = (), kwargs: Any = None
    ) -> Tensor:
        if func in _IMPLEMENTED:
            return _IMPLEMENTED[func](*args, **(kwargs or {}))
        name = getattr(func, "__name__", repr(func))
        raise TypeError(f"{name}() does not take SparseTargets: {_INSTEAD}")

    def __getattr__(self, name: str) -> Any:
        # Called for tensor attributes that are not supported: argmax, eq, ndim, reshape, long, ...
        raise AttributeError(f"SparseTargets have no {name!r}: {_INSTEAD}")

    # Without this, Python compares identities once torch and numpy return NotImplemented.
    def __eq__(self, other: object) -> bool:
        raise TypeError(f"SparseTargets cannot be compared: {_INSTEAD}")

    __ne__ = __eq__
    __hash__ = object.__hash__
    __array_ufunc__ = None

    def __array__(self, *_: Any, **__: Any) -> Any:
        raise TypeError(f"SparseTargets cannot become an array: {_INSTEAD}")


def _refuse_operator(name: str) -> Callable[..., Any]:
    def operator(self: SparseTargets, *_: Any) -> Any:
        raise TypeError(f"{name} does not take SparseTargets: {_INSTEAD}")

    return operator


for _name in ("add", "sub", "mul", "truediv", "matmul"):
    for _operator in (f"__{_name}__", f"__r{_name}__"):
        setattr(SparseTargets, _operator, _refuse_operator(_operator))
for _operator in ("__neg__", "__lt__", "__le__", "__gt__", "__ge__"):
    setattr(SparseTargets, _operator, _refuse_operator(_operator))

_INSTEAD = (
    "use targets.labels for the classes (-1 where an image is mixed), targets.dense() for the "
    "probabilities of all classes"
)

# torch functions that accept SparseTargets, with their implementations; see `implements`.
_IMPLEMENTED: dict[Any, Callable[..., Tensor]] = {}

_FIELDS = ("ids", "probs", "labels", "num_classes", "densify", "temperature", "extras")


def implements(torch_function: Any) -> Callable[[_Function], _Function]:
    """Register the decorated function as `torch_function` of `SparseTargets`."""

    def register(function: _Function) -> _Function:
        _IMPLEMENTED[torch_function] = function
        return function

    return register


def check_temperature(temperature: float) -> None:
    """Raise ValueError unless it is a finite number > 0."""
    if not (temperature > 0 and math.isfinite(temperature)):
        raise ValueError(f"temperature is {temperature}, expected a number > 0: try 1.0")


def _integers(name: str, values: Any) -> Tensor:
    tensor = torch.as_tensor(values)
    if tensor.dtype.is_floating_point or tensor.dtype.is_complex or tensor.dtype == torch.bool:
        raise TypeError(f"{name} have dtype {tensor.dtype}, expected class numbers: pass integers")
    return tensor.to(torch.int64)


def _check_method(method: str) -> str:
    if method not in ("smooth", "zeros"):
        raise ValueError(f"densify is {method!r}, expected 'smooth' or 'zeros': pass one of them")
    return method


def _check_shapes(ids: Tensor, probs: Tensor, labels: Tensor) -> None:
    if ids.dim() not in (1, 2) or ids.shape[-1] == 0:
        raise ValueError(
            f"ids have shape {tuple(ids.shape)}, expected [B, k] or [k] with k >= 1: "
            "reshape them, or pad with id -1"
        )
    if probs.shape != ids.shape or labels.shape != ids.shape[:-1]:
        raise ValueError(
            f"probs have shape {tuple(probs.shape)} and labels {tuple(labels.shape)}, expected "
            f"{tuple(ids.shape)} and {tuple(ids.shape[:-1])} to match ids: pass one entry for each"
        )


def _check_extras(ids: Tensor, extras: Mapping[str, Tensor]) -> None:
    for name, tensor in extras.items():
        if tensor.shape[: ids.dim() - 1] != ids.shape[:-1]:
            raise ValueError(
                f"extras[{name!r}] has shape {tuple(tensor.shape)}, expected it to start with "
                f"{tuple(ids.shape[:-1])} to match ids: pass one row for each sample"
            )


def _check_range(name: str, values: Tensor, low: int, num_classes: int) -> None:
    outside = values[(values < low) | (values >= num_classes)]
    if outside.numel():
        raise ValueError(
            f"{name} hold {int(outside[0])}, expected [{low}, {num_classes}): check that "
            "num_classes and the class order match the teacher"
        )


def _check_rows(ids: Tensor, probs: Tensor) -> None:
    listed = probs[ids >= 0]
    bad = listed[~(listed.isfinite() & (listed >= 0))]
    if bad.numel():
        raise ValueError(
            f"probs hold {float(bad[0])}, expected finite values >= 0: apply softmax to logits"
        )
    # A top-k never lists a class twice, and merging entries would slow down every training step.
    ordered = ids.sort(-1).values
    twice = ordered[..., 1:][(ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] >= 0)]
    if twice.numel():
        raise ValueError(
            f"ids list class {int(twice[0])} twice in a row, expected once: add its probabilities"
        )
