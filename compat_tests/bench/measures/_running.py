"""Contenders that are up, and clocks around what they do."""

from __future__ import annotations

import os
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from compat_tests.bench.contenders import CONTENDERS, Contender, make
from compat_tests.bench.processes import cpu_seconds
from compat_tests.bench.spec import Order

__all__ = ("WARM", "cpu_of", "made", "percentile", "rate_of", "seconds_of", "sized", "started")

#: Round trips that do not count.
WARM = 20


@contextmanager
def made(name: str) -> Iterator[Contender]:
    """The contender, with nothing that runs tasks."""
    contender = make(name)
    try:
        yield contender
    finally:
        contender.stop()


@contextmanager
def started(name: str, *, concurrency: int | None = None) -> Iterator[Contender]:
    """The contender, warm: some round trips have come back."""
    with made(name) as contender:
        contender.start(concurrency=concurrency)
        for _ in range(WARM):
            contender.round_trip()
        yield contender


def sized(order: Order) -> int:
    """How many tasks a round has: what the contender does in a second or so, a multiple of 100."""
    pace = CONTENDERS[order.contender].pace
    return max(order.of(tiny=20, quick=pace // 2, full=pace) // 100 * 100, 100)


def seconds_of(action: Callable[[], object]) -> float:
    """What the action takes by the clock on the wall."""
    began = time.perf_counter()
    action()
    return time.perf_counter() - began


def rate_of(action: Callable[[], object], count: int) -> dict[str, float]:
    """Calls a second, and what a call costs this process: that hardly depends on who else is busy here."""
    cpu = time.process_time()
    seconds = seconds_of(action)
    return {"per_s": count / seconds, "cpu_us": 1e6 * (time.process_time() - cpu) / count}


def cpu_of(contender: Contender) -> float:
    """CPU seconds so far of this process and of all that the contender needs."""
    return time.process_time() + cpu_seconds(pid for pid in contender.pids() if pid != os.getpid())


def percentile(values: list[float], percent: int) -> float:
    """The value that so many percent do not exceed."""
    if percent == 50:
        return statistics.median(values)
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]
