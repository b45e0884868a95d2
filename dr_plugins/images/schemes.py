"""How commands name images that are no directory: ``SCHEME:REST``.

What a scheme needs is imported when it is used: ``--help`` shows the table without PyTorch. Any
package can add a scheme: a function as `Scheme.open`, as an entry point of ``dr_plugins.images``::

    [project.entry-points."dr_plugins.images"]
    lmdb = "my_package.images:open_lmdb"
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from importlib.metadata import EntryPoint, entry_points
from typing import Any, NamedTuple

_GROUP = "dr_plugins.images"


class Scheme(NamedTuple):
    """One way of naming images.

    Attributes:
        rest: What follows the colon, for help and messages.
        open: From that, the names of the classes (or None), and whether to use the training split,
            to a dataset that `ImageSource` takes.
    """

    rest: str
    open: Callable[[str, Sequence[str] | None, bool], Any]


def _open_torchvision(rest: str, class_names: Sequence[str] | None, train: bool) -> Any:
    from dr_plugins.images.torchvision_sets import open_torchvision

    name, root = rest.split(":", 1)
    return open_torchvision(name, root, train)


def _open_hub(rest: str, class_names: Sequence[str] | None, train: bool) -> Any:
    from dr_plugins.images.stored import open_hub

    return open_hub(rest, "train" if train else "validation", class_names)


def _open_tar(rest: str, class_names: Sequence[str] | None, train: bool) -> Any:
    from dr_plugins.images.archives import TarImages

    return TarImages(rest, class_names)


def _open_list(rest: str, class_names: Sequence[str] | None, train: bool) -> Any:
    from dr_plugins.images.stored import ListedImages

    return ListedImages(rest, class_names=class_names)


SCHEMES = {
    "torchvision": Scheme("NAME:ROOT", _open_torchvision),
    "hf": Scheme("NAME", _open_hub),
    "tar": Scheme("PATTERN", _open_tar),
    "list": Scheme("FILE", _open_list),
}


def find_opener(name: str) -> Callable[[str, Sequence[str] | None, bool], Any] | None:
    """Return how a scheme's images are opened, see `Scheme`; None if there is no such scheme.

    Raises:
        ImportError: The scheme's package lacks a module.
        AttributeError: Its entry point names something that is not there.
    """
    if name in SCHEMES:
        return SCHEMES[name].open
    return _installed()[name].load() if name in _installed() else None


def _installed() -> dict[str, EntryPoint]:
    return {entry.name: entry for entry in entry_points(group=_GROUP)}


def usage() -> str:
    """Return the forms of all schemes, for help and messages.

    Example:
        >>> usage()
        'torchvision:NAME:ROOT, hf:NAME, tar:PATTERN or list:FILE'
    """
    ours = [f"{name}:{scheme.rest}" for name, scheme in SCHEMES.items()]
    *forms, last = ours + [f"{name}:..." for name in sorted(_installed()) if name not in SCHEMES]
    return f"{', '.join(forms)} or {last}"
