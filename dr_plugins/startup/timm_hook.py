"""Registers `timm_ext` as soon as timm has been imported.

``dr-plugins enable timm`` puts a copy of this file into site-packages, where a ``.pth`` file calls
`install` whenever Python starts. So this module imports almost nothing, and does not need
dr-plugins until timm is imported.
"""

import sys

TYPE_CHECKING = False  # importing `typing` would take half as long as starting Python
if TYPE_CHECKING:
    from typing import Any


def install() -> None:
    """Install the import hook for timm, unless it is already installed."""
    if not any(type(finder).__name__ == TimmFinder.__name__ for finder in sys.meta_path):
        sys.meta_path.insert(0, TimmFinder())


class TimmFinder:
    """Finds timm through the other finders, and adds a loader that registers `timm_ext`."""

    def find_spec(self, name: str, path: "Any" = None, target: "Any" = None) -> "Any":
        """Return the other finders' spec of timm; None for every other module."""
        if name != "timm":
            return None
        for finder in sys.meta_path:
            find = None if finder is self else getattr(finder, "find_spec", None)
            spec = find and find(name, path, target)
            if spec is not None:
                if spec.loader is not None:
                    spec.loader = _Loader(spec.loader, self)
                return spec
        return None


class _Loader:
    """Wraps timm's loader and registers `timm_ext` after executing timm."""

    def __init__(self, loader: "Any", finder: "TimmFinder") -> None:
        self.loader = loader
        self.finder = finder

    def __getattr__(self, name: str) -> "Any":
        return getattr(self.loader, name)

    def create_module(self, spec: "Any") -> "Any":
        return self.loader.create_module(spec)

    def exec_module(self, module: "Any") -> None:
        module.__spec__.loader = module.__loader__ = self.loader
        self.loader.exec_module(module)
        if self.finder in sys.meta_path:
            sys.meta_path.remove(self.finder)
        _register()


def _register() -> None:
    # timm's package is complete by now, but the import statement is still running: names that a
    # script then imports from timm will be ours.
    if "timm_ext" in sys.modules:  # timm_ext itself is importing timm
        return
    try:
        import timm_ext  # noqa: F401
    # Even if dr-plugins is broken, other projects in this environment must be able to use timm.
    except Exception as error:
        # Be silent about an uninstalled package until one of its names is used.
        if getattr(error, "name", None) != "timm_ext":
            _say(
                "timm_ext cannot be imported, so timm has no reinforced datasets "
                f"({type(error).__name__}: {error}); `dr-plugins disable timm` ends this warning"
            )
        _refuse_names(error)
    else:
        _say(
            "timm_ext is registered: timm accepts reinforced datasets (`dr-plugins disable timm` "
            "undoes this)"
        )


def _refuse_names(reason: Exception) -> None:
    """Make names of reinforced datasets fail: timm would silently train on hard labels."""
    factory = sys.modules.get("timm.data.dataset_factory")
    original: Any = getattr(factory, "create_dataset", None)

    def create_dataset(name: str, *args: "Any", **kwargs: "Any") -> "Any":
        head = name.partition("?")[0].lower()
        if head.endswith("-plus") or head == "reinforced":
            raise RuntimeError(
                f"dataset {name!r} is a reinforced one, but timm_ext cannot be imported "
                f"({type(reason).__name__}: {reason}). Repair it with `pip install -U "
                f"'dr-plugins[timm]'`, or remove {__file__} and the .pth file next to it"
            ) from reason
        return original(name, *args, **kwargs)

    for module in (factory, sys.modules.get("timm.data")):
        if original is not None and getattr(module, "create_dataset", None) is original:
            vars(module)["create_dataset"] = create_dataset


def _say(message: str) -> None:
    """Log one line per training run, not per process; logging is rarely configured on import."""
    import logging
    import multiprocessing
    import os

    if os.environ.get("RANK", "0") != "0" or multiprocessing.parent_process() is not None:
        return
    if logging.getLogger().handlers:
        logging.getLogger("timm_ext").info(message)
    else:
        sys.stderr.write(f"{message}\n")
