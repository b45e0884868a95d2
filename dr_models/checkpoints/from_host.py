"""Convert checkpoints of timm and torchvision for other hosts."""

from __future__ import annotations

import math
from collections.abc import Sequence

from dr_models.catalog import CVNETS_MODELS
from dr_models.checkpoints import hosts
from dr_models.checkpoints.detect import is_plain_resnet
from dr_models.checkpoints.resnets import SHARED, backbone_renamer
from dr_models.cvnets.inputs import IMAGENET_MEAN, IMAGENET_STD, InputConvention
from dr_models.cvnets.keys import State, is_counter
from dr_models.cvnets.report import ConversionReport, shorten
from dr_plugins.errors import CheckpointError

_LAYOUTS = ("timm", "torchvision")
_CLASSES = 1000  # the libraries' default


def from_host(state: State, arch: str, to: str) -> tuple[State, ConversionReport]:
    """Convert a state dict of timm or torchvision; see `convert_state_dict`.

    Raises:
        CheckpointError: The architecture is unknown, is not the checkpoint's, or has no exact
            equivalent in the host.
    """
    layout, name = _split(state, arch)
    report = ConversionReport(name, layout, to, name)
    classifier = _compare(state, report)
    kept = {key: state[key] for key in report.matched}
    plain = name.partition(".")[0]
    if to in _LAYOUTS:
        if to != layout and plain not in SHARED:
            raise CheckpointError(
                f"{layout}'s {name} cannot be converted to {to}: only ResNets "
                f"({shorten(sorted(SHARED))}) are the same in both"
            )
        report.model = plain if to == "torchvision" else name
        present = [key for key in classifier if key in state]
        report.num_classes = hosts.count_classes(state, present)
        return kept, report
    report.model, report.model_kwargs, rename = backbone_renamer(plain, to)
    targets = {key: rename(key) for key in kept}
    report.dropped = [key for key, target in targets.items() if target is None]
    return {target: kept[key] for key, target in targets.items() if target is not None}, report


def _split(state: State, arch: str) -> tuple[str, str]:
    layout, colon, name = arch.partition(":")
    if colon and layout in _LAYOUTS:
        return layout, name
    if not colon and arch in SHARED and is_plain_resnet(state):
        return "torchvision", arch
    raise CheckpointError(
        f"unknown architecture {arch!r}; expected one of the CVNets models "
        f"({', '.join(CVNETS_MODELS)}), or timm:NAME or torchvision:NAME"
    )


def _compare(state: State, report: ConversionReport) -> list[str]:
    """Compare a state dict with the library's own network; return the classifier's keys."""
    default = _expected_shapes(report, _CLASSES)
    other = _expected_shapes(report, _CLASSES + 1)
    # Only the classifier depends on the number of classes.
    classifier = [key for key, value in other.items() if value.shape != default[key].shape]
    present = [key for key in classifier if key in state]
    classes = hosts.count_classes(state, present) or _CLASSES
    expected = dict(default if classes == _CLASSES else _expected_shapes(report, classes))
    if not present:
        for key in classifier:
            del expected[key]
    if not any(map(is_counter, state)):
        expected = {key: value for key, value in expected.items() if not is_counter(key)}
    report.matched = [key for key in state if key in expected]
    report.missing = [key for key in expected if key not in state]
    report.unexpected = [key for key in state if key not in expected]
    kept = {key: state[key] for key in report.matched}
    report.checked = f"{report.layout}'s {report.arch}"
    hosts.check_shapes(kept, expected, report.checked)
    return classifier


def _expected_shapes(report: ConversionReport, classes: int) -> hosts.Shapes:
    if report.layout == "torchvision":
        return hosts.torchvision_shapes(report.arch, classes)
    shapes = hosts.timm_shapes(report.arch, classes)
    if shapes is None:
        raise CheckpointError(
            f"checking timm:{report.arch} requires timm; install it with "
            f"`pip install dr-plugins[timm]`"
        )
    return shapes


def host_convention(
    layout: str, name: str, mean: Sequence[float] | None, std: Sequence[float] | None
) -> InputConvention:
    """Return timm's or torchvision's input convention of a network.

    Args:
        layout: ``timm`` or ``torchvision``.
        name: The architecture.
        mean: Mean of RGB from 0 to 1; None for the library's default, or ImageNet's for a network
            of the user's own.
        std: Standard deviation of RGB from 0 to 1; None for the library's default.
    """
    defaults = hosts.timm_defaults(name) if layout == "timm" else hosts.torchvision_defaults(name)
    _, height, width = defaults.get("input_size", (3, 224, 224))
    return InputConvention(
        _triple(defaults.get("mean", IMAGENET_MEAN) if mean is None else mean),
        _triple(defaults.get("std", IMAGENET_STD) if std is None else std),
        (height, width),
        defaults.get("interpolation", "bilinear"),
        math.floor(defaults.get("crop_pct", 0.875) * 1000) / 1000,
    )


def _triple(values: Sequence[float]) -> tuple[float, float, float]:
    if len(values) != 3:
        raise CheckpointError(f"{list(values)}: expected three numbers, for red, green and blue")
    red, green, blue = (float(value) for value in values)
    return red, green, blue
