"""A process that was taken for dead and wakes up: what it still has to say does not count any more."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, _store
from celerylite._store import ResultRow, Settlement
from celerylite.exceptions import TimeLimitExceeded
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, MakeApp


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    return make_app(celerylite_beat="off")


def take_over(app: Celery, database: Path) -> None:
    """Another process finds the runtime of `app` dead, and its running calls lost."""
    store = _store.open_store(f"sqlite:///{database}")
    try:
        store.join(_store.this_process("other", "celery@other", 1, None))
        for delivery in store.rescue("other", lambda worker: worker.owner != "other"):
            row = ResultRow(task_id=delivery.message.id, status="FAILURE", result=b'{"exc_type": "Lost"}')
            store.settle(Settlement(delivery=delivery, results=(row,)))
    finally:
        store.close()


def test_the_outcome_of_a_run_that_was_taken_over_is_discarded(
    app: Celery, database: Path, gate: Gate, caplog: pytest.LogCaptureFixture
) -> None:
    @app.task
    def wait() -> str:
        gate.wait()
        return "too late"

    result = wait.delay()
    gate.until_arrived(1)
    take_over(app, database)
    with caplog.at_level(logging.WARNING):
        gate.open()
        app.stop_runtime()
    assert result.state == "FAILURE"
    assert "the outcome of this run is discarded" in caplog.text


def test_a_state_that_is_reported_after_the_run_was_taken_over_does_not_hide_the_outcome(
    app: Celery, database: Path, gate: Gate
) -> None:
    @app.task(bind=True)
    def report(self: Any) -> None:
        self.update_state(state="PROGRESS", meta={"done": 1})
        gate.wait()
        self.update_state(state="PROGRESS", meta={"done": 2})

    result = report.delay()
    gate.until_arrived(1)
    assert (result.state, result.info) == ("PROGRESS", {"done": 1})
    take_over(app, database)
    gate.open()
    app.stop_runtime()
    assert result.state == "FAILURE"


def test_a_state_that_is_reported_after_the_time_limit_does_not_hide_the_failure(
    app: Celery, gate: Gate
) -> None:
    ended = threading.Event()

    # The thread cannot be killed: it goes on, but nobody listens.
    @app.task(bind=True, time_limit=0.2)
    def report(self: Any) -> None:
        try:
            gate.wait()
        finally:
            self.update_state(state="PROGRESS", meta={"done": 1})
            ended.set()

    result = report.delay()
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=DEADLINE_S)
    gate.open()
    assert ended.wait(DEADLINE_S)
    assert result.state == "FAILURE"


def test_a_task_may_report_the_state_of_another_call(app: Celery) -> None:
    @app.task(bind=True)
    def report(self: Any, other: str) -> None:
        self.update_state(task_id=other, state="PROGRESS", meta={"done": 1})

    report.delay("other").get(timeout=DEADLINE_S)
    assert app.AsyncResult("other").state == "PROGRESS"
