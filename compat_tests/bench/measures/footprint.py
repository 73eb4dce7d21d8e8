"""From the start of a process until its first result, and what then stands idle in memory."""

from __future__ import annotations

import os
import threading
import time

from compat_tests.bench.measures._running import made
from compat_tests.bench.processes import memory_mb
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="footprint",
    title="Footprint",
    figures=(
        Figure(key="first_result_s", title="process start to first result, s", digits=3),
        Figure(key="processes", title="processes"),
        Figure(key="pss_mb", title="memory (PSS) idle, MB", digits=1),
    ),
    contenders=(
        "celerylite",
        "celerylite-postgresql",
        "celerylite-mysql",
        "celery",
        "celery-sql",
        "huey",
        "dramatiq",
        "procrastinate",
        "floor-libraries",
    ),
    rounds=(2, 3),
)

#: Until what starts late has started: Celery's second child, a consumer's extra connection.
_SETTLE_S = 1.0


def run(order: Order) -> dict[str, float]:
    """The caller's process counts too. What a server takes to be there does not."""
    with made(order.contender) as contender:
        contender.start()
        contender.round_trip()
        first = time.monotonic() - order.asked_at - contender.server_s
        threading.Event().wait(_SETTLE_S)
        pids = {os.getpid(), *contender.pids()}
        return {"first_result_s": first, "processes": len(pids), "pss_mb": memory_mb(pids)}
