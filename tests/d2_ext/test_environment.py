"""Importing the package, in processes that have not imported Detectron2 yet."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest

pytest.importorskip("detectron2")

ROOT = Path(__file__).resolve().parents[2]

# One interpreter for all cases, because starting it takes seconds: it imports what Detectron2
# needs, and forks a process for each case.
FORKING = """
import json, os, sys, traceback
import fvcore.common.checkpoint, iopath, omegaconf, torchvision
from tests.d2_ext import stand_ins

stand_ins.install()
results = {}
for name, (code, environment) in json.loads(sys.argv[1]).items():
    read, write = os.pipe()
    if not os.fork():
        os.environ.update(environment)
        try:
            answer = {}
            exec(code, {"answer": answer})
        except BaseException:
            answer = {"error": traceback.format_exc()}
        os.write(write, json.dumps(answer).encode())
        os._exit(0)
    os.close(write)
    with open(read) as pipe:
        results[name] = json.loads(pipe.read())
    os.wait()
print(json.dumps(results))
"""

# What Detic registers and configures, which others have as well.
OTHER_PROJECT = """
from detectron2.config import CfgNode, get_cfg
from detectron2.modeling import BACKBONE_REGISTRY

def build_timm_backbone(cfg, input_shape): ...
def build_p67_timm_fpn_backbone(cfg, input_shape): ...
def configure(cfg): cfg.MODEL.TIMM = CfgNode({"BASE_NAME": "resnet50", "NORM": "FrozenBN"})

BACKBONE_REGISTRY.register(build_timm_backbone)
BACKBONE_REGISTRY.register(build_p67_timm_fpn_backbone)
"""
BOTH = """
cfg = get_cfg()
d2_ext.add_dr_plugins_config(cfg)
configure(cfg)
d2_ext.add_dr_plugins_config(cfg)
answer["theirs"] = BACKBONE_REGISTRY.get("build_timm_backbone") is build_timm_backbone
answer["keys"] = [cfg.MODEL.TIMM.BASE_NAME, cfg.MODEL.DR_TIMM.NAME]
answer["ours"] = BACKBONE_REGISTRY.get("build_dr_timm_backbone") is d2_ext.build_dr_timm_backbone
"""
READ = "; from detectron2.config import get_cfg; answer['p'] = get_cfg().REINFORCED.P"
ALONE = """
import sys, d2_ext
from detectron2.config import get_cfg
answer.update(keys="REINFORCED" in get_cfg(), timm="timm" in sys.modules)
"""
VARIABLE, NONE = {"DETECTRON2_ENV_MODULE": "d2_ext"}, {"DETECTRON2_ENV_MODULE": ""}
CASES = {
    "detectron2": ("import detectron2" + READ, VARIABLE),
    "d2_ext": ("import d2_ext" + READ, VARIABLE),
    "detectron2.config": ("import detectron2.config" + READ, VARIABLE),
    "alone": (ALONE, NONE),
    "other first": (OTHER_PROJECT + "import d2_ext\n" + BOTH, NONE),
    "other second": (OTHER_PROJECT + "import d2_ext\n" + BOTH, VARIABLE),
    "without": ("import sys; sys.modules['detectron2'] = None; import d2_ext", NONE),
}


@pytest.fixture(scope="module")
def answers() -> Mapping[str, Mapping[str, object]]:
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", FORKING, json.dumps(CASES)],
        cwd=ROOT,
        env={**os.environ, **NONE},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    found: Mapping[str, Mapping[str, object]] = json.loads(done.stdout.splitlines()[-1])
    return found


@pytest.mark.parametrize("first", ["detectron2", "d2_ext", "detectron2.config"])
def test_detectron2s_variable_adds_the_keys(first: str, answers: Mapping[str, object]) -> None:
    assert answers[first] == {"p": 0.99}


def test_an_import_alone_adds_no_keys(answers: Mapping[str, object]) -> None:
    assert answers["alone"] == {"keys": False, "timm": False}


@pytest.mark.parametrize("order", ["other first", "other second"])
def test_names_of_another_project_are_left_to_it(order: str, answers: Mapping[str, object]) -> None:
    assert answers[order] == {"theirs": True, "ours": True, "keys": ["resnet50", "resnet50"]}


def test_without_detectron2(answers: Mapping[str, Mapping[str, str]]) -> None:
    error = answers["without"]["error"]
    assert "d2_ext needs Detectron2" in error
    assert "https://github.com/facebookresearch/detectron2" in error
