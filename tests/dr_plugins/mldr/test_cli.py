from __future__ import annotations

import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from dr_plugins.cli.mldr import download, import_mldr

from .conftest import Members, write_tar


def test_importing(images: Path, tmp_path: Path, archive: Path) -> None:
    arguments = [str(archive), "--out", str(tmp_path / "set"), "--workers", "0", "--quiet"]
    result = CliRunner().invoke(import_mldr, [*arguments, "--images", str(images)])
    assert result.exit_code == 0, result.output
    assert "100.0% of the images" in result.output
    assert "12 images x 3 reinforcements, top-2 of 4 classes" in result.output


def test_importing_without_the_images(tmp_path: Path, archive: Path) -> None:
    (tmp_path / "list").write_text("\n".join(f"c{i // 3}/{i}.png" for i in range(12)))
    arguments = [str(archive), "--out", str(tmp_path / "set"), "--workers", "0", "--quiet"]
    result = CliRunner().invoke(import_mldr, arguments)
    assert result.exit_code == 2
    assert "--file-list" in result.output
    arguments += ["--file-list", str(tmp_path / "list")]
    result = CliRunner().invoke(import_mldr, arguments)
    assert result.exit_code == 0, result.output


def test_names_that_are_no_text(images: Path, tmp_path: Path, members: Members) -> None:
    name = os.fsdecode(b"a\xff.tar.gz")
    archive = write_tar(tmp_path / name, members())
    out = tmp_path / os.fsdecode(b"set\xff")
    arguments = [str(archive), "--images", str(images), "--out", str(out), "--workers", "0"]
    result = CliRunner().invoke(import_mldr, [*arguments, "--quiet"])
    assert result.exit_code == 0, result.output
    archive.write_bytes(b"no archive")
    result = CliRunner().invoke(import_mldr, [*arguments, "--quiet"])
    assert result.exit_code == 1
    assert isinstance(result.exception, SystemExit)  # a typed error, and it could be printed


def test_weak_classes_are_listed(tmp_path: Path, archive: Path) -> None:
    classes = [0, 0, 0, 1, 2, 2, 1, 1, 2, 3, 3, 3]  # the teacher's are three of each in turn
    (tmp_path / "list").write_text("\n".join(f"c{c}/{i}.png" for i, c in enumerate(classes)))
    arguments = [str(archive), "--file-list", str(tmp_path / "list"), "--out", str(tmp_path / "s")]
    result = CliRunner().invoke(import_mldr, [*arguments, "--workers", "0", "--quiet"])
    assert result.exit_code == 0, result.output  # too few images to be sure
    assert "label of 66.7% of the images" in result.output
    assert "class c1: 1 of 3 images match; 2 are classified as c2" in result.output
    assert "class c0" not in result.output


def test_errors_are_one_line(images: Path, tmp_path: Path) -> None:
    archive = write_tar(tmp_path / "a.tar.gz", [("0.pth.tar", b"\x80\x04cos\nsystem\n.")])
    arguments = [str(archive), "--images", str(images), "--out", str(tmp_path / "set")]
    result = CliRunner().invoke(import_mldr, [*arguments, "--quiet"])
    assert result.exit_code == 1
    assert result.output.startswith("Error: a.tar.gz, member '0.pth.tar'")
    assert result.output.count("\n") == 1


def test_the_list_of_published_archives() -> None:
    result = CliRunner().invoke(download, ["--list"])
    assert result.exit_code == 0
    lines = result.output.splitlines()
    assert len(lines) == 1 + 15 + 1
    assert lines[-1].startswith("* mixing-randaug-mini: ")
    assert [line.split()[:4] for line in lines if line.startswith("randaug-mini")] == [
        ["randaug-mini", "4.9", "50", "10"]
    ]


@pytest.mark.parametrize("arguments", [[], ["rrc"], ["--out", "x"]])
def test_wrong_usage(arguments: list[str]) -> None:
    assert CliRunner().invoke(download, arguments).exit_code == 2


def test_an_unknown_name(tmp_path: Path) -> None:
    result = CliRunner().invoke(download, ["nothing", "--out", str(tmp_path)])
    assert result.exit_code == 2
    assert "'nothing'; choose one of rrc, " in result.output
