"""A site under `gunicorn -w 4 --preload` that publishes: workers run each task once, the master none."""

from __future__ import annotations

import re
import threading
import urllib.request
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from compat_tests.ours.runtime_fixtures import StartProgram, states_of

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


def _port(log: Path) -> int:
    ticker = threading.Event()
    for _ in range(int(_DEADLINE_S / 0.05)):
        found = re.search(r"Listening at: http://127.0.0.1:(\d+)", log.read_text() if log.exists() else "")
        if found:
            return int(found[1])
        ticker.wait(0.05)
    raise AssertionError("expected gunicorn to listen")


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
