"""How long ``delay().get()`` takes, and how many tasks a second go through."""

from __future__ import annotations

from compat_tests.bench._rounds import compare, print_table

__all__ = ("round_trip",)

_SET_UP = """
import os, statistics, tempfile, time
os.chdir(tempfile.mkdtemp())
from celerylite import Celery
app = Celery("bench")

@app.task
def add(a, b):
    return a + b

@app.task
async def aadd(a, b):
    return a + b

def lap(task):
    began = time.perf_counter()
    task.delay(1, 2).get(timeout=30)
    return time.perf_counter() - began

lap(add); lap(aadd)
"""

_TRIP = _SET_UP + "print(1000 * statistics.median(lap({task}) for _ in range(500)))"

_FLOOD = (
    _SET_UP
    + """
began = time.perf_counter()
for _ in range(2000):
    add.delay(1, 2)
{finish}
print(2000 / (time.perf_counter() - began))
"""
)

_BARE_COMMIT = """
import os, sqlite3, tempfile, time
db = sqlite3.connect(os.path.join(tempfile.mkdtemp(), "bare.sqlite3"), isolation_level=None)
db.execute("PRAGMA journal_mode=WAL"); db.execute("PRAGMA synchronous=NORMAL")
db.execute("CREATE TABLE m (id INTEGER PRIMARY KEY, a TEXT, b TEXT, c REAL)")
began = time.perf_counter()
for _ in range(2000):
    db.execute("BEGIN IMMEDIATE")
    db.execute("INSERT INTO m (a, b, c) VALUES (?, ?, ?)", ("x" * 300, "y" * 100, 1.0))
    db.execute("COMMIT")
print(2000 / (time.perf_counter() - began))
"""


def round_trip(rounds: int) -> None:
    """Round trips of plain functions and coroutines; enqueueing and throughput beside a bare commit."""
    trips = {"plain function": _TRIP.format(task="add"), "coroutine": _TRIP.format(task="aadd")}
    print_table("delay().get(), SQLite file", "ms, p50", compare(trips, rounds), "plain function")
    rates = {
        "bare one-row commit": _BARE_COMMIT,
        "delay(), worker busy": _FLOOD.format(finish=""),
        "end to end": _FLOOD.format(finish="app.drain(120)"),
    }
    print_table("no-op tasks, SQLite file", "per s", compare(rates, rounds), "bare one-row commit")
