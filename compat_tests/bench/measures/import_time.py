"""CPU seconds from the start of Python until an app with one task exists."""

from __future__ import annotations

import subprocess
import sys

from compat_tests.bench.processes import environment
from compat_tests.bench.spec import Figure, Order, Spec

__all__ = ("SPEC", "run")

SPEC = Spec(
    name="import-time",
    title="Import, app and one task",
    figures=(Figure(key="cpu_s", title="CPU s", digits=3),),
    contenders=("celerylite", "celery", "huey", "dramatiq", "python"),
    rounds=(3, 5),
)

_WITH_APP = """
from {library} import {name}
app = {name}("bench"{options})

@app.task{call}
def add(a, b):
    return a + b
"""
_PROGRAMS = {
    "celerylite": _WITH_APP.format(library="celerylite", name="Celery", options="", call=""),
    "celery": _WITH_APP.format(library="celery", name="Celery", options="", call=""),
    "huey": _WITH_APP.format(library="huey", name="SqliteHuey", options=', filename="h.db"', call="()"),
    "dramatiq": """
import dramatiq
from dramatiq.brokers.redis import RedisBroker
dramatiq.set_broker(RedisBroker())

@dramatiq.actor
def add(a, b):
    return a + b
""",
    "python": "",
}


def run(order: Order) -> dict[str, float]:
    """The processor's time, not the wall's: other programs of the machine do not count."""
    source = f"{_PROGRAMS[order.contender]}\nimport time; print(time.process_time())"
    command = [sys.executable, "-c", source]
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment())
    return {"cpu_s": float(done.stdout)}
