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
    title="Queue depth (SQLite file): very many due next week, and then half as many that are ready",
    figures=(
        Figure(key="claim_empty_us", title="claim of the only one, us"),
        Figure(key="claim_scheduled_us", title="among those due next week, us"),
        Figure(key="ratio_empty", title="ratio", digits=2),
        Figure(key="claim_1000_us", title="claim at 1,000 ready, us"),
        Figure(key="claim_deep_us", title="at the deepest, us"),
        Figure(key="ratio", title="ratio", digits=2),
        Figure(key="scheduled", title="due next week"),
        Figure(key="fill_per_s", title="filled at, per s"),
        Figure(key="memory_mb", title="memory grew by, MB", digits=1),
        Figure(key="restart_s", title="restart to first result, s", digits=2),
    ),
    contenders=("celerylite",),
    rounds=(1, 1),
    limit_s=900,
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
    scheduled = order.of(tiny=1000, quick=100_000, full=1_000_000)
    looks = order.of(tiny=5, quick=200, full=300)
    app = Celery("deep", backend="db+sqlite:///deep.sqlite3", set_as_current=False)
    app.conf.celerylite_runtime = "off"
    noop: Any = app.task(name="deep.noop")(_noop)
    empty = _claim_one_us(app, noop, looks)
    _fill(app, noop, 1000)
    at_1000, memory = _claim_us(app, looks), _resident_mb()
    app.control.purge()
    began = time.perf_counter()
    _fill(app, noop, scheduled, countdown=_WEEK_S)
    rate = scheduled / (time.perf_counter() - began)
    grown = _resident_mb() - memory
    among = _claim_one_us(app, noop, looks)
    restart = _restart_s()
    _fill(app, noop, scheduled // 2)
    deep = _claim_us(app, looks)
    app.close()
    return {
        "claim_empty_us": empty,
        "claim_scheduled_us": among,
        "ratio_empty": among / empty,
        "claim_1000_us": at_1000,
        "claim_deep_us": deep,
        "ratio": deep / at_1000,
        "scheduled": scheduled,
        "fill_per_s": rate,
        "memory_mb": grown,
        "restart_s": restart,
    }


def _noop() -> int:
    return 1


def _fill(app: Celery, task: Any, count: int, **options: Any) -> None:
    for start in range(0, count, _BATCH):
        with app.publishing_together():
            for _ in range(start, min(start + _BATCH, count)):
                task.apply_async(**options)


def _claim_us(app: Celery, looks: int) -> float:
    return statistics.median(_timed_claim(app) for _ in range(looks))


def _claim_one_us(app: Celery, task: Any, looks: int) -> float:
    """Of a call that was published right before, while nothing else is due."""
    took = []
    for _ in range(looks):
        task.delay()
        took.append(_timed_claim(app))
    return statistics.median(took)


def _timed_claim(app: Celery) -> float:
    began = time.perf_counter()
    found = app.store.claim("bench", None, 1)
    took = 1e6 * (time.perf_counter() - began)
    app.store.settle(Settlement(delivery=found.deliveries[0]))
    return took


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _restart_s() -> float:
    command = [sys.executable, "-c", _RESTART]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=120, env=environment())
    return float(done.stdout.strip().splitlines()[-1])
