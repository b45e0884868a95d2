"""Requirements of a shard set on the training run."""

from __future__ import annotations

from collections.abc import Sequence

from dr_plugins.errors import DatasetMismatchError, ReinforcementError
from dr_plugins.images.classes import check_class_names
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.reader import ShardSet
from dr_plugins.utils.advice import advice


class Contract:
    """Checks that a training run matches its shard set.

    An adapter reads each value from the run's config once and passes it here; it registers the
    names of its options with `add_advice`.

    Args:
        shards: The shard set.
        class_names: Class names of the images in label order, used if the set has none.
        error: Type of the errors that the methods raise, constructed from one message.

    Attributes:
        class_names: Class names in label order; None if unknown.
        num_classes: Number of classes of the stored answers.
        temperature: Divisor of the teacher's logits; the loss must use the same.
        view_size: (height, width) of the stored views, in pixels.

    Example:
        >>> contract = Contract(ShardSet("imagenet-plus"))                  # doctest: +SKIP
        >>> contract.check_num_classes(1000, "the model")                   # doctest: +SKIP
    """

    def __init__(
        self,
        shards: ShardSet,
        class_names: Sequence[str] | None = None,
        error: type[ReinforcementError] = DatasetMismatchError,
    ) -> None:
        policy = stored_policy(shards)
        self.class_names: Sequence[str] | None = shards.manifest.settings["class_names"]
        if self.class_names is None:
            self.class_names = class_names
        self.num_classes = shards.manifest.num_classes
        self.temperature = shards.manifest.temperature
        self.view_size = policy.view_size
        self._error = error

    def check_num_classes(self, found: int, what: str) -> None:
        """Check a model's number of classes.

        Args:
            found: Number of classes.
            what: Its origin for the message, such as the name of an option.
        """
        if found != self.num_classes:
            raise self._error(
                f"{what} has {found} classes, the shard set {self.num_classes}; make it "
                f"{self.num_classes}{advice('num_classes')}"
            )

    def check_class_names(self, names: Sequence[str] | None, what: str) -> None:
        """Check class names and their order.

        Args:
            names: Class names in label order; None if unknown.
            what: Their origin for the message, such as "the validation images".
        """
        check_class_names(names, self.class_names, what, "the training set", self._error)

    def check_temperature(self, found: float, what: str) -> None:
        """Check a loss's temperature."""
        if found != self.temperature:
            raise self._error(
                f"{what} is {found}, but the answers were stored with temperature "
                f"{self.temperature}; use the same{advice('temperature')}"
            )

    def refuse_second(self, option: str, what: str = "augment") -> ReinforcementError:
        """Return the error for an option that would change the stored views.

        Args:
            option: The option as users write it.
            what: What it would do to the views, such as "mix".
        """
        return self._error(
            f"{option} cannot be used with a reinforced dataset: it would {what} views that the "
            f"teacher has already answered. Remove it"
        )
