"""A web process while a flood of tasks runs in it: how long a trivial request waits."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

__all__ = ("web",)

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


def web(rounds: int) -> None:
    """p50 and p99 of a trivial endpoint, idle and while the tasks of a flood are enqueued and run."""
    count = 10_000 if rounds <= 5 else 100_000
    with tempfile.TemporaryDirectory() as folder:
        Path(folder, "api.py").write_text(_API)
        port = _free_port()
        command = [sys.executable, "-m", "uvicorn", "api:api", "--port", str(port), "--log-level", "warning"]
        server = subprocess.Popen(command, cwd=folder, env=_environment(folder))
        try:
            with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=60) as client:
                _measure(client, count)
        finally:
            server.terminate()
            server.wait(60)


def _measure(client: httpx.Client, count: int) -> None:
    _wait_until_up(client)
    idle = _pings(client, 2000)
    before = client.get("/state").json()["mb"]
    began = time.perf_counter()
    client.post(f"/flood/{count}")
    busy, most, state = [], before, {"sent": 0, "left": 1, "mb": before}
    while state["sent"] < count or state["left"]:
        busy += _pings(client, 200)
        state = client.get("/state").json()
        most = max(most, state["mb"])
    seconds = time.perf_counter() - began
    print(f"\na trivial endpoint under {count:,} tasks (uvicorn, SQLite file), ms")
    for name, values in (("idle", idle), ("flooded", busy)):
        print(f"  {name:<8} p50 {_percentile(values, 50):8.2f}   p99 {_percentile(values, 99):8.2f}")
    print(f"  ratio of p99: {_percentile(busy, 99) / _percentile(idle, 99):.2f}")
    print(f"  {count / seconds:,.0f} tasks per s; memory {before:.0f} MB before, at most {most:.0f} MB")


def _pings(client: httpx.Client, count: int) -> list[float]:
    took = []
    for _ in range(count):
        began = time.perf_counter()
        client.get("/ping")
        took.append(1000 * (time.perf_counter() - began))
    return took


def _percentile(values: list[float], percent: int) -> float:
    return sorted(values)[min(len(values) - 1, len(values) * percent // 100)]


def _wait_until_up(client: httpx.Client) -> None:
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline:
        try:
            client.get("/ping")
        except httpx.TransportError:
            continue
        return
    raise TimeoutError("the server did not come up within 30 s")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _environment(folder: str) -> dict[str, str]:
    # The package may be installed, or only be in the checkout we were started in.
    return {**os.environ, "PYTHONPATH": os.pathsep.join([folder, os.getcwd()])}
