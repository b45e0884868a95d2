"""Pretraining on a reinforced dataset with Detectron2's trainer and a yacs file.

python pretrain_net.py --config-file pretrain_R_50.yaml --num-gpus 8
"""

from __future__ import annotations

import argparse
from typing import Any

from detectron2.checkpoint import DetectionCheckpointer
from detectron2.config import get_cfg
from detectron2.engine import default_argument_parser, default_setup, launch

import d2_ext


def main(args: argparse.Namespace) -> Any:
    """Train, or evaluate with ``--eval-only``."""
    cfg = get_cfg()
    d2_ext.add_dr_plugins_config(cfg)
    cfg.merge_from_file(args.config_file)
    cfg.merge_from_list(args.opts)
    cfg.freeze()
    default_setup(cfg, args)
    if args.eval_only:
        model = d2_ext.ReinforcedTrainer.build_model(cfg)
        DetectionCheckpointer(model, cfg.OUTPUT_DIR).resume_or_load(
            cfg.MODEL.WEIGHTS, resume=args.resume
        )
        return d2_ext.ReinforcedTrainer.test(cfg, model)
    trainer = d2_ext.ReinforcedTrainer(cfg)
    trainer.resume_or_load(resume=args.resume)
    return trainer.train()


if __name__ == "__main__":
    arguments = default_argument_parser().parse_args()
    launch(
        main,
        arguments.num_gpus,
        num_machines=arguments.num_machines,
        machine_rank=arguments.machine_rank,
        dist_url=arguments.dist_url,
        args=(arguments,),
    )
