"""What `dr-plugins enable` installs, in an environment with a timm of a few lines."""

from __future__ import annotations

import os
import subprocess
import sys
import venv
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from dr_plugins import startup
from dr_plugins.cli.main import main
from dr_plugins.errors import OutputError

TIMM = {
    "timm/__init__.py": "import timm.data\nfrom timm.data import create_dataset",
    "timm/data/__init__.py": "from timm.data.dataset_factory import create_dataset",
    "timm/data/dataset_factory.py": "def create_dataset(name, root=None): return [name, root]",
}
# What it finds must be a whole timm, and what a script binds must be its own.
TIMM_EXT = """
import timm, timm.data
from timm.data.dataset_factory import create_dataset as original
timm.create_dataset = timm.data.create_dataset = lambda name: ["reinforced", *original(name)]
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("environment")
    venv.create(root, symlinks=True)
    return root


@pytest.fixture
def folder(environment: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Site-packages of the environment, which these tests take for their own."""
    (site,) = environment.glob("lib/python*/site-packages")
    monkeypatch.setattr(sys, "executable", str(environment / "bin" / "python"))
    monkeypatch.setattr(startup.sysconfig, "get_path", lambda name: str(site))
    monkeypatch.setattr(startup.site, "ENABLE_USER_SITE", False)
    monkeypatch.setattr(startup.site, "getsitepackages", list)
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.chdir(tmp_path)  # `python -c` imports from where it is started
    write(tmp_path, {**TIMM, "timm_ext.py": TIMM_EXT})
    startup.disable("timm")
    return site


def write(root: Path, files: dict[str, str]) -> None:
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text)


def cli(*arguments: str) -> Result:
    return CliRunner().invoke(main, list(arguments))


def python(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        check=False,
    )


def test_enabled_shown_and_disabled(folder: Path) -> None:
    before = set(folder.rglob("*"))
    assert "timm: not enabled" in cli("hooks").stdout
    for _ in range(2):  # once more changes nothing
        result = cli("enable", "timm")
        assert result.exit_code == 0, result.output
        assert str(folder) in result.stdout
    assert "works" in cli("hooks").stdout
    assert str(folder) in cli("disable", "timm").stdout
    assert set(folder.rglob("*.*")) == {path for path in before if path.suffix}
    assert "timm: not enabled" in cli("hooks").stdout
    assert cli("disable", "timm").exit_code == 0


def test_importing_timm_registers_before_a_script_binds_names(folder: Path) -> None:
    startup.enable("timm")
    for statement in ("from timm.data import create_dataset", "from timm import create_dataset"):
        run = python(f"{statement}; print(create_dataset('imagenet-plus'))")
        assert run.stdout == "['reinforced', 'imagenet-plus', None]\n"
        assert len(run.stderr.splitlines()) == 1
        assert "timm_ext" in run.stderr


def test_starting_python_loads_nothing_and_says_nothing(folder: Path) -> None:
    plain = python("import sys; print(*sys.modules)")
    startup.enable("timm")
    run = python("import sys; print(*sys.modules)")
    loaded = {*run.stdout.split()} - {*plain.stdout.split()}
    # Python 3.13 decodes .pth files with it.
    assert loaded - {"encodings.utf_8_sig"} == {"_dr_plugins_timm"}
    assert run.stderr == ""


def test_asking_whether_timm_is_there_does_not_use_the_hook_up(folder: Path) -> None:
    startup.enable("timm")
    run = python(
        "import importlib.util, sys; importlib.util.find_spec('timm'); assert 'timm' not in "
        "sys.modules; import timm.data; print('timm_ext' in sys.modules, timm.__loader__, "
        "any('TimmFinder' in repr(finder) for finder in sys.meta_path))"
    )
    assert run.stdout.startswith("True <_frozen_importlib_external.SourceFileLoader")
    assert run.stdout.endswith(" False\n")


def test_one_process_of_a_training_says_that_it_is_registered(folder: Path) -> None:
    startup.enable("timm")
    said = python("import timm, sys; print('timm_ext' in sys.modules)", RANK="1")
    assert (said.stdout, said.stderr) == ("True\n", "")
    code = "import logging; logging.basicConfig(level=20, format='%(name)s'); import timm"
    assert python(code).stderr == "timm_ext\n"


def test_importing_timm_ext_itself_says_nothing(folder: Path) -> None:
    startup.enable("timm")
    run = python("import timm_ext, timm; print(timm.create_dataset('x'))")
    assert (run.stdout, run.stderr) == ("['reinforced', 'x', None]\n", "")


@pytest.mark.parametrize(
    ("broken", "lines"),
    [
        (None, 0),  # uninstalled
        ("1 / 0", 1),
        ("import a_missing_module", 1),
        ("syntax error", 1),
        ("raise ImportError('timm_ext needs timm 1.0.16')", 1),
    ],
)
def test_without_a_working_package_timm_works_and_its_names_fail(
    folder: Path, tmp_path: Path, broken: str | None, lines: int
) -> None:
    startup.enable("timm")
    if broken is None:
        (tmp_path / "timm_ext.py").unlink()
    else:
        (tmp_path / "timm_ext.py").write_text(broken)
    start = python("pass")
    assert (start.returncode, start.stderr) == (0, "")
    run = python("from timm.data import create_dataset; print(create_dataset('', root='here'))")
    assert run.stdout == "['', 'here']\n"
    assert len(run.stderr.splitlines()) == lines
    assert run.stderr.count("dr-plugins disable timm") == lines
    for name in ("imagenet-plus", "Imagenet-Plus?p=0.5", "reinforced?base=torch/mnist"):
        run = python(f"from timm.data import create_dataset; create_dataset({name!r})")
        assert run.returncode == 1
        assert name in run.stderr.splitlines()[-1]
    found = cli("hooks")
    assert found.exit_code == 1
    assert "does not work" in found.stdout


def test_a_timm_without_factories_is_left_alone(folder: Path, tmp_path: Path) -> None:
    startup.enable("timm")
    write(tmp_path, {"timm/__init__.py": "VALUE = 3", "timm_ext.py": "1 / 0"})
    run = python("import timm; print(timm.VALUE)")
    assert run.stdout == "3\n"
    write(tmp_path, {"timm/__init__.py": "1 / 0"})
    run = python("import timm")
    assert "ZeroDivisionError" in run.stderr
    assert "_dr_plugins" not in run.stderr.splitlines()[-1]


def test_a_part_of_the_hook_is_missing_or_old(folder: Path) -> None:
    startup.enable("timm")
    module = folder / "_dr_plugins_timm.py"
    module.write_text("raise ValueError")
    assert python("pass").stderr == ""
    module.unlink()
    assert python("pass").stderr == ""
    found = cli("hooks")
    assert found.exit_code == 1
    assert str(module) in found.stdout
    assert "dr-plugins enable timm" in found.stdout


def test_where_it_cannot_be_installed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").touch()
    unwritable, unread = tmp_path / "file" / "site", tmp_path / "unread"
    monkeypatch.setattr(startup.sysconfig, "get_path", lambda name: str(unwritable))
    with pytest.raises(OutputError, match=str(unwritable)):
        startup.enable("timm")
    monkeypatch.setattr(startup.site, "ENABLE_USER_SITE", True)
    monkeypatch.setattr(startup.site, "getusersitepackages", lambda: str(unread))
    with pytest.raises(OutputError, match=str(unread)):
        startup.enable("timm")
    assert not list(unread.rglob("*.p*"))
    monkeypatch.setattr(startup.site, "getusersitepackages", lambda: str(folder))
    assert startup.enable("timm") == folder
