"""The grid: every run of every experiment, written down before the first of them was made.

A run is pending until its file exists. A row whose result disappoints stays.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import MISSING, asdict, dataclass, fields, replace
from itertools import product
from typing import Any, ClassVar

METHODS = ("plain", "smoothing", "stored", "independent", "online", "reinforced")
LENGTHS = (30, 60, 120, 240, 480)
_COMPARED = ("plain", "online", "reinforced", "stored", "independent", "smoothing")


@dataclass(frozen=True)
class Training:
    """One training of one student.

    Attributes:
        model: Of `models.RECIPES`.
        images: Training images, a multiple of 50.
        method: Of `METHODS`.
        epochs: Passes over the training images.
        seed: Of weights, order and views.
        teacher: Of `teachers.TEACHERS`.
        samples: S, reinforcements of each image.
        topk: k, classes stored for each.
        p: Probability of a reinforcement.
        densify: Distribution of the probability that is not stored.
        policy: Of `views.POLICIES`.
        temperature: Of answers and loss.
    """

    kind: ClassVar[str] = "training"
    model: str
    images: int
    method: str
    epochs: int
    seed: int = 0
    teacher: str = "shipped"
    samples: int = 200
    topk: int = 5
    p: float = 0.99
    densify: str = "smooth"
    policy: str = "crop"
    temperature: float = 1.0

    @property
    def name(self) -> str:
        """The run's file, without ending: what differs from the defaults is part of it."""
        base = f"{self.model}-{self.images}-{self.method}-e{self.epochs}"
        return "-".join([base, *_changed(self), f"s{self.seed}"])


@dataclass(frozen=True)
class Cost:
    """Seconds per step of all methods, side by side in one process."""

    kind: ClassVar[str] = "cost"
    model: str
    images: int
    seed: int = 0

    @property
    def name(self) -> str:
        """The run's file, without ending."""
        return f"{self.model}-{self.images}-cost-s{self.seed}"


@dataclass(frozen=True)
class Transfer:
    """A pretrained backbone in a framework's model.

    Attributes:
        host: Of `transfer.HOSTS`.
        pretrained: ``"none"``, or the method of its pretraining.
        seed: Of pretraining and fine-tuning.
    """

    kind: ClassVar[str] = "transfer"
    host: str
    pretrained: str
    seed: int = 0

    @property
    def name(self) -> str:
        """The run's file, without ending."""
        return f"transfer-{self.host}-{self.pretrained}-s{self.seed}"


Entry = Training | Cost | Transfer


def _changed(run: Training) -> list[str]:
    optional = [f for f in fields(run) if f.default is not MISSING and f.name != "seed"]
    values = asdict(run)
    return [f"{f.name}={values[f.name]}" for f in optional if values[f.name] != f.default]


def _trainings(
    models: Iterable[str], images: int, methods: Iterable[str], lengths: Iterable[int]
) -> list[Entry]:
    return [Training(m, images, x, e) for m, x, e in product(models, methods, lengths)]


BASE = Training("resnet", 500, "reinforced", 120)
# Each list is one ablation; the value that the base has is among them.
ABLATIONS: Mapping[str, list[dict[str, Any]]] = {
    "S, views of each image": [{"samples": s} for s in (1, 5, 20, 50, 200)],
    "k, classes stored": [{"topk": k} for k in (1, 2, 5, 10)],
    "p, share of reinforced images": [{"p": p} for p in (0.5, 0.9, 0.99, 1.0)],
    "densify": [
        {"topk": k, "densify": densify} for k in (1, 2, 5) for densify in ("smooth", "zeros")
    ],
    "policy": [{"policy": policy} for policy in ("crop", "randaug", "mixing")],
    "teacher": [{"teacher": t} for t in ("shipped", "same-images", "same-images-x3")],
    "temperature": [{"temperature": t} for t in (1.0, 2.0, 4.0)],
}

# In the order in which they are made, for each seed.
EXPERIMENTS: Mapping[str, list[Entry]] = {
    "cost": [Cost(model, 500) for model in ("resnet", "mobilenet", "vit")],
    "length": _trainings(["resnet"], 500, METHODS, LENGTHS[:-1]),
    "longest": _trainings(["resnet"], 500, METHODS, LENGTHS[-1:]),
    "ablation": [replace(BASE, **change) for changes in ABLATIONS.values() for change in changes],
    "architecture": _trainings(["mobilenet", "vit"], 500, _COMPARED, (30, 120, 480)),
    "size": _trainings(["resnet"], 2000, _COMPARED, (30, 120, 480)),
    "large": _trainings(["resnet"], 10_000, _COMPARED, (30, 120)),
    # Written down when two seeds of "length" were there, in which the online teacher was better by
    # more than 0.2 points: does what is left out of the stored answers explain it?
    "gap": [
        replace(BASE, epochs=240, samples=480, topk=10, p=1.0),
        replace(BASE, epochs=240, p=1.0),
        replace(BASE, epochs=240, topk=10),
    ],
    # How well do measurements of a teacher predict its student? Teachers of different strength.
    "advisor": [
        Training("resnet", 500, "reinforced", 60, teacher=teacher)
        for teacher in (
            "shipped",
            "same-images",
            "same-images-x3",
            "resnet-2000",
            "resnet-10000",
            "resnet-10000-smoothing",
            "mobilenet-2000",
            "vit-10000",
        )
    ],
    "transfer": [
        Transfer(host, pretrained)
        for host in ("timm", "mmseg", "mmdet", "detectron2")
        for pretrained in ("none", "plain", "reinforced")
    ],
    # Written down when mmseg's three seeds were there, which do not tell the backbones apart: is
    # the reinforced one better at the task of its pretraining?
    "pretraining": [Transfer("pretraining", method) for method in ("plain", "reinforced")],
}


def entries(experiments: Iterable[str], seeds: int) -> list[Entry]:
    """Return the runs of some experiments: all of seed 0, then all of seed 1, and so on.

    Args:
        experiments: Of `EXPERIMENTS`.
        seeds: Seeds of each run.
    """
    runs = [
        replace(run, seed=seed)
        for experiment in experiments
        for seed in range(seeds)
        for run in EXPERIMENTS[experiment]
    ]
    return list(dict.fromkeys(runs))
