"""A deep queue: what a million scheduled tasks cost in memory, in claims and at a restart."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from celerylite import Celery
from celerylite._store import Settlement, Store

__all__ = ("depth",)

_MANY = 1_000_000
_QUICK = 100_000
_BATCH = 1000
_WEEK_S = 7 * 24 * 3600

_RESTART = """
import time
began = time.perf_counter()
from celerylite import Celery
app = Celery("deep", backend="db+sqlite:///{path}")

@app.task(name="deep.noop")
def noop():
    return 1

assert noop.delay().get(timeout=60) == 1
print(time.perf_counter() - began)
"""


def depth(rounds: int) -> None:
    """Enqueue tasks with an eta next week; memory, claim time and restart before and after."""
    count = _QUICK if rounds <= 5 else _MANY
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "deep.sqlite3"
        app = Celery("deep", backend=f"db+sqlite:///{path}", set_as_current=False)
        app.conf.celerylite_runtime = False

        @app.task(name="deep.noop")
        def noop() -> int:
            return 1

        before_claim, before_memory = _claim_ms(app.store, noop), _resident_mb()
        began = time.perf_counter()
        for _ in range(count // _BATCH):
            with app.publishing_together():
                for _ in range(_BATCH):
                    noop.apply_async(countdown=_WEEK_S)
        seconds = time.perf_counter() - began
        after_memory, after_claim = _resident_mb(), _claim_ms(app.store, noop)
        app.close()
        restart = _restart_s(path)
    print(f"\n{count:,} tasks with an eta next week (SQLite file)")
    print(f"  enqueued in transactions of {_BATCH}: {count / seconds:,.0f} per s")
    print(f"  memory of the process: {before_memory:.1f} MB before, {after_memory:.1f} MB after")
    print(
        f"  claim of one due task: {before_claim:.3f} ms before, {after_claim:.3f} ms after"
        f"   ratio {after_claim / before_claim:.2f}"
    )
    print(f"  restart until the first result: {restart:.2f} s")


def _claim_ms(store: Store, task: Any) -> float:
    took = []
    for _ in range(200):
        task.delay()
        began = time.perf_counter()
        found = store.claim("bench", None, 1)
        took.append(time.perf_counter() - began)
        store.settle(Settlement(delivery=found.deliveries[0]))
    return 1000 * statistics.median(took)


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def _restart_s(path: Path) -> float:
    done = subprocess.run(
        [sys.executable, "-c", _RESTART.format(path=path)],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
    )
    return float(done.stdout.strip().splitlines()[-1])
