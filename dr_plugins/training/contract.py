"""What a shard set demands of whoever trains on it."""

from __future__ import annotations

from collections.abc import Sequence

from dr_plugins.errors import DatasetMismatchError, ReinforcementError
from dr_plugins.images.classes import check_class_names
from dr_plugins.replay.stored_policy import stored_policy
from dr_plugins.shards.reader import ShardSet
from dr_plugins.utils.advice import advice

__all__ = ["Contract"]


class Contract:
    """What must agree between a shard set and a training run, and the errors where it does not.

    An adapter asks the run's config once for each fact and hands it over; it adds the words for its
    own options with `add_advice`.

    Args:
        shards: The shard set.
        class_names: Those of the images, in label order, where the set does not know them.
        error: Type of the errors that the methods raise, with one message as argument.

    Attributes:
        class_names: In label order; None where nobody knows them.
        num_classes: Of the stored answers.
        temperature: What the teacher's logits were divided by; the loss must do the same.
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
        """Refuse a model of other classes.

        Args:
            found: Number of classes.
            what: What has them, such as the name of an option.
        """
        if found != self.num_classes:
            raise self._error(
                f"{what} has {found} classes, the shard set {self.num_classes}; make it "
                f"{self.num_classes}{advice('num_classes')}"
            )

    def check_class_names(self, names: Sequence[str] | None, what: str) -> None:
        """Refuse other classes, or another order of them; None stands for unknown ones.

        Args:
            names: In label order.
            what: What has them, such as "the validation images".
        """
        check_class_names(names, self.class_names, what, "the training set", self._error)

    def check_temperature(self, found: float, what: str) -> None:
        """Refuse a loss of another temperature."""
        if found != self.temperature:
            raise self._error(
                f"{what} is {found}, but the answers were stored with temperature "
                f"{self.temperature}; set it to that{advice('temperature')}"
            )

    def refuse_second(self, option: str, what: str = "augment") -> ReinforcementError:
        """Return the error for an option that would change views which the teacher answered.

        Args:
            option: As its users write it.
            what: What it would do to them, such as "mix".
        """
        return self._error(
            f"{option} cannot be used with a reinforced dataset: it would {what} views that the "
            f"teacher answered as they are. Leave it out"
        )
