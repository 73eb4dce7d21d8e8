"""What an import of the package costs, and that each module can be imported first."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

#: Programs rather than modules, or made for a framework that has to be set up first.
NOT_ALONE = frozenset({"celerylite.__main__", "celerylite._run.sitecustomize"})


def _modules() -> list[str]:
    paths = sorted((ROOT / "celerylite").rglob("*.py"))
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__") for path in paths
    ]
    return [name for name in names if name not in NOT_ALONE]


def _run(code: str, timeout: float = 60) -> str:
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=timeout,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.timeout(300)
def test_each_module_can_be_the_first_one_that_is_imported() -> None:
    """One fresh interpreter forks a child for each: ten times as fast as one start for each."""
    code = f"""
import os, sys, traceback
failed = []
for name in {_modules()!r}:
    pid = os.fork()
    if pid == 0:
        try:
            __import__(name)
        except BaseException:
            sys.stderr.write(name + chr(10) + traceback.format_exc())
            os._exit(1)
        os._exit(0)
    if os.waitpid(pid, 0)[1]:
        failed.append(name)
sys.exit(f"expected every module to be importable first, got errors in {{failed}}" if failed else 0)
"""
    _run(code, timeout=280)


MAKE_AN_APP = """
import sys
import celerylite
app = celerylite.Celery('costs', broker='memory://')
app.task(lambda: None, name='nothing')
print(*sorted({name.split('.')[0] for name in sys.modules}))
"""


# Not in the list: kombu loads vine, and Django and billiard where they are installed.
@pytest.mark.parametrize("package", ["sqlalchemy", "click", "celery", "pydantic"])
def test_making_an_app_does_not_load(package: str) -> None:
    assert package not in _run(MAKE_AN_APP).split()


def test_the_import_starts_no_thread_and_makes_no_file(tmp_path: Path) -> None:
    code = f"""
import os, sys, threading
sys.path.insert(0, {str(ROOT)!r})
os.chdir({str(tmp_path)!r})
import celerylite
celerylite.Celery('quiet')
print(threading.active_count())
"""
    assert _run(code).strip() == "1"
    assert not list(tmp_path.iterdir())
