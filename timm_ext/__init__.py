"""Reinforced datasets in timm: names, loader and loss for an unmodified ``train.py``.

    python train.py --device-modules timm_ext --dataset imagenet-plus --data-dir imagenet ...

Importing this package registers it with timm, see `register`. After ``dr-plugins enable timm``,
importing timm does so, and ``--dataset imagenet-plus`` is enough; ``python -m timm_ext`` runs
versions of ``train.py`` without ``--device-modules``. Other training loops call the functions.
"""

import re

try:
    import timm
except ImportError as error:
    raise ImportError(
        f"timm_ext needs timm, which cannot be imported: {error}. "
        f"Install it with `pip install dr-plugins[timm]`."
    ) from error

if [int(number) for number in re.findall(r"\d+", timm.__version__)[:3]] < [1, 0, 16]:
    raise ImportError(
        f"timm_ext needs timm 1.0.16 or newer, but {timm.__version__} is installed. Upgrade with "
        f"`pip install -U timm`."
    )

from dr_plugins.utils.advice import add_advice
from timm_ext.datasets import create_dataset
from timm_ext.errors import (
    DatasetNameError,
    ImagesNotFoundError,
    ShardsNotFoundError,
    UnsupportedOptionError,
)
from timm_ext.loader import create_loader
from timm_ext.loss import create_loss
from timm_ext.registration import register

__all__ = [
    "DatasetNameError",
    "ImagesNotFoundError",
    "ShardsNotFoundError",
    "UnsupportedOptionError",
    "create_dataset",
    "create_loader",
    "create_loss",
    "register",
]

# A hook may import this package during `import timm`, before timm has models.
if hasattr(timm, "create_model"):
    import dr_models.networks  # noqa: F401  registers its networks with timm

add_advice(
    "timm",
    class_map="--class-map FILE",
    num_classes="--num-classes N",
    temperature="leave out --smoothing 0, which selects a cross-entropy without temperature",
)
register()
