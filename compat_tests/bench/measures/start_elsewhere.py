"""How soon a task that one process publishes starts in another that was quiet before."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from compat_tests.bench.contenders.celerylite_contender import database_of, url_of
from compat_tests.bench.measures._running import percentile
from compat_tests.bench.processes import environment
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="start-elsewhere",
    title="From delay() to the task's first line in another process",
    figures=(
        Figure(key="p50_ms", title="p50 ms", digits=1),
        Figure(key="p95_ms", title="p95 ms", digits=1),
    ),
    contenders=("celerylite", "celerylite-postgresql", "celerylite-mysql"),
    rounds=(1, 2),
)

_APP = """
import sys, threading, time
from celerylite import Celery
app = Celery("bench")
app.conf.update(result_backend="db+" + sys.argv[1], celerylite_beat="off")

@app.task(ignore_result=True)
def note(sent):
    print(time.time() - sent, flush=True)
"""
#: Runs what others publish, until its input ends.
_WORKER = f"""{_APP}
app.start_runtime()
print("ready", flush=True)
sys.stdin.read()
app.close()
"""
#: Only publishes: one call for each line of its input.
_WEB = f"""{_APP}
app.conf.celerylite_runtime = "off"
app.store
print("ready", flush=True)
for line in sys.stdin:
    note.delay(time.time())
app.close()
"""


def run(order: Order) -> dict[str, float]:
    """One at a time and with a pause in between, so that the worker has become quiet again."""
    with ExitStack() as stack:
        database = database_of(order.contender.partition("-")[2])
        url = f"sqlite:///{Path.cwd()}/bench.sqlite3"
        if database is not None:
            stack.callback(database.drop)
            url = url_of(database)
        worker = stack.enter_context(_program(_WORKER, url))
        web = stack.enter_context(_program(_WEB, url))
        laps = [_lap(worker, web) for _ in range(order.of(tiny=2, quick=12, full=20))]
    return {"p50_ms": percentile(laps, 50), "p95_ms": percentile(laps, 95)}


def _lap(worker: subprocess.Popen[str], web: subprocess.Popen[str]) -> float:
    assert worker.stdout is not None
    assert web.stdin is not None
    threading.Event().wait(0.4)
    web.stdin.write("go\n")
    web.stdin.flush()
    return 1000 * float(worker.stdout.readline())


@contextmanager
def _program(source: str, url: str) -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", source, url],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=environment(),
    )
    assert process.stdout is not None
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        with suppress(subprocess.TimeoutExpired):
            process.communicate(timeout=20)
        process.kill()
