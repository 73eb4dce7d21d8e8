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
import threading
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

__all__ = ("CELERY", "LIBS", "REPOSITORY", "Environment", "note_pad", "prepare", "require_note_pad")

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

    def __init__(self, lib: str, home: Path, wanted: list[str]) -> None:
        self.lib = lib
        self.suite = home / "suite"
        # One for each tree and Python, so that runs of several do not take it from each other.
        made_of = " ".join([sys.version, *wanted, (REPOSITORY / "pyproject.toml").read_text()])
        self.root = home / f"{lib}-{hashlib.sha256(made_of.encode()).hexdigest()[:12]}"
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
    """Make what is missing in the cache; takes a minute the first time, nothing later. Blocks.

    Raises SystemExit when Celery's source archive or a requirement cannot be fetched.
    """
    home = _cache()
    home.mkdir(parents=True, exist_ok=True)
    wanted = [*_REQUIREMENTS, *([CELERY] if lib == "celery" else ["-e", str(REPOSITORY)])]
    found = Environment(lib, home, wanted)
    if not found.suite.exists():
        _unpack(found.suite)
    stamp = found.root / "made"
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
        _fetch([*command, "-d", scratch, CELERY], f"the source archive of {CELERY}")
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
    _fetch([*pip, "install", *wanted], "what Celery's tests import")
    if environment.lib == "celerylite":
        _refuse_real_celery(pip)
        command = environment.root / "bin" / "celery"
        command.write_text(_COMMAND.format(python=environment.python))
        command.chmod(0o755)


def _fetch(command: list[str], what: str) -> None:
    if subprocess.run(command, check=False).returncode:
        raise SystemExit(
            f"expected pip to fetch {what}, it could not (see above): none of Celery's tests has been run"
        )


def _refuse_real_celery(pip: list[str]) -> None:
    if subprocess.run([*pip, "show", "celery"], capture_output=True, check=False).returncode == 0:
        raise SystemExit("expected an environment without Celery, but a requirement brings it along")


def require_note_pad() -> None:
    """Raises SystemExit when there is no redis-server to start."""
    if shutil.which("redis-server") is None:
        raise SystemExit(
            "expected redis-server on the PATH, found none: the tasks of t/integration leave notes in it. "
            "Install Redis, or run the other tests alone: python -m compat_tests.upstream t/unit"
        )


@contextmanager
def note_pad() -> Iterator[int]:
    """A Redis server of one's own: the tasks of Celery's tests leave notes in it. Gives its port."""
    with tempfile.TemporaryDirectory() as scratch:
        port = _free_port()
        options = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", scratch]
        server = subprocess.Popen(["redis-server", *options], stdout=subprocess.DEVNULL)
        try:
            _wait_until_it_listens(server, port)
            yield port
        finally:
            server.terminate()
            server.wait()


def _wait_until_it_listens(server: subprocess.Popen[bytes], port: int) -> None:
    end = time.monotonic() + 60.0
    while time.monotonic() < end and server.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1.0).close()
        except OSError:
            threading.Event().wait(0.05)
        else:
            return
    raise RuntimeError(f"expected redis-server to listen on port {port} within a minute, it does not")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
