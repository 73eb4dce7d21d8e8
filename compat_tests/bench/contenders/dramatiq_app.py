"""The Dramatiq actors that the client and the workers share."""

from __future__ import annotations

import os
import threading

import dramatiq
from dramatiq.brokers.redis import RedisBroker
from dramatiq.results import Results
from dramatiq.results.backends import RedisBackend

broker = RedisBroker(url=os.environ["BENCH_BROKER"])
broker.add_middleware(Results(backend=RedisBackend(url=os.environ["BENCH_RESULTS"]), store_results=True))
dramatiq.set_broker(broker)


@dramatiq.actor
def noop() -> int:
    """Nothing."""
    return 1


@dramatiq.actor
def pause() -> int:
    """50 ms of waiting."""
    threading.Event().wait(0.05)
    return 1


@dramatiq.actor
def step(number: int) -> int:
    """A step of a chain."""
    return number + 1
