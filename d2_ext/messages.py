"""Log messages where Detectron2's tools show them."""

from __future__ import annotations

import logging

__all__ = ["logger"]

# Detectron2's tools set up its own logger and those below it, and no others.
logger = logging.getLogger("detectron2.d2_ext")
