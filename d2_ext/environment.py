"""Registration for tools that cannot import this package themselves."""

from __future__ import annotations

__all__ = ["setup_environment"]


def setup_environment() -> None:
    """Let every `get_cfg()` know this package's keys.

    Detectron2 calls this when it is imported with ``DETECTRON2_ENV_MODULE=d2_ext`` in the
    environment, its own seam for such set-ups: with it an unmodified ``tools/train_net.py`` reads
    yacs files that use this package.

    Example:
        >>> from detectron2.config import get_cfg
        >>> setup_environment()
        >>> get_cfg().MODEL.DR_TIMM.NAME
        'resnet50'
    """
    # Within the function: with that variable set, an import of Detectron2 leads here before it is
    # finished itself.
    from detectron2.config.defaults import _C

    from d2_ext.config import add_dr_plugins_config

    add_dr_plugins_config(_C)
