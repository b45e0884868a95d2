"""A logger that Detectron2's tools configure."""

from __future__ import annotations

import logging

# They configure the logger "detectron2" and its children only.
logger = logging.getLogger("detectron2.d2_ext")
