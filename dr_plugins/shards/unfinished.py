"""What an unfinished set is to become, and whether that is what a process wants to make."""

from __future__ import annotations

import json
from typing import Any

from dr_plugins.errors import FormatError, SettingsMismatchError
from dr_plugins.shards.address import Place, located
from dr_plugins.shards.container import unreadable
from dr_plugins.shards.location import Location
from dr_plugins.utils.files import PROGRESS_NAME

_LONGEST_VALUE = 120  # characters of a value in a message


def read_progress(directory: Place) -> dict[str, Any]:
    """Read what an unfinished set is to become: ``settings``, ``versions`` and ``record``.

    Raises:
        FormatError: The directory has no unfinished set, or its description is damaged.
    """
    path = located(directory) / PROGRESS_NAME
    try:
        progress = json.loads(path.read_text())
        if not all(isinstance(progress[name], dict) for name in ("settings", "versions")):
            raise TypeError("settings and versions are not both JSON objects")
    except FileNotFoundError as error:
        raise FormatError(f"{directory} holds no unfinished shard set: no {path}") from error
    except OSError as error:
        raise unreadable(path, error) from error
    except (ValueError, KeyError, TypeError) as error:
        raise damaged(path, error) from error
    return dict(progress)


def damaged(path: Location, error: Exception) -> FormatError:
    """Return the error of a damaged description."""
    return FormatError(
        f"{path} is damaged ({error!r}), so the settings of the shards next to it are unknown. "
        f"Choose another directory, or delete this one."
    )


def failure_name(number: int) -> str:
    """Return the name of the file that says why shard `number` could not be made."""
    return f"failed-{number:05d}.json"


def read_failure(file: Location) -> str | None:
    """Return who failed and why; None if there is no such file."""
    try:
        note = json.loads(file.read_text())
        return f"{note['error']} ({note['by'] or 'a process'})"
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError) as error:
        return f"{file} is damaged: {error!r}"


def compare_settings(directory: Location, mine: dict[str, Any], theirs: dict[str, Any]) -> None:
    """Compare two descriptions, each with ``settings`` and ``versions``.

    Raises:
        SettingsMismatchError: They differ; names what differs.
    """
    versions = theirs["versions"]
    current = {k: v for k, v in mine["versions"].items() if k in versions}
    there, now = _flat({**theirs["settings"], **versions}), _flat({**mine["settings"], **current})
    differing = [
        f"{name}: {_short(there, name)} there, {_short(now, name)} now"
        for name in {**there, **now}
        if name not in there or name not in now or there[name] != now[name]
    ]
    if differing:
        raise SettingsMismatchError(
            f"{directory} was made with other settings ({'; '.join(differing)}). Use the same ones "
            f"to resume, or choose another directory."
        )


def _flat(settings: dict[str, Any]) -> dict[str, Any]:
    """The settings with one entry per part of the policy, to name the part in a message."""
    policy = {f"policy {name}": value for name, value in settings["policy"].items()}
    return {**policy, **{name: value for name, value in settings.items() if name != "policy"}}


def _short(settings: dict[str, Any], name: str) -> str:
    text = repr(settings[name]) if name in settings else "absent"
    return text if len(text) <= _LONGEST_VALUE else f"{text[:_LONGEST_VALUE]}..."
