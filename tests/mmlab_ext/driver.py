"""Runs a framework's own script as it is, on a machine that may lack GPUs and mmcv's operators.

python tests/mmlab_ext/driver.py path/to/tools/train.py config.py ...
"""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.mmlab_ext.configs import unformatted
from tests.mmlab_ext.stand_ins import install

if __name__ == "__main__":
    torch.set_num_threads(1)
    install()
    import mmengine.config.config

    mmengine.config.config.FormatCode = unformatted
    # Where torchrun started this; MMEngine would choose a GPU before.
    if "RANK" in os.environ:
        torch.distributed.init_process_group("gloo")
    sys.argv = sys.argv[1:]
    runpy.run_path(sys.argv[0], run_name="__main__")
