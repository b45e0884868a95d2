"""Run a tool of Detectron2 as it is, also where there is only the sdist: ``run_tool.py TOOL ...``.

The photographs are added to Detectron2's catalogue before the tool starts.
"""

from __future__ import annotations

import os
import runpy
import sys

import torch

from tests.d2_ext import stand_ins


def main() -> None:
    torch.set_num_threads(1)
    stand_ins.install()
    stand_ins.use_python_evaluation()
    from detectron2.data.datasets import register_coco_instances

    folder = os.environ.get("COCO_FOLDER")
    if folder:
        register_coco_instances("labelme", {}, f"{folder}/annotations.json", folder)
    sys.argv = sys.argv[1:]
    sys.path[0] = os.path.dirname(sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")


if __name__ == "__main__":
    main()
