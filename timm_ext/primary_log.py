"""Logging on the first process only."""

from __future__ import annotations

import logging

import torch.distributed

_logger = logging.getLogger("timm_ext")


def is_primary() -> bool:
    """Whether this is the first process, or the only one."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    return not distributed or torch.distributed.get_rank() == 0


def log_on_primary(message: str, level: int = logging.INFO) -> None:
    """Log `message` on the first process only."""
    if is_primary():
        _logger.log(level, message)
