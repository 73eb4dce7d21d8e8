"""A deep queue: what claiming, publishing and a restart cost with a thousand waiting and with a million."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from celerylite import Celery
from celerylite._store import Settlement
from compat_tests.bench.processes import environment
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="depth",
    title="Queue depth (SQLite file; half is ready, half is due next week)",
    figures=(
        Figure(key="claim_1000_us", title="claim at 1,000, us"),
        Figure(key="claim_deep_us", title="at the deepest, us"),
        Figure(key="ratio", title="ratio", digits=2),
        Figure(key="deepest", title="deepest"),
        Figure(key="fill_per_s", title="filled at, per s"),
        Figure(key="memory_mb", title="memory grew by, MB", digits=1),
        Figure(key="restart_s", title="restart to first result, s", digits=2),
    ),
    contenders=("celerylite",),
    rounds=(1, 1),
    limit_s=400,
)

_BATCH = 1000
_WEEK_S = 7 * 24 * 3600
_RESTART = """
import time
began = time.perf_counter()
from celerylite import Celery
app = Celery("deep", backend="db+sqlite:///deep.sqlite3")

@app.task(name="deep.urgent", queue="urgent")
def urgent():
    return 1

app.start_runtime(queues=["urgent"])
assert urgent.apply_async(queue="urgent").get(timeout=60) == 1
print(time.perf_counter() - began)
"""


def run(order: Order) -> dict[str, float]:
    """Claims take the oldest that is ready, and settle it, one after the other."""
    deepest = order.of(tiny=1000, quick=100_000, full=1_000_000)
    app = Celery("deep", backend="db+sqlite:///deep.sqlite3", set_as_current=False)
    app.conf.celerylite_runtime = "off"
    noop: Any = app.task(name="deep.noop")(_noop)
    _fill(app, noop, 1000)
    at_1000, memory = _claim_us(app, order), _resident_mb()
    began = time.perf_counter()
    _fill(app, noop, deepest - 1000)
    rate = (deepest - 1000) / (time.perf_counter() - began)
    grown = _resident_mb() - memory
    deep = _claim_us(app, order)
    app.close()
    return {
        "claim_1000_us": at_1000,
        "claim_deep_us": deep,
        "ratio": deep / at_1000,
        "deepest": deepest,
        "fill_per_s": rate,
        "memory_mb": grown,
        "restart_s": _restart_s(),
    }


def _noop() -> int:
    return 1


def _fill(app: Celery, task: Any, count: int) -> None:
    for start in range(0, count, _BATCH):
        with app.publishing_together():
            for n in range(start, min(start + _BATCH, count)):
                task.apply_async(countdown=_WEEK_S if n % 2 else None)


def _claim_us(app: Celery, order: Order) -> float:
    took, store = [], app.store
    for _ in range(order.of(tiny=5, quick=200, full=300)):
        began = time.perf_counter()
        found = store.claim("bench", None, 1)
        took.append(1e6 * (time.perf_counter() - began))
        store.settle(Settlement(delivery=found.deliveries[0]))
    return statistics.median(took)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _restart_s() -> float:
    command = [sys.executable, "-c", _RESTART]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment())
    return float(done.stdout.strip().splitlines()[-1])
