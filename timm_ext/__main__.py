"""``python -m timm_ext SCRIPT ARGS...``: run a timm training script."""

from __future__ import annotations

import argparse
import runpy
import sys
import warnings
from collections.abc import Sequence
from pathlib import Path

import timm

# `-m` has imported timm_ext by now, which registers it.

_USAGE = "python -m timm_ext [-h] SCRIPT [ARGS ...]"
_DESCRIPTION = """\
Run timm's unmodified train.py with reinforced datasets registered:

  python -m timm_ext train.py --dataset imagenet-plus --data-dir imagenet --model resnet50
  torchrun --nproc_per_node=8 -m timm_ext train.py --dataset imagenet-plus ...

`python train.py --device-modules timm_ext ...` does the same.
"""
_DATASETS = """\
datasets: imagenet-plus, cifar100-plus, flowers102-plus, food101-plus, and `reinforced` for any
other. Options are part of the name, --dataset "imagenet-plus?shards=DIR&p=0.99":
  shards   directory or address of the shard set (default: $DR_PLUGINS_SHARDS, then
           DATA_DIR/reinforcements/NAME)
  p        probability of a reinforcement (default: 0.99)
  densify  smooth or zeros (default: smooth)
  check    error, warn or off: if a view is not what the teacher saw (default: error)
  skip     file with the keys of images to leave out, one a line
  seed     of the choice of reinforcements (default: --seed)
  loss     KDLoss, another name, or MODULE:CLASS; with options in brackets (default: KDLoss)
  base     only for `reinforced`: timm's name for the dataset of images, such as
           torch/fashion_mnist (default: image folder)
  images   other training images, as `dr-plugins reinforce --images` takes them: tar:train.tar
  validation  other validation images, likewise
"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the script that the arguments name, as ``python SCRIPT ARGS...`` would.

    Args:
        argv: The script and its arguments; by default those of the command line.
    """
    parser = argparse.ArgumentParser(
        prog="python -m timm_ext",
        usage=_USAGE,
        description=_DESCRIPTION,
        epilog=_DATASETS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("script", metavar="SCRIPT", help="path of the training script")
    parser.add_argument(
        "arguments", metavar="ARGS", nargs=argparse.REMAINDER, help="the script's own arguments"
    )
    options = parser.parse_args(argv)
    script = Path(options.script)
    if not script.is_file():
        parser.error(f"no such file: {options.script}; give the path of timm's train.py")
    _warn_of_another_timm(script.resolve().parent)
    sys.argv = [options.script, *options.arguments]
    sys.path.insert(0, str(script.resolve().parent))
    runpy.run_path(options.script, run_name="__main__")


def _warn_of_another_timm(folder: Path) -> None:
    """In a checkout, `python train.py` uses the timm next to it; here timm is loaded already."""
    loaded = Path(timm.__file__).resolve().parent
    if (folder / "timm" / "__init__.py").is_file() and folder / "timm" != loaded:
        warnings.warn(
            f"the script's folder has its own timm, but {loaded} is in use; to use the script's, "
            f"set PYTHONPATH={folder}",
            stacklevel=2,
        )


if __name__ == "__main__":
    main()
