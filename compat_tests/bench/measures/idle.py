"""What a runtime with a schedule of one hourly task uses of a core while nothing is due."""

from __future__ import annotations

import threading
import time

from compat_tests.bench.measures._running import cpu_of, made
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="idle",
    title="Idle with a schedule",
    figures=(Figure(key="percent", title="% of a core", digits=2),),
    contenders=("celerylite", "celerylite-postgresql", "celerylite-mysql", "celery"),
    rounds=(1, 1),
)


def run(order: Order) -> dict[str, float]:
    """All processes, after one task and a moment to settle."""
    with made(order.contender) as contender:
        contender.start(beat=True)
        contender.round_trip()
        pause = threading.Event()
        pause.wait(order.of(tiny=0, quick=2, full=3))
        cpu, began = cpu_of(contender), time.monotonic()
        pause.wait(order.of(tiny=1, quick=10, full=15))
        return {"percent": 100 * (cpu_of(contender) - cpu) / (time.monotonic() - began)}
