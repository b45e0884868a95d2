"""Set-up for tools that do not import this package, such as ``tools/train_net.py``."""

from __future__ import annotations


def setup_environment() -> None:
    """Add this package's keys to every `get_cfg()`.

    Detectron2 calls this on import if ``DETECTRON2_ENV_MODULE=d2_ext`` is set, its hook for custom
    set-up. An unmodified ``tools/train_net.py`` can then read yacs files that use this package.

    Example:
        >>> from detectron2.config import get_cfg
        >>> setup_environment()
        >>> get_cfg().MODEL.DR_TIMM.NAME
        'resnet50'
    """
    # Imported here, because this may run while Detectron2 is still being imported.
    from detectron2.config.defaults import _C

    from d2_ext.config import add_dr_plugins_config

    add_dr_plugins_config(_C)
