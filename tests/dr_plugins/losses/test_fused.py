"""The Triton kernels of the loss: interpreted, compiled, and run where there is a GPU."""

from __future__ import annotations

import logging
import re
from pathlib import Path
from typing import Any

import pytest
import torch

from dr_plugins.losses import fused_check as fused_loss_check
from dr_plugins.losses import kd_loss as plain
from dr_plugins.losses.kd_loss import KDLoss
from dr_plugins.targets import SparseTargets
from tests.dr_plugins.losses.oracles import random_logits, random_targets
from tests.kernels import compile_kernel, run_interpreted

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
DENSIFY = ("smooth", "zeros")
needs_gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")


def gradient_of(losses: torch.Tensor, logits: torch.Tensor, outer: torch.Tensor) -> torch.Tensor:
    return torch.autograd.grad(losses, logits, outer)[0]


def broken(*_: Any, **__: Any) -> torch.Tensor:
    raise RuntimeError("Failed to find C compiler\nand more")


def off(logits: torch.Tensor, targets: SparseTargets, label_weight: float) -> torch.Tensor:
    return plain.plain_rows(logits, targets, label_weight=label_weight) * 1.001


def meaningless(logits: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return logits.sum(1) * float("nan")


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (broken, "RuntimeError: Failed to find C compiler"),
        (off, "it is off by 0.013"),
        (meaningless, "it is off by inf"),
    ],
)
def test_kernels_that_do_not_work_are_not_used(
    function: Any,
    message: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    real = pytest.importorskip("dr_plugins.losses.fused")
    monkeypatch.setattr(real, "fused_loss", function)
    with caplog.at_level(logging.WARNING), torch.inference_mode():
        assert not fused_loss_check._try_kernels(torch.device("cpu"))
    (record,) = caplog.records
    expected = f"KDLoss on cpu without its Triton kernels, slower: {message}"
    assert record.getMessage() == expected


def test_a_bad_moment_decides_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    device, tried = torch.device("cpu"), []
    monkeypatch.setattr(fused_loss_check, "_found", {})
    monkeypatch.setattr(fused_loss_check, "_try_kernels", lambda d: tried.append(d) is None)

    def loss(x: torch.Tensor) -> torch.Tensor:
        assert not fused_loss_check.kernels_work(device)
        return x.sum()

    torch.func.grad(loss)(torch.ones(2))
    assert not tried
    for _ in range(2):
        assert fused_loss_check.kernels_work(device)
    assert tried == [device]


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_the_check_does_not_depend_on_defaults(default: torch.dtype) -> None:
    seen = []

    def fused(logits: torch.Tensor, targets: SparseTargets, label_weight: float) -> torch.Tensor:
        seen.append(logits.dtype)
        return plain.plain_rows(logits, targets, label_weight=label_weight)

    before = torch.get_default_dtype()
    torch.set_default_dtype(default)
    try:
        assert fused_loss_check._disagreement(fused, torch.device("cpu")) == 0
    finally:
        torch.set_default_dtype(before)
    assert seen == [torch.float32]


@pytest.mark.parametrize("marked", ["not slow", pytest.param("slow", marks=pytest.mark.slow)])
def test_in_the_interpreter(marked: str) -> None:
    counted = run_interpreted(Path(__file__).with_name("interpreted_fused_loss.py"), "-m", marked)
    assert re.match(r"\d+ passed, \d+ deselected in", counted)


TYPES = {
    **dict.fromkeys(("probs", "rows", "stats", "grad_rows"), "*fp32"),
    **dict.fromkeys(("ids", "labels"), "*i64"),
    **dict.fromkeys(("stride", "grad_stride", "classes", "k"), "i32"),
    **dict.fromkeys(("temperature", "label_weight"), "fp32"),
}


@pytest.mark.parametrize("dtype", ["fp32", "bf16", "fp16"])
@pytest.mark.parametrize("smooth", [True, False])
def test_kernels_compile_for_a_gpu(dtype: str, smooth: bool) -> None:
    module = pytest.importorskip("dr_plugins.losses.fused")
    types = {**TYPES, "logits": f"*{dtype}", "grad": f"*{dtype}"}
    flags = dict.fromkeys(("smooth", "with_labels", "softened"), smooth)
    constants = {**flags, "slots": 16, "block": 4096}
    code = compile_kernel(module._forward, types, {**constants, "with_entropy": True})
    assert ".target sm_90" in code
    code = compile_kernel(module._backward, types, constants)
    assert ".target sm_90" in code
    # Rounded to the nearest; Triton's interpreter cuts bfloat16 off.
    assert dtype == "fp32" or re.search(rf"cvt\.rn\.{dtype.replace('fp', 'f')}(x2)?\.f32", code)
    # Arguments that are 1 are constants for Triton.
    ones = {**constants, "slots": 1, "k": 1, "stride": 1, "classes": 1}
    assert compile_kernel(module._forward, types, {**ones, "with_entropy": False})
    assert compile_kernel(module._backward, types, {**ones, "grad_stride": 1})


# --- on a GPU -------------------------------------------------------------------------------------


@needs_gpu
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("densify", DENSIFY)
@pytest.mark.parametrize(
    ("temperature", "weight"), [(1.0, 0.0), (2.5, 0.0), (1.0, 0.3), (2.5, 0.3)]
)
def test_on_a_gpu(dtype: torch.dtype, densify: str, temperature: float, weight: float) -> None:
    for classes, k in ((10, 10), (1000, 10), (21841, 5)):
        targets = random_targets(classes, 64, classes, k, densify).to("cuda")
        logits = random_logits(classes, 64, classes).to("cuda", dtype).requires_grad_()
        assert plain._fused_for(logits) is not None
        found = KDLoss(temperature, weight, "none")(logits, targets)
        expected = plain.plain_rows(logits, targets, temperature, weight)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
        outer = torch.randn(64, device="cuda")
        slopes = gradient_of(found, logits, outer), gradient_of(expected, logits, outer)
        torch.testing.assert_close(*slopes)


def peak_of(loss: Any, logits: torch.Tensor, targets: SparseTargets) -> float:
    """Most memory of forward and backward, in the logits' sizes."""
    for _ in range(2):
        logits.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        loss(logits, targets).backward()
        peak = torch.cuda.max_memory_allocated() - before
    return peak / (logits.numel() * logits.element_size())


@needs_gpu
@pytest.mark.parametrize("compiled", [False, True])
def test_memory_on_a_gpu(compiled: bool) -> None:
    torch._dynamo.reset()
    loss = torch.compile(KDLoss(), fullgraph=True) if compiled else KDLoss()
    logits = torch.randn(256, 21841, device="cuda", requires_grad=True)
    targets = random_targets(0, 256, 21841, 10).to("cuda")
    assert peak_of(loss, logits, targets) < 1.1


@needs_gpu
def test_autocast_on_a_gpu() -> None:
    logits, targets = torch.randn(8, 100, device="cuda"), random_targets(0, 8, 100, 10).to("cuda")
    with torch.autocast("cuda", torch.bfloat16):
        found = KDLoss()(logits.bfloat16(), targets)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, plain.plain_rows(logits.bfloat16(), targets).mean())


@needs_gpu
def test_a_cuda_graph_on_a_gpu() -> None:
    logits = torch.randn(8, 100, device="cuda", requires_grad=True)
    targets = random_targets(0, 8, 100, 10).to("cuda")
    criterion = KDLoss()
    stream = torch.cuda.Stream()
    with torch.cuda.stream(stream):
        for _ in range(3):
            torch.autograd.grad(criterion(logits, targets), logits)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        loss = criterion(logits, targets)
        (slope,) = torch.autograd.grad(loss, logits)
    with torch.no_grad():
        logits.mul_(2)
    graph.replay()
    expected = criterion(logits, targets)
    torch.testing.assert_close(loss, expected)
    torch.testing.assert_close(slope, torch.autograd.grad(expected, logits)[0])
