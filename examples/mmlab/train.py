"""Train from a config with MMEngine alone, which ships no training script.

python examples/mmlab/train.py examples/mmlab/resnet50_imagenet-plus.py --work-dir runs/resnet50
"""

from __future__ import annotations

import argparse

from mmengine.config import Config, DictAction
from mmengine.runner import Runner


def main() -> None:
    """Read the arguments, and train."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("config")
    parser.add_argument("--work-dir", required=True)
    parser.add_argument("--resume", action="store_true", help="from the last checkpoint, if any")
    parser.add_argument("--launcher", default="none", choices=["none", "pytorch", "slurm", "mpi"])
    parser.add_argument("--cfg-options", nargs="+", action=DictAction, default={})
    arguments = parser.parse_args()
    config = Config.fromfile(arguments.config)
    config.merge_from_dict(arguments.cfg_options)
    config.work_dir, config.resume = arguments.work_dir, arguments.resume
    config.launcher = arguments.launcher
    Runner.from_cfg(config).train()


if __name__ == "__main__":
    main()
