"""ml-dr's configuration (``config.pth.tar``) as a policy and a set description."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from dr_plugins.errors import PolicyError
from dr_plugins.mldr.errors import ArchiveError
from dr_plugins.policies.policy import Policy

CLASS_COUNTS = {"imagenet": 1000, "cifar100": 100, "flowers102": 102, "food101": 101}
"""Number of classes of each dataset that ml-dr supports."""

_MOST_CLASSES = 1 << 20
_MOST_OPERATIONS = 64
_WITHOUT_PARAMETERS = ("uint8", "to_tensor", "normalize", "center_crop")
_MISSPELLED, _CROP = "random_resize_crop", "random_resized_crop"
_INTERPOLATIONS = {
    0: "nearest",
    2: "bilinear",
    3: "bicubic",
    "nearest": "nearest",
    "bilinear": "bilinear",
    "bicubic": "bicubic",
}


@dataclass(frozen=True)
class SetDescription:
    """Description of one of ml-dr's sets, from its configuration and its first member.

    Attributes:
        policy: The augmentation policy, backend ``pil``.
        samples: Reinforcements per image.
        topk: Classes stored per reinforcement.
        dataset: ml-dr's name of the dataset.
        num_classes: Number of classes; None if unknown.
        teachers: Names of the teachers.
        mean: Mean per channel that ml-dr normalizes with; empty if it does not normalize.
        std: Standard deviation per channel; empty if it does not normalize.
        notes: Remarks for the user on how the configuration was interpreted.
    """

    policy: Policy
    samples: int
    topk: int
    dataset: str
    num_classes: int | None
    teachers: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    notes: tuple[str, ...]


class Example(NamedTuple):
    """What one member shows about all members of a set.

    Attributes:
        params: Parameters of its first reinforcement, ml-dr's list or dictionary.
        samples: Reinforcements per image.
        topk: Classes stored per reinforcement.
    """

    params: Any
    samples: int
    topk: int

    @classmethod
    def of(cls, member: Any) -> Example:
        """Describe the content of a member.

        Raises:
            ArchiveError: The content does not have ml-dr's structure.
        """
        try:
            _, reinforcements = member
            first = reinforcements[0]
            return cls(first["params"], len(reinforcements), len(first["prob"][0]))
        except (TypeError, ValueError, LookupError):
            raise ArchiveError(
                "it does not hold (index, reinforcements with `params` and `prob`)"
            ) from None


def parse_config(config: Any, example: Example) -> SetDescription:
    """Parse a configuration.

    The number of reinforcements per image and of classes per reinforcement come from the example:
    a subset of a larger set may carry the larger set's configuration.

    Args:
        config: Content of ``config.pth.tar``, plain data.
        example: Description of any other member.

    Raises:
        ArchiveError: An entry is missing, malformed, or cannot be replayed.
    """
    described = _mapping(config, "reinforce", "the configuration")
    augmentation = _mapping(described, "image_augmentation", "`reinforce`")
    enabled, notes = _enabled(augmentation, example.params)
    for name, stated, found in (
        ("num_samples", described.get("num_samples"), example.samples),
        ("topk", described.get("topk"), example.topk),
    ):
        if stated != found:
            notes.append(f"the configuration states {name} {stated}, but the members hold {found}")
    translated = {
        name: _translate(name, enabled[name]) for name in _TRANSLATIONS if name in enabled
    }
    try:
        policy = Policy.from_config({"backend": "pil", **translated})
    except PolicyError as error:
        raise ArchiveError(f"its policy cannot be replayed: {error}") from error
    normalize = enabled.get("normalize", {})
    dataset = str(config.get("dataset"))
    return SetDescription(
        policy,
        example.samples,
        example.topk,
        dataset,
        _num_classes(config, dataset),
        _teachers(config.get("teacher")),
        _channels(normalize, "mean"),
        _channels(normalize, "std"),
        tuple(notes),
    )


def _num_classes(config: dict[str, Any], dataset: str) -> int | None:
    stated = config.get("num_classes")
    if type(stated) is not int:
        return CLASS_COUNTS.get(dataset.lower())
    if not 1 <= stated <= _MOST_CLASSES:
        raise ArchiveError(f"its num_classes is {stated}, expected 1 to {_MOST_CLASSES:,}")
    return stated


def _channels(normalize: dict[str, Any], name: str) -> tuple[float, ...]:
    values = normalize.get(name, ())
    if not isinstance(values, list | tuple) or not {int, float}.issuperset(map(type, values)):
        raise ArchiveError(
            f"its transform 'normalize' has {name} = {values!r:.80}, expected numbers"
        )
    return tuple(map(float, values))


def _mapping(data: Any, key: str, where: str) -> dict[str, Any]:
    found = data.get(key) if isinstance(data, dict) else None
    if not isinstance(found, dict):
        raise ArchiveError(f"{where} has no entry {key!r}: this is not a configuration of ml-dr")
    return found


def _enabled(augmentation: dict[str, Any], params: Any) -> tuple[dict[str, Any], list[str]]:
    """Return the transforms that ml-dr applied, by ml-dr's names, without their enable flags."""
    enabled: dict[str, dict[str, Any]] = {}
    for name, values in augmentation.items():
        if not isinstance(values, dict):
            raise ArchiveError(
                f"its transform {name!r} has {values!r:.80}, expected a dictionary of options"
            )
        options = {key: value for key, value in values.items() if key != "enable"}
        is_enabled = values.get("enable", True)
        if type(is_enabled) is not bool:
            raise ArchiveError(
                f"its transform {name!r} has enable = {is_enabled!r:.80}, expected a boolean"
            )
        if is_enabled:
            enabled[name] = options
    notes = []
    if _MISSPELLED in enabled and _CROP not in enabled:
        misspelled = enabled.pop(_MISSPELLED)
        if _has_crop(params, enabled):
            enabled[_CROP] = misspelled
            notes.append(f"{_MISSPELLED!r} is read as {_CROP!r}: the members hold its boxes")
        else:
            notes.append(f"{_MISSPELLED!r} is no transform of ml-dr, which ignores it")
    for name in sorted(set(enabled) - set(_TRANSLATIONS) - set(_WITHOUT_PARAMETERS)):
        notes.append(f"{name!r} is no transform of ml-dr, which ignores it")
        del enabled[name]
    if not {"random_crop", "center_crop", _CROP} & set(enabled):
        raise ArchiveError(
            f"its configuration has no crop ({', '.join(enabled)}; {'; '.join(notes) or 'no notes'}"
            f"), so its views have the sizes of the images and cannot be batched"
        )
    return enabled, notes


