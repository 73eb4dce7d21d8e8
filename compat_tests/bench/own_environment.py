"""The benchmark's own virtual environment: the peers, with the versions in requirements.txt."""

from __future__ import annotations

import subprocess
import sys
from importlib import metadata
from pathlib import Path

__all__ = ("interpreter", "versions")

_FOLDER = Path(__file__).parent
_ENVIRONMENT = _FOLDER / ".venv"
_REQUIREMENTS = _FOLDER / "requirements.txt"
#: A copy of what was installed: when the requirements change, so does the environment.
_INSTALLED = _ENVIRONMENT / "installed.txt"


def interpreter() -> str:
    """The Python of that environment, which is made, and brought up to date, first."""
    python = _ENVIRONMENT / "bin" / "python"
    wanted = _REQUIREMENTS.read_text()
    if not _INSTALLED.exists() or _INSTALLED.read_text() != wanted:
        print(f"Installing the contenders into {_ENVIRONMENT}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", str(_ENVIRONMENT)], check=True)
        command = [str(python), "-m", "pip", "install", "--quiet", "--requirement", str(_REQUIREMENTS)]
        subprocess.run(command, check=True)
        _INSTALLED.write_text(wanted)
    return str(python)


def versions() -> dict[str, str]:
    """The versions of what the requirements name and this interpreter finds."""
    names = [line.partition("==")[0].partition("[")[0] for line in _REQUIREMENTS.read_text().split()]
    return {name: metadata.version(name) for name in names if _is_here(name)}


def _is_here(name: str) -> bool:
    return any(True for _ in metadata.distributions(name=name))
