"""Reading policies: the presets of this package, and YAML files."""

from __future__ import annotations

from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from dr_plugins.errors import PolicyError

_PRESETS = resources.files("dr_plugins.policies") / "presets"


def preset_names() -> list[str]:
    """Return the names of the presets."""
    return sorted(Path(entry.name).stem for entry in _PRESETS.iterdir())


def read_policy(name_or_path: str) -> dict[str, Any]:
    """Read a preset, or a file that may extend one.

    Args:
        name_or_path: One of `preset_names`, or the path of a ``.yaml`` file.

    Returns:
        ``{transform name: {hyper-parameter: value}}``, for `Policy.from_config`.

    Raises:
        PolicyError: The preset is unknown, or the file is unreadable or holds no mapping.
    """
    if name_or_path in preset_names():
        text = (_PRESETS / f"{name_or_path}.yaml").read_text(encoding="utf-8")
    else:
        try:
            text = Path(name_or_path).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise PolicyError(
                f"{name_or_path!r} is neither a preset ({', '.join(preset_names())}) nor a "
                f"readable YAML file: {error}"
            ) from error
    try:
        config = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise PolicyError(f"{name_or_path} is not valid YAML: {error}") from error
    if not isinstance(config, dict):
        raise PolicyError(f"{name_or_path} does not hold a mapping of transforms")
    preset = config.pop("preset", None)
    if preset is None:
        return config
    if preset not in preset_names():
        raise PolicyError(f"unknown preset {preset!r}; expected one of {', '.join(preset_names())}")
    return _merge(read_policy(preset), config)


def _merge(base: dict[str, Any], changes: dict[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for name, value in changes.items():
        both = isinstance(value, dict) and isinstance(base.get(name), dict)
        merged[name] = {**base[name], **value} if both else value
    return merged
