"""A worker for the length of a `with` block, in the process of the test."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from celerylite import _clock, worker
from celerylite._state import _set_task_join_will_block
from celerylite.result import allow_join_result
from celerylite.utils.dispatch import Signal
from celerylite.utils.nodenames import anon_nodename

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = (
    "WORKER_LOGLEVEL",
    "TestWorkController",
    "setup_app_for_worker",
    "start_worker",
    "test_worker_started",
    "test_worker_starting",
    "test_worker_stopped",
)

WORKER_LOGLEVEL = os.environ.get("WORKER_LOGLEVEL", "error")

test_worker_starting = Signal(name="test_worker_starting", providing_args=set())
test_worker_started = Signal(name="test_worker_started", providing_args={"worker", "consumer"})
test_worker_stopped = Signal(name="test_worker_stopped", providing_args={"worker"})

# pytest collects what is called test_...
for _signal in (test_worker_starting, test_worker_started, test_worker_stopped):
    _signal.__test__ = False  # type: ignore[attr-defined]


class TestWorkController(worker.WorkController):
    """A worker that others can wait for until it is up."""

    # pytest collects what is called Test...
    __test__ = False

    #: Celery's way to collect the log of child processes; theirs is collected otherwise here.
    logger_queue: Any = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._on_started = threading.Event()
        super().__init__(*args, **kwargs)

    def on_consumer_ready(self, consumer: Any) -> None:
        """Called by the worker once it takes tasks."""
        self._on_started.set()
        test_worker_started.send(sender=self.app, worker=self, consumer=consumer)

    def ensure_started(self) -> None:
        """Wait until the worker takes tasks."""
        self._on_started.wait()


@contextmanager
def start_worker(
    app: Celery,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int = WORKER_LOGLEVEL,
    logfile: str | None = None,
    perform_ping_check: bool = True,
    ping_task_timeout: float = 10.0,
    shutdown_timeout: float = 10.0,
    **kwargs: Any,
) -> Iterator[Any]:
    """Run `app`'s tasks inside the block, and leave no thread behind it.

    With `perform_ping_check` the block begins when the worker has run a task, for which
    `celerylite.contrib.testing.tasks` must be imported. Raises RuntimeError if the worker takes
    longer than `shutdown_timeout` seconds to stop.
    """
    test_worker_starting.send(sender=app)
    controller = None
    try:
        with _start_worker_thread(
            app,
            concurrency=concurrency,
            pool=pool,
            loglevel=loglevel,
            logfile=logfile,
            perform_ping_check=perform_ping_check,
            shutdown_timeout=shutdown_timeout,
            **kwargs,
        ) as controller:
            if perform_ping_check:
                _ping(app, ping_task_timeout)
            yield controller
    finally:
        test_worker_stopped.send(sender=app, worker=controller)


def _ping(app: Celery, timeout: float) -> None:
    with allow_join_result():
        assert app.tasks["celery.ping"].delay().get(timeout=timeout) == "pong"


@contextmanager
def _start_worker_thread(
    app: Celery,
    concurrency: int = 1,
    pool: str = "solo",
    loglevel: str | int = WORKER_LOGLEVEL,
    logfile: str | None = None,
    WorkController: Any = TestWorkController,
    perform_ping_check: bool = True,
    shutdown_timeout: float = 10.0,
    **kwargs: Any,
) -> Iterator[Any]:
    setup_app_for_worker(app, loglevel, logfile)
    if perform_ping_check:
        assert "celery.ping" in app.tasks
    kwargs.setdefault("hostname", anon_nodename())
    controller = WorkController(
        app=app,
        concurrency=concurrency,
        pool=pool,
        loglevel=loglevel,
        logfile=logfile,
        ready_callback=None,
        without_heartbeat=kwargs.pop("without_heartbeat", True),
        without_mingle=True,
        without_gossip=True,
        **kwargs,
    )
    # Here and not in a thread: what keeps the worker from starting is raised at once.
    controller.begin()
    controller.ensure_started()
    _set_task_join_will_block(False)
    try:
        yield controller
    finally:
        begun = _clock.monotonic()
        controller.stop(grace=shutdown_timeout)
        if _clock.monotonic() - begun >= shutdown_timeout:
            raise RuntimeError(
                "Worker thread failed to exit within the allocated timeout. "
                "Consider raising `shutdown_timeout` if your tasks take longer "
                "to execute."
            )


def setup_app_for_worker(app: Celery, loglevel: str | int, logfile: str | None) -> None:
    """Make `app` the current one and set its logging up."""
    app.finalize()
    app.set_current()
    app.set_default()
    type(app.log)._setup = False
    app.log.setup(loglevel=loglevel, logfile=logfile)
