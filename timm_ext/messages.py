"""Log lines that appear once, however many processes train."""

from __future__ import annotations

import logging

import torch.distributed

__all__ = ["log_on_primary"]

_logger = logging.getLogger("timm_ext")


def log_on_primary(message: str, level: int = logging.INFO) -> None:
    """Log `message`; in distributed training only the first process does."""
    distributed = torch.distributed.is_available() and torch.distributed.is_initialized()
    if not distributed or torch.distributed.get_rank() == 0:
        _logger.log(level, message)
