"""``python docs/site/tutorial.py``: runs the tutorial as it stands, and makes its pictures."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / "docs" / "tutorial.md"
PICTURES = {
    "views.png": "tutorial-views.png",
    "results/reliability_folder.png": "tutorial-reliability.png",
}
BLOCK = re.compile(r"^```(shell|python|yaml)\n(.*?)^```$", re.M | re.S)


def run(folder: Path) -> str:
    """Run the blocks of the page, one after the other.

    A block of Python or YAML is the file that its first line names; one of shell is run.

    Args:
        folder: An empty directory.

    Returns:
        What the commands print.
    """
    path = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT)}
    printed = ""
    for language, text in BLOCK.findall(PAGE.read_text(encoding="utf-8")):
        if language != "shell":
            name = text.partition("\n")[0].removeprefix("# ")
            (folder / name).write_text(text, encoding="utf-8")
        elif not text.startswith("pip install"):
            done = subprocess.run(
                ["bash", "-ec", text],
                cwd=folder,
                env=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                check=False,
            )
            printed += f"$ {text}{done.stdout}"
            if done.returncode:
                raise RuntimeError(f"exit status {done.returncode} in {folder}\n{printed}")
    return printed


def main() -> None:
    """Run the tutorial, print what it prints, and put its pictures into ``docs/figures``."""
    figures = ROOT / "docs" / "figures"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name) / "tutorial"
        folder.mkdir()
        print(run(folder))
        for made, picture in PICTURES.items():
            shutil.copy(folder / made, figures / picture)


if __name__ == "__main__":
    main()
