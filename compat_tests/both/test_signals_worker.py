"""The signals of a worker's life, sent by a real worker program: which, in which order, with what."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]

#: Tells of each signal but those that would take the logging over.
PROJECT = """
import importlib, sys

lib = sys.modules["__main__"].__spec__.name.partition(".")[0]
signals = importlib.import_module(lib + ".signals")
app = importlib.import_module(lib).Celery("proj", broker="memory://", backend="cache+memory://")

for name, each in list(vars(signals).items()):
    if isinstance(each, signals.Signal) and name != "setup_logging":

        def tell(sender, signal, name=name, **kwargs):
            sent_by = sender if isinstance(sender, str) else type(sender).__name__
            print("|".join(("SIGNAL", name, sent_by, *sorted(kwargs))), file=sys.__stdout__, flush=True)

        each.connect(tell, weak=False)
"""

pytestmark = pytest.mark.timeout(60)  # Its program starts slowly on a busy machine.

Told = list[tuple[str, str, list[str]]]


@pytest.fixture(scope="module")
def told(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Told]:
    """What a worker told from its start to its end by SIGTERM: name, sender and arguments of each signal."""
    directory = tmp_path_factory.mktemp("signals")
    (directory / "proj.py").write_text(PROJECT)
    library = request.config.getoption("--lib")
    process = subprocess.Popen(
        [sys.executable, "-m", library, "-A", "proj", "worker", "-P", "solo", "-n", "w1@here"],
        cwd=directory,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    with process:
        try:
            told: Told = []
            waited_for = {"worker_ready", "heartbeat_sent"}
            assert process.stdout is not None
            for line in process.stdout:
                if line.startswith("SIGNAL|"):
                    _, name, sender, *arguments = line.strip().split("|")
                    told.append((name, sender, arguments))
                    if name in waited_for:
                        waited_for.discard(name)
                        if not waited_for:
                            process.send_signal(signal.SIGTERM)
            yield told
        finally:
            process.kill()


def _of(told: Told, name: str) -> Any:
    return next((sender, arguments) for each, sender, arguments in told if each == name)


def test_the_life_of_a_worker_is_told_in_this_order(told: Told) -> None:
    wanted = (
        *("celeryd_init", "worker_init", "after_setup_logger", "after_setup_task_logger"),
        *("celeryd_after_setup", "worker_ready", "worker_shutting_down", "worker_shutdown"),
    )
    order = [name for name, _, _ in told]
    assert [name for name in dict.fromkeys(order) if name in wanted] == list(wanted)
    assert order.index("import_modules") < order.index("celeryd_init")
    assert order.index("worker_init") < order.index("worker_process_init") < order.index("worker_ready")


@pytest.mark.parametrize(
    ("name", "sender", "arguments"),
    [
        ("celeryd_init", "w1@here", ["conf", "instance", "options"]),
        ("celeryd_after_setup", "w1@here", ["conf", "instance"]),
        ("worker_init", "Worker", []),
        ("worker_process_init", "w1@here", []),
        ("worker_shutting_down", "w1@here", ["exitcode", "how", "sig"]),
        ("worker_shutdown", "Worker", []),
        ("after_setup_logger", "NoneType", ["colorize", "format", "logfile", "logger", "loglevel"]),
        ("after_setup_task_logger", "NoneType", ["colorize", "format", "logfile", "logger", "loglevel"]),
        ("import_modules", "Celery", []),
    ],
)
def test_a_signal_of_the_worker_comes_with_this(
    told: Told, name: str, sender: str, arguments: list[str]
) -> None:
    assert _of(told, name) == (sender, arguments)


def test_a_heartbeat_is_told(told: Told) -> None:
    assert _of(told, "heartbeat_sent")[1] == []


def test_signals_of_green_threads_and_of_celery_3_are_never_sent(told: Told) -> None:
    assert not {name for name, _, _ in told if name.startswith("eventlet_") or name == "task_sent"}


@pytest.mark.filterwarnings("ignore:You're running the worker with superuser")
@pytest.mark.parametrize("pool", ["solo", "threads", "prefork"])
def test_a_worker_that_is_made_has_the_class_of_its_pool(app: Any, pool: str) -> None:
    pool_cls = app.Worker(pool=pool, concurrency=1).pool_cls
    assert isinstance(pool_cls, type)
    # What tells code of users and of frameworks whether there will be child processes.
    assert ("prefork" in pool_cls.__module__) == (pool == "prefork")
