"""Triton kernels on machines without a GPU: run by Triton's interpreter, or only compiled."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

HOPPER = 90


def run_interpreted(file: Path, *options: str) -> str:
    """Run a file of tests in a process of its own, where Triton interprets kernels on the CPU.

    Triton's own functions are kernels too, and decorated for one way or the other when it is
    imported.

    Args:
        file: The file.
        options: More options of pytest.

    Returns:
        The last line of the output, which counts the tests.
    """
    pytest.importorskip("triton")
    quiet = ["-q", "-W", "ignore", "-p", "no:cacheprovider"]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", *quiet, *options, str(file)],
        env={**os.environ, "TRITON_INTERPRET": "1", "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-5000:] + done.stderr[-2000:]
    return done.stdout.strip().splitlines()[-1]


def compile_kernel(
    kernel: Any, types: Mapping[str, str], constants: Mapping[str, Any], capability: int = HOPPER
) -> str:
    """Compile a kernel to machine code of an NVIDIA GPU; no GPU is needed.

    Args:
        kernel: The kernel.
        types: Triton's type of each argument, such as ``"*fp32"``.
        constants: Values of the constant ones.
        capability: 10 times CUDA's compute capability.

    Returns:
        The PTX code.
    """
    from triton import compile
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    if "constexprs" not in inspect.signature(ASTSource).parameters:
        pytest.skip("Triton 3.2, of torch 2.6, compiles for absent GPUs by another interface")
    names = kernel.arg_names
    signature = {n: "constexpr" if n in constants else types[n] for n in names}
    values = {(names.index(n),): value for n, value in constants.items()}
    source = ASTSource(fn=kernel, signature=signature, constexprs=values)
    compiled = compile(source, target=GPUTarget("cuda", capability, 32))
    assert compiled.asm["cubin"]
    return compiled.asm["ptx"]
