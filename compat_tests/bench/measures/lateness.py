"""From when an entry of a schedule is due until its task starts, in the process that fires it."""

from __future__ import annotations

import threading
from datetime import datetime
from typing import Any

from celerylite import Celery
from compat_tests.bench.measures._running import percentile
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="lateness",
    title="From due to started, 10,000 entries, SQLite file",
    figures=(
        Figure(key="p50_ms", title="p50 ms", digits=2),
        Figure(key="p99_ms", title="p99 ms", digits=2),
    ),
    contenders=("celerylite",),
    rounds=(1, 2),
)

_UNCOUNTED = 10


def run(order: Order) -> dict[str, float]:
    """One entry ten times a second beside those that are due tomorrow."""
    count = order.of(tiny=3, quick=50, full=100)
    others = order.of(tiny=10, quick=10_000, full=10_000)
    late: list[float] = []
    done = threading.Event()

    def note(self: Any) -> None:
        due = datetime.fromisoformat(self.request.get("celerylite_due_at")).timestamp()
        late.append(datetime.now().astimezone().timestamp() - due)
        if len(late) == _UNCOUNTED + count:
            done.set()

    with Celery("bench") as app:
        app.task(name="note", bind=True)(note)
        entries: dict[str, Any] = {f"e{n}": {"task": "t", "schedule": 86400.0 + n} for n in range(others)}
        entries["due"] = {"task": "note", "schedule": 0.1}
        app.conf.update(result_expires=None, beat_schedule=entries)
        app.start_runtime(beat=True)
        assert done.wait(60)
    laps = [1000 * each for each in late[_UNCOUNTED : _UNCOUNTED + count]]
    return {"p50_ms": percentile(laps, 50), "p99_ms": percentile(laps, 99)}
