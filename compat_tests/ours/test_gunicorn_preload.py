"""A site under `gunicorn -w 4 --preload` that publishes: workers run each task once, the master none."""

from __future__ import annotations

import re
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compat_tests.ours.runtime_fixtures import StartProgram, rows, states_of

_REQUESTS = 200
_DEADLINE_S = 20.0

#: The program becomes gunicorn, so that its process is the master.
_SITE = """
import os
from celerylite import Celery
app = Celery("site_preload")
app.conf.update(celerylite_beat="off")

@app.task(name="note")
def note(number):
    os.write(1, f"ran {number} {os.getpid()}\\n".encode())

def wsgi(environ, start_response):
    id = note.delay(int(environ["PATH_INFO"][1:])).id
    start_response("200 OK", [("Content-Type", "text/plain")])
    return [id.encode()]

if __name__ == "__main__":
    import sys
    os.execv(sys.executable, [sys.executable, "-m", "gunicorn", "-w", "4", "--preload",
             "-b", "127.0.0.1:0", "--log-file", "gunicorn.log", "site_preload:wsgi"])
"""


#: The same, with tasks that wait until the test lets them go on, and fewer places than tasks.
_BUSY_SITE = (
    _SITE.replace('"-w", "4"', '"-w", "2"')
    .replace('celerylite_beat="off"', 'celerylite_beat="off", worker_concurrency=2')
    .replace(
        "def note(number):\n",
        """def note(number):
    import pathlib, threading
    os.write(1, b"began\\n")
    while not pathlib.Path("go").exists():
        threading.Event().wait(0.02)
""",
    )
)

#: A worker that runs what is left, and ends.
_REST = """
from site_preload import app
app.start_runtime()
app.drain(10)
app.stop_runtime()
"""


def _find(pattern: str, log: Path) -> re.Match[str]:
    """Wait until gunicorn's log says so."""
    ticker = threading.Event()
    for _ in range(int(_DEADLINE_S / 0.05)):
        found = re.search(pattern, log.read_text() if log.exists() else "")
        if found:
            return found
        ticker.wait(0.05)
    raise AssertionError(f"expected gunicorn to say {pattern!r}")


def _port(log: Path) -> int:
    return int(_find(r"Listening at: http://127.0.0.1:(\d+)", log)[1])


@pytest.mark.timeout(60)
def test_each_task_of_a_preloaded_site_runs_once_in_a_worker_and_none_in_the_master(
    start_program: StartProgram, tmp_path: Path, database: Path
) -> None:
    master = start_program(_SITE, name="site_preload", prelude="")
    url = f"http://127.0.0.1:{_port(tmp_path / 'gunicorn.log')}"

    def visit(number: int) -> str:
        with urllib.request.urlopen(f"{url}/{number}", timeout=_DEADLINE_S) as answer:
            return str(answer.read().decode())

    with ThreadPoolExecutor(8) as visitors:
        ids = list(visitors.map(visit, range(_REQUESTS)))
    ran = [master.until("ran ").split()[1:] for _ in range(_REQUESTS)]
    master.terminate()
    assert master.end() == 0
    assert sorted(int(number) for number, _ in ran) == list(range(_REQUESTS))
    assert not [line for line in master.lines if line.startswith("ran ")][_REQUESTS:]
    workers = {pid for _, pid in ran}
    assert len(workers) > 1
    assert str(master.process.pid) not in workers
    assert states_of(database) == dict.fromkeys(ids, "SUCCESS")
    assert "Traceback" not in master.errors + (tmp_path / "gunicorn.log").read_text()


@pytest.mark.timeout(60)
def test_a_preloaded_site_that_is_told_to_stop_loses_nothing_of_what_is_outstanding(
    start_program: StartProgram, tmp_path: Path, database: Path
) -> None:
    log = tmp_path / "gunicorn.log"
    master = start_program(_BUSY_SITE, name="site_preload", prelude="")
    url = f"http://127.0.0.1:{_port(log)}"

    def visit(number: int) -> str:
        with urllib.request.urlopen(f"{url}/{number}", timeout=_DEADLINE_S) as answer:
            return str(answer.read().decode())

    with ThreadPoolExecutor(8) as visitors:
        ids = list(visitors.map(visit, range(40)))
    for _ in range(2):
        master.until("began")
    master.terminate()
    _find("Handling signal: term", log)
    (tmp_path / "go").touch()
    assert master.end() == 0
    rest = start_program(_REST, name="rest", prelude="")
    assert rest.end() == 0
    ran = [int(line.split()[1]) for line in master.lines + rest.lines if line.startswith("ran ")]
    assert sorted(ran) == list(range(40))
    assert states_of(database) == dict.fromkeys(ids, "SUCCESS")
    assert rows(database, "select count(*) from celerylite_messages") == [(0,)]
    assert "Traceback" not in master.errors + rest.errors + log.read_text()
    assert "Error" not in master.errors
