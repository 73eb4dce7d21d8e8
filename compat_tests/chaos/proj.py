"""The app whose calls are followed: tasks of every kind that note each start and each end in the ledger."""

from __future__ import annotations

import asyncio
import logging
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from celerylite import Celery
from compat_tests.chaos._ledger import Ledger

__all__ = ("app", "ledger")

#: The process that is started and hurt; tasks may run in a child of it.
_PROCESS = int(os.environ.setdefault("CHAOS_PROCESS", str(os.getpid())))

ledger = Ledger(Path(os.environ["CHAOS_LEDGER"]), "process")

app = Celery("chaos")
app.conf.update(
    result_backend=f"db+{os.environ['CHAOS_DATABASE']}",
    celerylite_lease=float(os.environ["CHAOS_LEASE"]),
    celerylite_exit_grace=float(os.environ["CHAOS_GRACE"]),
    celerylite_runtime=os.environ.get("CHAOS_RUNTIME", "auto"),
    celerylite_beat="off",
    worker_prefetch_multiplier=2,
    worker_hijack_root_logger=False,
)


class _LapsedLeases(logging.Handler):
    """Notes in the ledger when this process learns that it was taken for dead: that is a disturbance too."""

    def emit(self, record: logging.LogRecord) -> None:
        if "taken for dead" in record.getMessage():
            ledger.write("disturbed", victim=os.getpid(), how="lapsed lease")


logging.getLogger("celery.worker").addHandler(_LapsedLeases())


@contextmanager
def _noted(task: Any) -> Iterator[None]:
    request = task.request
    entry = {"id": request.id, "task": task.name, "retries": request.retries, "pid": _PROCESS}
    ledger.write("started", **entry, redelivered=request.delivery_info["redelivered"])
    try:
        yield
    finally:
        ledger.write("ended", **entry)


def _work(seconds: float) -> None:
    threading.Event().wait(seconds)


@app.task(bind=True)
def early(self: Any, value: int, seconds: float = 0.0) -> int:
    """Acknowledged before it starts: never started twice."""
    with _noted(self):
        _work(seconds)
        return value + 1


@app.task(bind=True, acks_late=True)
def late(self: Any, value: int, seconds: float = 0.0) -> int:
    """Acknowledged when it is done: started again when its process was lost."""
    with _noted(self):
        _work(seconds)
        return value + 1


@app.task(bind=True)
async def coroutine(self: Any, value: int, seconds: float = 0.0) -> int:
    """As `early`, on the loop."""
    with _noted(self):
        await asyncio.sleep(seconds)  # noqa: TID251 - this is the work
        return value + 1


@app.task(bind=True, acks_late=True)
async def late_coroutine(self: Any, value: int, seconds: float = 0.0) -> int:
    """As `late`, on the loop."""
    with _noted(self):
        await asyncio.sleep(seconds)  # noqa: TID251 - this is the work
        return value + 1


@app.task(bind=True, max_retries=3)
def retried(self: Any, value: int, seconds: float = 0.0) -> int:
    """Needs three attempts; each may be started once."""
    with _noted(self):
        _work(seconds)
        if self.request.retries < 2:
            raise self.retry(countdown=0.2)
        return value + 1


@app.task(bind=True, retry_on_worker_lost=True, max_retries=20, default_retry_delay=0)
def stubborn(self: Any, value: int, seconds: float = 0.0) -> int:
    """Retried when its process is lost; each attempt may be started once."""
    with _noted(self):
        _work(seconds)
        return value + 1


@app.task(bind=True, rate_limit="10/s")
def limited(self: Any, value: int, seconds: float = 0.0) -> int:
    """As `early`, ten in a second at most."""
    with _noted(self):
        _work(seconds)
        return value + 1


@app.task(bind=True, track_started=True)
def reporting(self: Any, value: int, seconds: float = 0.0) -> int:
    """As `early`, and stores states of its own while it runs."""
    with _noted(self):
        for part in range(3):
            self.update_state(state="PROGRESS", meta={"part": part})
            _work(seconds / 3)
        return value + 1


@app.task(bind=True)
def failing(self: Any, value: int, seconds: float = 0.0) -> int:
    """Fails."""
    with _noted(self):
        _work(seconds)
        raise ValueError(value)


@app.task(bind=True)
def total(self: Any, values: list[int], seconds: float = 0.0) -> int:
    """The body of a chord."""
    with _noted(self):
        _work(seconds)
        return sum(values)
