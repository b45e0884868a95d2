"""What a shard set demands of whoever trains on it, stated here once for all hosts.

An adapter translates its host's settings into `RunFacts`, in its users' words, and calls
`Contract.check_run`. A new demand is a function in `DEMANDS`, or a member of `Effect`; if it needs
to know more about a run, `RunFacts` gets a field.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from enum import Enum
from typing import Any, NamedTuple

from dr_plugins.errors import DatasetMismatchError
from dr_plugins.images.classes import compare_class_names
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.reader import ShardSet
from dr_plugins.targets import SparseTargets
from dr_plugins.utils.advice import advice


class Effect(Enum):
    """What no setting of a run may do; the value says why.

    Example:
        >>> Setting("--mixup", Effect.MIXES, "Leave it out").value.name
        'MIXES'
    """

    AUGMENTS = "views would be augmented again, but the answers are for the stored views"
    MIXES = "views would be mixed, but the teacher saw them unmixed"
    REPEATS = "an image would be used several times in an epoch, with the same view each time"
    SKIPS = "some images would never be used"
    HAS_NO_EPOCHS = "reinforcements are chosen by epoch, and there would be none"
    RUNS_AHEAD = "the next epoch's first batches would have this epoch's reinforcements"
    LOADS = "views and answers come from the dataset's own loading and collating"
    LEAVES_UNFINISHED = "nothing would finish the views"
    DROPS_ANSWERS = "the loss would get labels, not the stored answers"
    SMOOTHS = "stored answers would be smoothed like labels"
    SEPARATES_CLASSES = "each stored answer is one distribution over all classes, a softmax"
    EVALUATES_VIEWS = "validation would use augmented views, and accuracies would be too low"


class Setting(NamedTuple):
    """A setting of a run.

    Attributes:
        name: As users write it, such as "--mixup" or "model.num_classes".
        value: See `RunFacts`.
        remedy: What to do if the value is refused, a sentence without its full stop; by default
            the contract's, as always for class names.

    Example:
        >>> Setting("model.head.num_classes", 1000).name
        'model.head.num_classes'
    """

    name: str
    value: Any
    remedy: str = ""


class RunFacts(NamedTuple):
    """What an adapter knows about a training run; what it does not know, it leaves out.

    Attributes:
        effects: Settings that are in use, and the `Effect` of each.
        num_classes: Numbers of classes of the model and its heads.
        temperatures: Temperatures of the losses.
        class_names: Class names of validation images in label order; None if unknown.
        channels: Channels of images for training or validation, such as "RGB" or "BGR".
        deferred_sizes: (height, width) at which views are used that a device finishes.

    Example:
        >>> RunFacts(channels=[Setting("INPUT.FORMAT", "BGR")]).channels[0].value
        'BGR'
    """

    effects: Sequence[Setting] = ()
    num_classes: Sequence[Setting] = ()
    temperatures: Sequence[Setting] = ()
    class_names: Sequence[Setting] = ()
    channels: Sequence[Setting] = ()
    deferred_sizes: Sequence[Setting] = ()


class Contract:
    """What a shard set, or targets from one, demand of a training run.

    Args:
        num_classes: Number of classes of the stored answers.
        temperature: Divisor of the teacher's logits; None if unknown.
        class_names: Class names in label order; None if unknown.
        view_size: (height, width) of the stored views, in pixels; None if unknown.

    Example:
        >>> contract = Contract(1000, temperature=2.0)
        >>> model, loss = Setting("the model", 1000), Setting("the loss", 2.0)
        >>> contract.check_run(RunFacts(num_classes=[model], temperatures=[loss]))
    """

    def __init__(
        self,
        num_classes: int,
        temperature: float | None = None,
        class_names: Sequence[str] | None = None,
        view_size: tuple[int, int] | None = None,
    ) -> None:
        self.num_classes = num_classes
        self.temperature = temperature
        self.class_names = class_names
        self.view_size = view_size

    @classmethod
    def of_set(cls, shards: ShardSet, class_names: Sequence[str] | None = None) -> Contract:
        """Return the demands of a shard set.

        Args:
            shards: The shard set.
            class_names: Class names of its images, used if it stores none.
        """
        manifest = shards.manifest
        stored = manifest.settings["class_names"]
        names = class_names if stored is None else stored
        size = stored_policy(shards).view_size
        return cls(manifest.num_classes, manifest.temperature, names, size)

    @classmethod
    def of_targets(cls, targets: SparseTargets) -> Contract:
        """Return the demands that a batch of targets carries."""
        return cls(targets.num_classes, targets.temperature)

    def check(
        self,
        *,
        num_classes: int | None = None,
        temperature: float | None = None,
        class_names: Sequence[str] | None = None,
    ) -> None:
        """Refuse a loop of your own that does not do what the shard set demands.

        Args:
            num_classes: Number of the model's classes; None if unknown, and so for all others.
            temperature: Temperature of the loss.
            class_names: Class names of the validation images, in label order.

        Raises:
            DatasetMismatchError: One of them is not the set's.

        Example:
            >>> Contract(1000, temperature=2.0).check(num_classes=1000, temperature=2.0)
        """

        def known(name: str, value: Any) -> list[Setting]:
            return [] if value is None else [Setting(name, value)]

        self.check_run(
            RunFacts(
                num_classes=known("the model", num_classes),
                temperatures=known("the loss", temperature),
                class_names=known("the set of validation images", class_names),
            )
        )

    def check_run(self, run: RunFacts, error: type[Exception] = DatasetMismatchError) -> None:
        """Refuse a run that does not do what the shard set demands.

        Args:
            run: What is known; an adapter may call this several times, as it learns more.
            error: Type of the error, constructed from one message.

        Raises:
            DatasetMismatchError: The first fault found, with the setting and the remedy; or
                `error`.
        """
        for demand in DEMANDS:
            for fault in demand(self, run):
                raise error(fault)


Demand = Callable[[Contract, RunFacts], Iterator[str]]


def _no_effects(contract: Contract, run: RunFacts) -> Iterator[str]:
    for name, effect, remedy in run.effects:
        yield (
            f"{name} cannot be used with a reinforced dataset: {effect.value}. "
            f"{remedy or 'Leave it out'}."
        )


def _num_classes(contract: Contract, run: RunFacts) -> Iterator[str]:
    for name, found, remedy in run.num_classes:
        if found != contract.num_classes:
            yield (
                f"{name} has {found} classes, the targets {contract.num_classes}. "
                + (remedy or f"Make it {contract.num_classes}{advice('num_classes')}")
            )


def _class_names(contract: Contract, run: RunFacts) -> Iterator[str]:
    for name, found, _ in run.class_names:
        fault = compare_class_names(found, contract.class_names, name, "the training set")
        if fault:
            yield fault


def _temperature(contract: Contract, run: RunFacts) -> Iterator[str]:
    for name, found, remedy in run.temperatures:
        if contract.temperature is not None and found != contract.temperature:
            yield (
                f"the targets have temperature {contract.temperature}, {name} {found}. "
                + (remedy or f"Use the same{advice('temperature')}")
            )


def _channels(contract: Contract, run: RunFacts) -> Iterator[str]:
    for name, found, remedy in run.channels:
        if found != "RGB":
            yield (
                f"{name} cannot be used with a reinforced dataset: images would be {found}, but "
                f"stored views are RGB. {remedy or 'Use images in RGB'}"
            )


def _view_size(contract: Contract, run: RunFacts) -> Iterator[str]:
    for name, found, remedy in run.deferred_sizes:
        if found != contract.view_size:
            yield (
                f"{name} cannot be used with defer: a device finishes views at their stored size, "
                f"{contract.view_size}. {remedy or 'Leave out defer, or resize the batch'}"
            )


DEMANDS: list[Demand] = [
    _no_effects,
    _num_classes,
    _class_names,
    _temperature,
    _channels,
    _view_size,
]
