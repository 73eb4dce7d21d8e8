"""What it costs to have the library: import, app, first result."""

from __future__ import annotations

from compat_tests.bench._rounds import compare, print_table

__all__ = ("first_result", "import_time")

# CPU seconds of the process, not wall time: other programs on the machine do not count.
_IMPORT = """
import time
from {library} import Celery
app = Celery("bench")

@app.task
def add(a, b):
    return a + b

print(time.process_time())
"""

_BARE = "import time; print(time.process_time())"

_FIRST = """
import os, tempfile, time
began = time.perf_counter()
os.chdir(tempfile.mkdtemp())
from celerylite import Celery
app = Celery("bench")

@app.task
def add(a, b):
    return a + b

assert add.delay(1, 2).get(timeout=30) == 3
print(time.perf_counter() - began)
"""

_FIRST_CELERY_MEMORY = """
import time
began = time.perf_counter()
from celery import Celery
from celery.contrib.testing.worker import start_worker
app = Celery("bench", broker="memory://", backend="cache+memory://")

@app.task
def add(a, b):
    return a + b

with start_worker(app, pool="solo", perform_ping_check=False, loglevel="ERROR", shutdown_timeout=30):
    assert add.delay(1, 2).get(timeout=30, interval=0.005) == 3
    print(time.perf_counter() - began)
"""


def import_time(rounds: int) -> None:
    """CPU seconds from the start of Python until an app with one task exists."""
    programs = {
        "celery": _IMPORT.format(library="celery"),
        "celerylite": _IMPORT.format(library="celerylite"),
        "bare python": _BARE,
    }
    print_table("import, app and one task", "CPU s", compare(programs, rounds), "celery")


def first_result(rounds: int) -> None:
    """Wall seconds from the start of the program's code until its first task's result is there."""
    programs = {
        "celerylite, SQLite file": _FIRST,
        "celery, all in memory": _FIRST_CELERY_MEMORY,
    }
    numbers = compare(programs, rounds)
    print_table("start to first result", "wall s", numbers, "celery, all in memory")
