"""The job files for clusters: their syntax, and the options of the commands in them."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path
from typing import Any

import click
import pytest
import yaml

from dr_plugins.cli.reinforce import reinforce

FOLDER = Path(__file__).parents[2] / "examples" / "cluster"
SCRIPTS = sorted(FOLDER.glob("*.sh"))
MANIFESTS = sorted(FOLDER.glob("*.yaml"))


def script_of(file: Path) -> str:
    """The shell commands of a job file."""
    if file.suffix == ".sh":
        return file.read_text()
    job = yaml.safe_load(file.read_text())
    if "run" in job:
        return str(job["run"])
    (container,) = job["spec"]["template"]["spec"]["containers"]
    return str(container["args"][0])


def command_of(file: Path) -> list[str]:
    """The words of its long command, with variables replaced by the number 1."""
    text = script_of(file).replace("\\\n", " ").replace('"$@"', "")
    (line,) = [line for line in text.splitlines() if " reinforce " in line]
    # Innermost first: "$(echo "$NODES" | head -n 1):29500" is one word.
    line = re.sub(r"\$\{?[A-Z_]+(:-[^}]*)?\}?|\$[a-z_]+", "1", line)
    line = re.sub(r"\$\(\([^)]*\)\)|\$\([^)]*\)", "1", line)
    return shlex.split(line)


@pytest.mark.parametrize("file", [*SCRIPTS, *MANIFESTS], ids=lambda file: file.name)
def test_the_shell_understands_it(file: Path) -> None:
    subprocess.run(["bash", "-n"], input=script_of(file), text=True, check=True)


@pytest.mark.parametrize("file", [*SCRIPTS, *MANIFESTS], ids=lambda file: file.name)
def test_its_command_is_one_of_ours(file: Path) -> None:
    words = command_of(file)
    arguments = words[words.index("reinforce") + 1 :]
    context: Any = reinforce.make_context("reinforce", arguments)
    assert context.params["teachers"]
    assert isinstance(context, click.Context)


@pytest.mark.parametrize(
    "file", [f for f in (*SCRIPTS, *MANIFESTS) if "torchrun" in f.read_text()], ids=lambda f: f.name
)
def test_torchrun_understands_its_options(file: Path) -> None:
    from torch.distributed.run import get_args_parser

    words = command_of(file)
    arguments = get_args_parser().parse_args(words[words.index("torchrun") + 1 :])
    assert (arguments.module, arguments.training_script) == (True, "dr_plugins")
    assert arguments.max_restarts > 0


@pytest.mark.parametrize(
    "file", [f for f in SCRIPTS if "srun" in f.read_text()], ids=lambda f: f.name
)
def test_srun_gives_the_command_all_cpus(file: Path) -> None:
    words = command_of(file)
    assert words[words.index("srun") + 1] == "--cpus-per-task"


def test_parts_and_pods_are_as_many() -> None:
    job = yaml.safe_load((FOLDER / "kubernetes.yaml").read_text())["spec"]
    pod = job["template"]["spec"]
    script = pod["containers"][0]["args"][0]
    assert f'))/{job["completions"]}"' in script
    grace = re.search(r"--grace ([0-9]+)", script)
    assert grace is not None
    assert int(grace[1]) < pod["terminationGracePeriodSeconds"]
    mounted = {mount["name"] for mount in pod["containers"][0]["volumeMounts"]}
    assert mounted == {volume["name"] for volume in pod["volumes"]}
