"""A web process while a flood of tasks runs in it: how long a trivial request waits."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from contextlib import suppress
from http.client import HTTPConnection
from pathlib import Path
from typing import Any

from compat_tests.bench.measures._running import percentile, seconds_of
from compat_tests.bench.processes import environment
from compat_tests.bench.services.redis_server import free_port
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="web",
    title="A trivial endpoint (uvicorn) while tasks are enqueued and run in its process",
    figures=(
        Figure(key="tasks", title="tasks"),
        Figure(key="idle_p50_ms", title="idle p50 ms", digits=2),
        Figure(key="idle_p99_ms", title="p99 ms", digits=2),
        Figure(key="busy_p50_ms", title="flooded p50 ms", digits=2),
        Figure(key="busy_p99_ms", title="p99 ms", digits=2),
        Figure(key="ratio_p99", title="p99 over idle p99", digits=2),
        Figure(key="per_s", title="tasks/s"),
        Figure(key="memory_mb", title="memory grew by, MB", digits=1),
    ),
    contenders=("celerylite",),
    rounds=(1, 1),
    limit_s=900,
)

_API = """
import os, threading
from celerylite import Celery
from fastapi import FastAPI

app = Celery("flooded")
api = FastAPI()
sent = 0

@app.task
def noop(n):
    return n

@api.get("/ping")
async def ping():
    return {"pong": True}

@api.post("/flood/{count}")
def flood(count: int):
    def work():
        global sent
        for n in range(count):
            noop.delay(n)
            sent += 1
    threading.Thread(target=work, daemon=True).start()
    return {"started": True}

@api.get("/state")
def state():
    waiting = app.store.unfinished()
    pages = int(open("/proc/self/statm").read().split()[1])
    return {"sent": sent, "left": sum(waiting.values()), "mb": pages * os.sysconf("SC_PAGE_SIZE") / 1e6}
"""


def run(order: Order) -> dict[str, float]:
    """p50 and p99 of the endpoint, idle and while the tasks of a flood are enqueued and run."""
    Path("api.py").write_text(_API)
    port = free_port()
    command = [sys.executable, "-m", "uvicorn", "api:api", "--app-dir", ".", "--port", str(port)]
    server = subprocess.Popen([*command, "--log-level", "warning"], env=environment())
    try:
        return _measure(_Client(port), order.of(tiny=100, quick=10_000, full=100_000))
    finally:
        server.terminate()
        server.wait(60)


class _Client:
    def __init__(self, port: int) -> None:
        self._connection = HTTPConnection("127.0.0.1", port, timeout=60)

    def ask(self, path: str, method: str = "GET") -> dict[str, Any]:
        self._connection.request(method, path)
        answer: dict[str, Any] = json.loads(self._connection.getresponse().read())
        return answer

    def pings(self, count: int) -> list[float]:
        return [1000 * seconds_of(lambda: self.ask("/ping")) for _ in range(count)]

    def wait_until_up(self) -> None:
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            with suppress(OSError):
                self.ask("/ping")
                return
            self._connection.close()
        raise TimeoutError("expected the server to be up within 30 s")


def _measure(client: _Client, count: int) -> dict[str, float]:
    client.wait_until_up()
    client.pings(100)
    idle = client.pings(1000)
    before = client.ask("/state")["mb"]
    began = time.perf_counter()
    client.ask(f"/flood/{count}", "POST")
    busy: list[float] = []
    state, most = {"sent": 0, "left": 1, "mb": before}, before
    while state["sent"] < count or state["left"]:
        busy += client.pings(100)
        state = client.ask("/state")
        most = max(most, state["mb"])
    return {
        "tasks": count,
        "idle_p50_ms": percentile(idle, 50),
        "idle_p99_ms": percentile(idle, 99),
        "busy_p50_ms": percentile(busy, 50),
        "busy_p99_ms": percentile(busy, 99),
        "ratio_p99": percentile(busy, 99) / percentile(idle, 99),
        "per_s": count / (time.perf_counter() - began),
        "memory_mb": most - before,
    }
