"""The Celery app that the client and the worker share."""

from __future__ import annotations

import asyncio
import os
import threading

from celery import Celery

app = Celery("bench", broker=os.environ["BENCH_BROKER"], backend=os.environ["BENCH_RESULTS"])
if "BENCH_BEAT" in os.environ:
    app.conf.beat_schedule = {"hourly": {"task": "bench.noop", "schedule": 3600.0}}


@app.task(name="bench.noop")
def noop() -> int:
    """Nothing."""
    return 1


@app.task(name="bench.anoop")
def anoop() -> int:
    """A coroutine, run as Celery's users do: it knows none."""
    return asyncio.run(_anoop())


async def _anoop() -> int:
    return 1


@app.task(name="bench.pause")
def pause() -> int:
    """50 ms of waiting."""
    threading.Event().wait(0.05)
    return 1


@app.task(name="bench.add")
def add(x: int, y: int) -> int:
    """A step of a chain."""
    return x + y


@app.task(name="bench.total")
def total(numbers: list[int]) -> int:
    """The body of a chord."""
    return sum(numbers)
