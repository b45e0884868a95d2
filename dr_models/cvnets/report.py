"""Report of a conversion: what happened to each key."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from dr_plugins.errors import CheckpointError

_SHOWN = 6
_LONGEST = 100


@dataclass
class ConversionReport:
    """The outcome of a conversion.

    Attributes:
        arch: The architecture of the checkpoint.
        layout: Layout of the checkpoint: ``cvnets``, ``timm`` or ``torchvision``.
        to: Layout of the result.
        model: Name of the host's network for its factory.
        model_kwargs: Arguments for that factory.
        weights: The training checkpoint's key for the tensors; empty for a bare state dict.
        num_classes: Number of classes of the classifier; 0 without one.
        matched: Keys of the checkpoint that are in the result, or that the host rebuilds.
        missing: Keys of the architecture that the checkpoint does not have.
        unexpected: Keys of the checkpoint that the architecture does not have.
        ignored: Keys that are not used at inference, such as ``neural_augmentor.*``.
        dropped: Keys that the host's backbone does not have, such as a classifier's.
        notes: Remarks for the user.
        checked: The network that names and shapes were compared with; empty if there was none.
        out: The written file; empty if there is none.

    Example:
        >>> names = dict(layout="cvnets", to="timm", model="cvnets_resnet50")
        >>> report = ConversionReport("resnet_50", **names, missing=["x"])
        >>> report.check_complete()                                         # doctest: +ELLIPSIS
        Traceback (most recent call last):
        dr_plugins.errors.CheckpointError: ... 1 are missing (x)...
    """

    arch: str
    layout: str
    to: str
    model: str
    model_kwargs: dict[str, Any] = field(default_factory=dict)
    weights: str = ""
    num_classes: int = 0
    matched: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unexpected: list[str] = field(default_factory=list)
    ignored: list[str] = field(default_factory=list)
    dropped: list[str] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    checked: str = ""
    out: str = ""

    def check_complete(self, allow_partial: bool = False) -> None:
        """Check that the checkpoint holds exactly the whole network.

        Args:
            allow_partial: Accept missing and unexpected keys if any key matched.

        Raises:
            CheckpointError: Keys are missing or unexpected.
        """
        if not (self.missing or self.unexpected) or (allow_partial and self.matched):
            return
        raise CheckpointError(
            f"the checkpoint is not a complete {self.arch}: {len(self.matched)} keys match, "
            f"{len(self.missing)} are missing"
            + (f" ({shorten(self.missing)})" if self.missing else "")
            + f", {len(self.unexpected)} are unexpected"
            + (f" ({shorten(self.unexpected)})" if self.unexpected else "")
            + self._advice()
        )

    def _advice(self) -> str:
        prefixes = {key.partition(".")[0] for key in self.unexpected}
        if not self.matched and len(prefixes) == 1:
            return f". All keys begin with '{prefixes.pop()}.'; save the state dict of that part"
        return (
            ". Set the architecture of the checkpoint (`dr-plugins convert-checkpoint "
            "--allow-partial` converts incomplete ones)"
        )

    def __str__(self) -> str:
        arguments = "".join(f", {name}={value!r}" for name, value in self.model_kwargs.items())
        lines = [
            f"{self.arch} ({self.layout}) -> {self.to}: {self.model}{arguments}",
            f"weights: {self.weights or 'the state dict'}, {self.num_classes} classes",
            f"keys: {len(self.matched)} matched, {len(self.missing)} missing, "
            f"{len(self.unexpected)} unexpected, {len(self.ignored)} ignored, "
            f"{len(self.dropped)} dropped",
            f"names and shapes compared with: {self.checked or 'no network'}",
        ]
        for name in ("missing", "unexpected", "ignored", "dropped"):
            keys = getattr(self, name)
            if keys:
                lines.append(f"{name}: {shorten(keys)}")
        return "\n".join([*lines, *(f"note: {note}" for note in self.notes)])


def shorten(keys: Sequence[str]) -> str:
    """Format the first few of many names; a file may have any number of them, of any length.

    Example:
        >>> shorten(list("abcdefgh"))
        'a, b, c, d, e, f and 2 more'
    """
    rest = len(keys) - _SHOWN
    return ", ".join(key[:_LONGEST] for key in keys[:_SHOWN]) + (
        f" and {rest} more" if rest > 0 else ""
    )
