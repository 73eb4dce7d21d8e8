"""What a run needs and the repository does not hold: virtual environments, Celery's test suite, a Redis."""

from __future__ import annotations

import hashlib
import os
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ("CELERY", "LIBS", "REPOSITORY", "Environment", "note_pad", "prepare")

CELERY = "celery==5.7.0"
LIBS = ("celerylite", "celery")
REPOSITORY = Path(__file__).resolve().parents[2]

#: What Celery's tests import, and what Celery would have brought along.
_REQUIREMENTS = (
    "billiard>=4.3.2",
    "click-didyoumean>=0.3.1",
    "click-plugins>=1.1.1.2",
    "click-repl>=0.4.1",
    "click>=8.3.1,<9.0",
    "cryptography",
    "django",
    "ephem",
    "freezegun",
    "kombu>=5.7.0",
    "msgpack",
    "psutil",
    "pydantic",
    "pytest",
    "pytest-click",
    "pytest-order",
    "pytest-subtests",
    "pytest-timeout",
    "python-dateutil",
    "pyyaml",
    "redis",
    "sqlalchemy",
    "tblib",
    "tzlocal",
    "vine>=5.1.0,<6.0",
)

_COMMAND = """\
#!{python}
from celery.__main__ import main
main()
"""


class Environment:
    """A virtual environment with one of the libraries, and the unpacked tests."""

    def __init__(self, lib: str, home: Path) -> None:
        self.lib = lib
        self.suite = home / "suite"
        self.root = home / lib
        self.python = self.root / "bin" / "python"

    def variables(self, **more: str) -> dict[str, str]:
        """The environment of a process that runs tests."""
        inside = Path(__file__).resolve().parent / "inside"
        kept = {name: value for name, value in os.environ.items() if name not in ("PYTHONHOME", "CI")}
        return {
            **kept,
            "PATH": f"{self.root / 'bin'}{os.pathsep}{os.environ.get('PATH', '')}",
            "PYTHONPATH": os.pathsep.join([str(inside), str(self.suite)]),
            "PYTHONDONTWRITEBYTECODE": "1",
            "UPSTREAM_LIB": self.lib,
            **more,
        }


def prepare(lib: str) -> Environment:
    """Make what is missing in the cache; takes a minute the first time, nothing later. Blocks."""
    home = _cache()
    home.mkdir(parents=True, exist_ok=True)
    found = Environment(lib, home)
    if not found.suite.exists():
        _unpack(found.suite)
    wanted = [*_REQUIREMENTS, *([CELERY] if lib == "celery" else ["-e", str(REPOSITORY)])]
    stamp = found.root / f"{hashlib.sha256(' '.join(wanted).encode()).hexdigest()[:12]}.made"
    if not stamp.exists():
        _install(found, wanted)
        stamp.touch()
    return found


def _cache() -> Path:
    default = Path.home() / ".cache" / "celerylite-upstream"
    return Path(os.environ.get("CELERYLITE_UPSTREAM_CACHE", default))


def _unpack(suite: Path) -> None:
    """Fetch Celery's source archive and keep its tests: no `celery` can be imported from there."""
    with tempfile.TemporaryDirectory(dir=suite.parent) as scratch:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "celery"]
        subprocess.run([*command, "-d", scratch, CELERY], check=True)
        [archive] = Path(scratch).glob("*.tar.gz")
        with tarfile.open(archive) as tar:
            wanted = [member for member in tar if _is_of_the_tests(member.name)]
            tar.extractall(scratch, members=wanted, filter="data")
        [unpacked] = [path for path in Path(scratch).iterdir() if path.is_dir()]
        unpacked.rename(suite)


def _is_of_the_tests(name: str) -> bool:
    inside = name.partition("/")[2]
    return inside == "pyproject.toml" or inside.startswith("t/")


def _install(environment: Environment, wanted: list[str]) -> None:
    shutil.rmtree(environment.root, ignore_errors=True)
    venv.create(environment.root, with_pip=True)
    pip = [str(environment.python), "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", *wanted], check=True)
    if environment.lib == "celerylite":
        _refuse_real_celery(pip)
        command = environment.root / "bin" / "celery"
        command.write_text(_COMMAND.format(python=environment.python))
        command.chmod(0o755)


def _refuse_real_celery(pip: list[str]) -> None:
    if subprocess.run([*pip, "show", "celery"], capture_output=True, check=False).returncode == 0:
        raise SystemExit("expected an environment without Celery, but a requirement brings it along")


@contextmanager
def note_pad() -> Iterator[int]:
    """A Redis server of one's own: the tasks of Celery's tests leave notes in it. Gives its port."""
    with tempfile.TemporaryDirectory() as scratch:
        port = _free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", scratch]
        server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            yield port
        finally:
            server.terminate()
            server.wait()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
