"""The samples of one batch, and their collation."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch.utils.data import default_collate

from dr_plugins.replay.deferred import CroppedView, DeferredViews, join
from dr_plugins.targets import SparseTargets
from dr_plugins.utils.workers import naming_shared_memory

View = torch.Tensor | CroppedView
Images = torch.Tensor | DeferredViews
Sample = tuple[View, SparseTargets]


class Samples(Sequence[Sample]):
    """Views with the targets of the batch; indexing returns a single sample.

    Args:
        views: One view per sample.
        targets: Targets of the batch.
    """

    def __init__(self, views: Sequence[View], targets: SparseTargets) -> None:
        self.views, self.targets = views, targets

    def __len__(self) -> int:
        return len(self.views)

    def __getitem__(self, index: int) -> Sample:  # type: ignore[override]  # no slices
        return self.views[index], self.targets[index]

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def collate(samples: Sequence[Sample]) -> tuple[Images, SparseTargets]:
    """Join samples into a batch; see `ReinforcedDataset.collate`."""
    if isinstance(samples, Samples):
        views, targets = samples.views, samples.targets
    else:
        views, single = zip(*samples, strict=True)
        targets = SparseTargets.stack(single)
    with naming_shared_memory():
        if isinstance(views[0], CroppedView):
            return join(views, _stack), targets  # type: ignore[arg-type]
        return _stack(views), targets  # type: ignore[arg-type]


def _stack(views: Sequence[torch.Tensor]) -> torch.Tensor:
    dtypes = {view.dtype for view in views}
    if len(dtypes) > 1:  # stacking would convert uint8 without scaling, 0 to 255
        raise TypeError(
            f"the images of a batch have different dtypes: {', '.join(map(str, dtypes))}. "
            f"`transform` makes plain images and `postprocess` stored views; both must return the "
            f"same dtype and range, such as uint8 from 0 to 255 without `postprocess`."
        )
    # Decoded pixels are channels-last; stacking in that layout copies many times faster. A few
    # plain images in another layout must not slow down the rest.
    channels_last = sum(view.ndim == 3 and view.stride(0) == 1 for view in views)
    if 2 * channels_last > len(views):
        stacked: torch.Tensor = default_collate([view.permute(1, 2, 0) for view in views])
        return stacked.permute(0, 3, 1, 2)
    return default_collate(list(views))
