"""What Detectron2 0.6 lacks on a test machine: its compiled part, and an old Pillow.

None of this is needed where Detectron2 was built from its repository, and nothing is changed there.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

from PIL import Image


def _raise(*args: Any, **kwargs: Any) -> Any:
    raise NotImplementedError("this operator needs Detectron2's compiled part")


class _Operators(types.ModuleType):
    """Any operator can be imported; none can be called."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        # These are asked for when Detectron2 logs what it runs on.
        answers = {"get_compiler_version": "none", "get_cuda_version": "none", "has_cuda": False}
        return (lambda: answers[name]) if name in answers else _raise


def is_compiled() -> bool:
    """Whether Detectron2's own operators are there; found out without importing it."""
    package = importlib.machinery.PathFinder.find_spec("detectron2")
    assert package is not None
    found = importlib.machinery.PathFinder.find_spec(
        "detectron2._C", package.submodule_search_locations
    )
    return found is not None


def install() -> None:
    """Put the stand-ins in place, before Detectron2 is imported."""
    if not is_compiled():
        operators = _Operators("detectron2._C")
        operators.__spec__ = importlib.machinery.ModuleSpec("detectron2._C", None)
        sys.modules.setdefault("detectron2._C", operators)
    if not hasattr(Image, "LINEAR"):
        Image.LINEAR = Image.BILINEAR  # type: ignore[attr-defined]


def use_python_evaluation() -> None:
    """Let `COCOEvaluator` count in Python where its compiled counterpart is absent."""
    if is_compiled():
        return
    from detectron2.evaluation import COCOEvaluator

    plain = COCOEvaluator.__init__
    if hasattr(plain, "__wrapped__"):
        return

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        plain(self, *args, **{**kwargs, "use_fast_impl": False})

    init.__wrapped__ = plain  # type: ignore[attr-defined]
    COCOEvaluator.__init__ = init


def setup_environment() -> None:
    """Install them in other interpreters, with this file in ``DETECTRON2_ENV_MODULE``."""
    install()
