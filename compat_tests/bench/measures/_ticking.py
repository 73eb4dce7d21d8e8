"""Ticks of a schedule."""

from __future__ import annotations

import statistics
import threading
import time

from compat_tests.bench.schedulers import make
from compat_tests.bench.spec import Order

__all__ = ("tick_us",)


def tick_us(order: Order, *, one_due: bool, entries: int) -> float:
    """The mean of many ticks, microseconds; the first ones do not count."""
    scheduler = make(order.contender)
    try:
        scheduler.load(entries, one_due=one_due)
        laps, pause = [], threading.Event()
        for _ in range(order.of(tiny=5, quick=50, full=100)):
            if one_due:
                pause.wait(0.002)
            began = time.perf_counter()
            scheduler.tick()
            laps.append(1e6 * (time.perf_counter() - began))
        return statistics.mean(laps[3:])
    finally:
        scheduler.close()