def _has_crop(params: Any, enabled: Mapping[str, Any]) -> bool:
    """Return whether the members hold parameters of the misspelled crop."""
    if isinstance(params, dict):
        return _CROP in params
    known = [n for n in _TRANSLATIONS if n in enabled and n != "center_crop"]
    mixes = "mixup" in enabled or "cutmix" in enabled
    return isinstance(params, list) and len(params) == len(known) + mixes + 1


def _teachers(teacher: Any) -> tuple[str, ...]:
    name = teacher.get("name") if isinstance(teacher, dict) else None
    return tuple(part.strip() for part in name.split(",")) if isinstance(name, str) else ()


def _translate(name: str, options: dict[str, Any]) -> dict[str, Any]:
    known, defaults = _TRANSLATIONS[name], _DEFAULTS[name]
    unknown = sorted(set(options) - set(known))
    if unknown:
        raise ArchiveError(f"its transform {name!r} has options {unknown} that cannot be replayed")
    result = dict(defaults)
    for option, value in options.items():
        try:
            target, converted = known[option](value)
        except (TypeError, ValueError, LookupError) as error:
            raise ArchiveError(
                f"its transform {name!r} has {option} = {value!r:.80}, which cannot be replayed"
            ) from error
        if target:
            result[target] = converted
    return result


