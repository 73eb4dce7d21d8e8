"""What a type checker sees: a task keeps the parameters and the result of its function."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

HEAD = """
from typing import Any

from celerylite import Celery, Task, chain, group, shared_task
from celerylite.result import AsyncResult

app = Celery("typed")


@app.task
def add(a: int, b: int) -> int:
    return a + b


@app.task(bind=True, max_retries=3)
def fetch(self: Task, page: str) -> str:
    return f"{page} at {self.request.retries}"


@shared_task
def note(text: str) -> None: ...


@shared_task(ignore_result=True)
def shout(text: str, times: int = 1) -> str:
    return text * times


"""

RIGHT = """
sum: int = add(1, 2)
result: AsyncResult[int] = add.delay(1, b=2)
value: int = result.get(timeout=1)
fetched: AsyncResult[str] = fetch.delay("page")
note.delay("hello")
shout.delay("hey", times=2)
add.apply_async((1, 2), countdown=3)
chain(add.s(1, 2), add.s(3))()
group(add.s(n, n) for n in range(3))()
fetch.retry
class Base(Task):
    def on_failure(self, exc: BaseException, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None: ...
"""

WRONG = {
    'add.delay("x")': "delay",
    'add.delay(1, "x")': "delay",
    "add.delay(1)": "delay",
    "add.delay(1, 2, 3)": "delay",
    'add("x", "y")': "__call__",
    "fetch.delay(1)": "delay",
    "shout.delay('hey', times='two')": "delay",
    "text: str = add.delay(1, 2).get()": "assignment",
}


def _check(tmp_path: Path, code: str) -> str:
    (tmp_path / "checked.py").write_text(HEAD + code + "\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", "mypy", "--strict", "--no-error-summary", "--hide-error-context"),
            *("--config-file", str(ROOT / "pyproject.toml"), "--cache-dir", str(tmp_path / ".mypy_cache")),
            str(tmp_path / "checked.py"),
        ],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=200,
    )
    return done.stdout + done.stderr


@pytest.mark.timeout(240)
def test_mypy_accepts_right_calls_and_flags_each_wrong_one(tmp_path: Path) -> None:
    output = _check(tmp_path, RIGHT + "\n".join(WRONG))
    first_wrong = len((HEAD + RIGHT).splitlines()) + 1
    flagged = {
        int(line.split(":")[1]) for line in output.splitlines() if ": error:" in line and "checked.py" in line
    }
    assert flagged == set(range(first_wrong, first_wrong + len(WRONG))), output


def test_the_package_says_that_it_is_typed() -> None:
    assert (ROOT / "celerylite" / "py.typed").exists()
