"""Asking several teachers about the same views, as generation would make them."""

from __future__ import annotations

import time
from collections.abc import Mapping
from itertools import combinations

import numpy as np
import torch
from tqdm.auto import tqdm

from dr_plugins.comparison.asking import drawn, labelled_views, plan_views
from dr_plugins.comparison.results import Candidate, Pair, TeacherComparison
from dr_plugins.comparison.scores import ViewScores, rank_correlation, standard_error
from dr_plugins.errors import TeacherError
from dr_plugins.generation.teachers import Ensemble
from dr_plugins.images.sources import ImageSource
from dr_plugins.policies.policy import Policy


def compare_teachers(
    source: ImageSource,
    teachers: Mapping[str, Ensemble],
    policy: Policy,
    *,
    fraction: float = 1.0,
    samples: int = 4,
    seed: int = 0,
    device: str | torch.device = "cpu",
    batch_size: int = 64,
    workers: int = 0,
    progress: bool = False,
) -> TeacherComparison:
    """Ask teachers about the same augmented views; score each, each pair, and all together.

    A pair answers with the mean of both answers, as `Ensemble` does.

    Args:
        source: The training images.
        teachers: By name.
        policy: Makes the views, without mixing: a mixed view has no label.
        fraction: Share of the images to ask about, drawn at random; at least one image.
        samples: Views of each image.
        seed: Of the draw of the images and of their views, ``0 <= seed < 2**64``.
        device: Where the teachers run; it must have room for all.
        batch_size: Views per forward pass, rounded to whole images.
        workers: Processes that make the views; 0 uses this process.
        progress: Show a progress bar.

    Raises:
        TeacherError: There are no teachers, they have different classes, or one does not return
            logits.
        DatasetMismatchError: The images have other classes than the teachers, or there are none.
        ImageReadError: An image cannot be read.
        WorkerError: A worker died, or shared memory is too small for the workers' batches.
        ValueError: An option is out of range.

    Example:
        >>> comparison = compare_teachers(                                  # doctest: +SKIP
        ...     open_source("imagenet/train"), teachers, Policy.load("randaug"),
        ...     fraction=0.01, device="cuda", workers=16)
        >>> comparison.candidates[0].metrics["top1"]                        # doctest: +SKIP
        0.8172
    """
    if not 0 < fraction <= 1 or samples < 1 or batch_size < 1:
        raise ValueError(
            f"fraction is {fraction}, samples {samples}, batch_size {batch_size}; expected a share "
            f"above 0 and at most 1, and numbers of at least 1"
        )
    if not teachers:
        raise TeacherError("there are no teachers to compare; pass at least one")
    device = torch.device(device)
    for teacher in teachers.values():
        teacher.placed(device)
    chosen = drawn(source, fraction, seed)
    plan = plan_views(chosen, teachers, policy, samples, seed, batch_size, device)
    answers = _Answers(teachers, samples)
    total = len(chosen) * samples
    with tqdm(desc="asking", total=total, unit=" views", disable=not progress) as bar:
        for views, labels in labelled_views(plan, device, workers):
            answers.ask(views, labels)
            bar.update(len(views))
    return answers.compared(device.type)


class _Answers:
    """Numbers of the answers so far: those of all views together would not fit into memory."""

    def __init__(self, teachers: Mapping[str, Ensemble], samples: int) -> None:
        self._teachers, self._samples = teachers, samples
        names = list(teachers)
        pairs = list(combinations(names, 2))
        everyone = [tuple(names)] if len(names) > 2 else []
        self._scores: dict[tuple[str, ...], list[ViewScores]] = {
            group: [] for group in [*((name,) for name in names), *pairs, *everyone]
        }
        self._seconds: dict[str, list[float]] = {name: [] for name in names}
        self._labels: list[torch.Tensor] = []

    def ask(self, views: torch.Tensor, labels: torch.Tensor) -> None:
        """Ask all teachers about all views of some images."""
        probs = {
            name: self._timed(name, teacher, views) for name, teacher in self._teachers.items()
        }
        for group, scores in self._scores.items():
            mean = torch.stack([probs[name] for name in group]).mean(0)
            scores.append(ViewScores.of(mean, labels, self._samples))
        self._labels.append(labels.cpu())

    def _timed(self, name: str, teacher: Ensemble, views: torch.Tensor) -> torch.Tensor:
        start = time.perf_counter()
        # A copy, as a teacher may change its input; the check of its answer waits for the device.
        probs = teacher(views.clone())
        self._seconds[name].append((time.perf_counter() - start) / len(views))
        return probs

    def compared(self, device: str) -> TeacherComparison:
        """Sum up."""
        labels = torch.cat(self._labels)
        whole = {group: ViewScores.concatenated(parts) for group, parts in self._scores.items()}
        return TeacherComparison(
            len(labels) // self._samples,
            self._samples,
            int((labels >= 0).sum()) // self._samples,
            device,
            [self._candidate(group, scores, labels >= 0) for group, scores in whole.items()],
            [self._pair(*pair, whole) for pair in combinations(self._teachers, 2)],
        )

    def _candidate(
        self, group: tuple[str, ...], view: ViewScores, known: torch.Tensor
    ) -> Candidate:
        labelled = view.labelled(known)
        by_image = labelled.top1.reshape(-1, self._samples).mean(1).numpy()
        # The first batch warms up, unless it is the only one.
        seconds = [self._seconds[name][1:] or self._seconds[name] for name in group]
        return Candidate(
            group,
            labelled.metrics() if len(labelled) else {},
            standard_error(by_image),
            view.entropy.mean().item(),
            view.scores.confidence.mean().item(),
            view.spread.mean().item(),
            1000 * float(sum(np.median(each) for each in seconds)),
        )

    def _pair(self, one: str, other: str, whole: Mapping[tuple[str, ...], ViewScores]) -> Pair:
        first, second = whole[one,], whole[other,]
        confidences = [
            view.scores.confidence.reshape(-1, self._samples).mean(1).numpy()
            for view in (first, second)
        ]
        agreement = (first.top == second.top).double().mean().item()
        return Pair((one, other), agreement, rank_correlation(*confidences))