Converter = Callable[[Any], tuple[str, Any]]


def _number(name: str) -> Converter:
    return lambda value: (name, float(value))


def _integer(name: str, most: int | None = None) -> Converter:
    def convert(value: Any) -> tuple[str, Any]:
        if type(value) is not int or (most is not None and value > most):
            raise TypeError(value)
        return name, value

    return convert


def _pair(name: str) -> Converter:
    def convert(value: Any) -> tuple[str, Any]:
        low, high = value
        return name, (float(low), float(high))

    return convert


def _square(value: Any) -> tuple[str, Any]:
    sides = {value} if type(value) is int else set(value)
    (side,) = sides
    return _integer("size")(side)


def _resized(value: Any) -> tuple[str, Any]:
    """As in torchvision: one integer is the shorter side, two are height and width."""
    if type(value) is int or len(value) == 1:
        return _square(value)
    height, width = value
    return "size", (_integer("")(height)[1], _integer("")(width)[1])


def _interpolation(value: Any) -> tuple[str, Any]:
    return "interpolation", _INTERPOLATIONS[value]


def _only(*allowed: Any) -> Converter:
    def convert(value: Any) -> tuple[str, Any]:
        if value not in allowed:
            raise ValueError(value)
        return "", None

    return convert


def _padding(value: Any) -> tuple[str, Any]:
    return _integer("padding")(0 if value is None else value)


def _ignored(value: Any) -> tuple[str, Any]:
    # Pillow always antialiases, and ml-dr always erases with zeros.
    return "", None


# Options by transform, in ml-dr's order of application; and what torchvision and ml-dr assume
# where an option is not given.
_TRANSLATIONS: dict[str, dict[str, Converter]] = {
    "resize": {
        "size": _resized,
        "interpolation": _interpolation,
        "max_size": _only(None),
        "antialias": _ignored,
    },
    "center_crop": {"size": _square},
    "random_crop": {
        "size": _square,
        "padding": _padding,
        "pad_if_needed": _only(False),
        "fill": _only(0),
        "padding_mode": _only("constant"),
    },
    "random_resized_crop": {
        "size": _square,
        "scale": _pair("scale"),
        "ratio": _pair("ratio"),
        "interpolation": _interpolation,
        "antialias": _ignored,
    },
    "random_horizontal_flip": {"p": _number("p")},
    "rand_augment": {
        "p": _number("p"),
        "num_ops": _integer("num_ops", _MOST_OPERATIONS),
        "magnitude": _integer("magnitude"),
        "num_magnitude_bins": _integer("num_magnitude_bins"),
        "interpolation": _only(0, "nearest"),
        "fill": _only(None, 0, [0, 0, 0]),
    },
    "random_erase": {
        "p": _number("p"),
        "scale": _pair("scale"),
        "ratio": _pair("ratio"),
        "value": _ignored,
        "inplace": _ignored,
    },
    "mixup": {"alpha": _number("alpha"), "p": _number("p"), "div_by": _number("div_by")},
    "cutmix": {"alpha": _number("alpha"), "p": _number("p")},
}
_DEFAULTS: dict[str, dict[str, Any]] = {
    "resize": {"interpolation": "bilinear"},
    "center_crop": {},
    "random_crop": {"padding": 0},
    "random_resized_crop": {
        "scale": (0.08, 1.0),
        "ratio": (3 / 4, 4 / 3),
        "interpolation": "bilinear",
    },
    "random_horizontal_flip": {"p": 0.5},
    "rand_augment": {"p": 1.0, "num_ops": 2, "magnitude": 9, "num_magnitude_bins": 31},
    "random_erase": {"p": 0.5, "scale": (0.02, 0.33), "ratio": (0.3, 3.3)},
    "mixup": {"alpha": 1.0, "p": 1.0, "div_by": 1.0},
    "cutmix": {"alpha": 1.0, "p": 1.0},
}
