"""Running a model over a set of images, unless that was done before."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from PIL import Image
from torch import nn
from torch.utils.data import DataLoader, Dataset
from tqdm import tqdm

from dr_plugins.errors import EvaluationError, ImageReadError
from dr_plugins.evaluation.image_set import ImageSet
from dr_plugins.evaluation.results import SetResult, read_result, result_path, write_result
from dr_plugins.metrics import ImageScores, fit_temperature
from dr_plugins.utils.workers import alive, noticing_dead_workers

_VERSION = 1  # of what results mean; another one makes all of them again
_logger = logging.getLogger(__name__)


@dataclass
class ModelUnderTest:
    """A classifier with its preprocessing.

    Attributes:
        name: Shown in reports; names the directory of its results.
        network: From images ``[B, 3, H, W]`` to logits ``[B, C]``.
        transform: Makes a tensor ``[3, H, W]`` of an RGB image.
        whole_transform: The same without cropping, for images that are cropped already.
        identity: What decides the answers: a digest of the weights (``weights``), and the
            preprocessing. As JSON.

    Example:
        >>> model = ModelUnderTest(
        ...     "a", network, transform, transform, {"weights": "1f3a"})    # doctest: +SKIP
    """

    name: str
    network: nn.Module
    transform: Callable[[Image.Image], torch.Tensor]
    whole_transform: Callable[[Image.Image], torch.Tensor]
    identity: dict[str, Any]
    _last: tuple[ImageSet, torch.Tensor] | None = field(default=None, repr=False)


def evaluate(
    model: ModelUnderTest,
    images: ImageSet,
    out: Path,
    *,
    device: str = "cpu",
    batch_size: int = 128,
    workers: int = 0,
    bf16: bool = False,
    progress: bool = False,
) -> SetResult:
    """Evaluate a model on a set, or read its result if there is one of the same model and images.

    Args:
        model: Its network is moved to the device.
        images: See `find_sets`.
        out: Directory of the results; each is a file ``MODEL/SET.safetensors``.
        device: Of the network.
        batch_size: Images per forward pass.
        workers: Processes that read images; 0 reads them in this one.
        bf16: Run the network in bfloat16 mixed precision.
        progress: Show a progress bar.

    Returns:
        The scores of each image, as they are and with temperature scaling.

    Raises:
        EvaluationError: The model has other classes than the set, or gives values that are not
            finite.
        ImageReadError: An image cannot be read.
        WorkerError: A process that reads images died.

    Example:
        >>> result = evaluate(model, images, Path("results"), device="cuda")  # doctest: +SKIP
        >>> result.scores.metrics()["top1"]                                 # doctest: +SKIP
        0.7613
    """
    identity = {
        "version": _VERSION,
        **model.identity,
        "precision": "bfloat16" if bf16 else "float32",
        "model": model.name,
        "set": images.name,
        "keys": images.key_digest(),
        "images": images.digest(),
    }
    path = result_path(out, model.name, images.name)
    result = read_result(path, identity, images)
    if result is not None:
        _logger.info("%s on %s: done before", model.name, images.name)
        return result
    logits = _known_logits(model, images)
    if logits is None:
        logits = _predict(model, images, device, batch_size, workers, bf16, progress)
        model._last = (images, logits)
    if images.classes is not None:
        logits = logits[:, list(images.classes)]
    scaled, temperatures = _scaled_scores(logits, images.labels)
    result = SetResult(
        model.name,
        images.name,
        ImageScores.of(logits, images.labels),
        scaled,
        temperatures,
        images.expected,
        identity,
    )
    write_result(path, result)
    return result


def _known_logits(model: ModelUnderTest, images: ImageSet) -> torch.Tensor | None:
    """Rows of the last set's logits, if that had the same images, as ImageNet and ReaL have."""
    if model._last is None:
        return None
    last, logits = model._last
    if (last.root, last.edit_name, last.whole) != (images.root, images.edit_name, images.whole):
        return None
    row_of = {key: row for row, key in enumerate(last.files)}
    if not row_of.keys() >= set(images.files):
        return None
    return logits[[row_of[key] for key in images.files]]


def _scaled_scores(
    logits: torch.Tensor, labels: torch.Tensor
) -> tuple[ImageScores, tuple[float, float]]:
    """Scores of each half of the images with the temperature of the other half."""
    halves = [torch.arange(start, len(logits), 2) for start in (0, 1)]
    if not len(halves[1]):
        return ImageScores.of(logits, labels), (1.0, 1.0)
    first, second = (fit_temperature(logits[half], labels[half]) for half in halves)
    temperature = logits.new_empty(len(logits), 1)
    temperature[halves[0]], temperature[halves[1]] = second, first
    return ImageScores.of(logits / temperature, labels), (first, second)


class _Batches(Dataset[Any]):
    """Batches of tensors, or the error of an image; raised in a worker, it would be a traceback."""

    def __init__(self, images: ImageSet, transform: Callable[[Image.Image], torch.Tensor]) -> None:
        self.images, self.transform = images, transform

    def __len__(self) -> int:
        return len(self.images)

    def __getitems__(self, indices: Sequence[int]) -> torch.Tensor | ImageReadError:
        try:
            return torch.stack([self.transform(self.images.load(index)) for index in indices])
        except ImageReadError as error:
            return error


def _predict(
    model: ModelUnderTest,
    images: ImageSet,
    device: str,
    batch_size: int,
    workers: int,
    bf16: bool,
    progress: bool,
) -> torch.Tensor:
    """Logits of all images, float32 ``[N, C]``, on the CPU."""
    transform = model.whole_transform if images.whole else model.transform
    on_cuda = torch.device(device).type == "cuda"
    loader = DataLoader(
        _Batches(images, transform),
        batch_size,
        num_workers=workers,
        pin_memory=on_cuda,
        collate_fn=_as_it_is,
    )
    network = model.network.to(device).eval()
    autocast = torch.autocast(torch.device(device).type, torch.bfloat16, enabled=bf16)
    logits = torch.empty(len(images), images.num_classes)
    done = 0
    with (
        torch.inference_mode(),
        autocast,
        tqdm(
            total=len(images), desc=f"{model.name}: {images.name}", unit="img", disable=not progress
        ) as bar,
        noticing_dead_workers(),
    ):
        for batch in alive(loader):
            if isinstance(batch, ImageReadError):
                raise batch
            answer = network(batch.to(device, non_blocking=True)).float().cpu()
            _check_answer(answer, model, images, done)
            logits[done : done + len(answer)] = answer
            done += len(answer)
            bar.update(len(answer))
    return logits


def _as_it_is(batch: Any) -> Any:
    return batch


def _check_answer(
    answer: torch.Tensor, model: ModelUnderTest, images: ImageSet, start: int
) -> None:
    if answer.ndim != 2 or answer.shape[1] != images.num_classes:
        # Published sets take no class map.
        few = "if the folder lacks some of its classes, list them all in a class map (--class-map)"
        raise EvaluationError(
            f"{model.name} answers with shape {list(answer.shape)}, but {images.name} "
            f"({images.root}) has labels of {images.num_classes} classes; expected logits "
            f"[B, {images.num_classes}]. Evaluate a model that was trained on these classes"
            + (f"; {few}" if images.name.startswith("folder") else "")
        )
    broken = (~answer.isfinite()).any(dim=1).nonzero()
    if len(broken):
        key = images.files[start + int(broken[0])]
        raise EvaluationError(
            f"{model.name} gives values that are not finite for {images.root / key}; the weights "
            f"are damaged, or the precision is too low"
        )
