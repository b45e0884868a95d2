"""Hooks for a host's own scripts, installed into an environment: ``dr-plugins enable HOST``.

A hook consists of two files in site-packages: a copy of a module of this package, and a ``.pth``
file, from which Python calls it at every start. Both remain when the package is uninstalled, and
then do nothing.
"""

from __future__ import annotations

import contextlib
import importlib.util
import py_compile
import site
import subprocess
import sys
import sysconfig
from pathlib import Path

from dr_plugins.errors import OutputError

__all__ = ["HOSTS", "disable", "enable", "enabled_in", "explain"]

# The hook's module acts when the host is imported; this code checks that it did.
_PROBES = {"timm": "import timm, sys; sys.exit('timm_ext' not in sys.modules)"}
HOSTS = tuple(_PROBES)


def enable(host: str) -> Path:
    """Install or update the hook of a host in this environment.

    Args:
        host: One of `HOSTS`.

    Returns:
        The hook's directory: the environment's, or the user's if only that is writable.

    Raises:
        OutputError: No directory is writable and read by Python at startup.
    """
    refused = []
    for folder in _folders():
        try:
            folder.mkdir(parents=True, exist_ok=True)
            for path, text in _files(host, folder).items():
                path.write_text(text, encoding="utf-8")
                if path.suffix == ".py":  # later, Python may be unable to write the bytecode
                    py_compile.compile(str(path))
        except OSError as error:
            _remove(host, folder)
            refused.append(f"{folder}: {error.strerror}")
            continue
        if not _is_read(host):
            _remove(host, folder)
            refused.append(f"{folder}: {sys.executable} does not read .pth files there")
            continue
        return folder
    raise OutputError(
        f"the hook for {host} cannot be installed ({'; '.join(refused)}). Use a virtual "
        f"environment (`python -m venv`), or work without the hook: see the documentation of "
        f"{host}_ext"
    )


def disable(host: str) -> list[Path]:
    """Remove the hook of a host from this environment, and return its directories."""
    folders = enabled_in(host)
    for folder in folders:
        _remove(host, folder)
        if any(path.exists() for path in _files(host, folder)):
            raise OutputError(f"cannot remove the hook for {host}: {folder} is not writable")
    return folders


def enabled_in(host: str) -> list[Path]:
    """Return the directories of this environment that hold the hook of a host."""
    folders = [*_folders(), *map(Path, site.getsitepackages())]
    found = [folder for folder in folders if any(p.exists() for p in _files(host, folder))]
    return list(dict.fromkeys(found))


def explain(host: str) -> str | None:
    """Import the host in a new process; return None if the hook works, else the problem."""
    for folder in enabled_in(host):
        for path, text in _files(host, folder).items():
            if not path.is_file() or path.read_text(encoding="utf-8") != text:
                return f"{path} is from another version; run `dr-plugins enable {host}`"
    run = _python(_PROBES[host])
    if run.returncode == 0:
        return None
    return run.stderr.strip().rpartition("\n")[2] or f"importing {host} did not run the hook"


def _folders() -> list[Path]:
    folders = [sysconfig.get_path("purelib")]
    if site.ENABLE_USER_SITE:
        folders.append(site.getusersitepackages())
    return [Path(folder) for folder in folders]


def _files(host: str, folder: Path) -> dict[Path, str]:
    module = f"_dr_plugins_{host}"
    source = Path(__file__).with_name(f"{host}_hook.py").read_text(encoding="utf-8")
    # Python prints errors of a .pth file at every start.
    call = f"try:\\n import {module}\\n {module}.install()\\nexcept Exception: pass"
    return {
        folder / f"{module}.py": source,
        folder / f"{module}.pth": f'import sys; exec("{call}")\n',
    }


def _is_read(host: str) -> bool:
    return _python(f"import sys; sys.exit('_dr_plugins_{host}' not in sys.modules)").returncode == 0


def _python(code: str) -> subprocess.CompletedProcess[str]:
    # `python -c` imports from the working directory first, which may be a checkout of the host.
    command, elsewhere = [sys.executable, "-c", code], sys.prefix
    return subprocess.run(command, cwd=elsewhere, capture_output=True, text=True, check=False)


def _remove(host: str, folder: Path) -> None:
    for path in _files(host, folder):
        with contextlib.suppress(OSError):
            path.unlink(missing_ok=True)
            Path(importlib.util.cache_from_source(str(path))).unlink(missing_ok=True)
