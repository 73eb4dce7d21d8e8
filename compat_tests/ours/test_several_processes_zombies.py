"""A process that was taken for dead and wakes up: what it still has to say does not count any more."""

from __future__ import annotations

import logging
import threading
from pathlib import Path
from typing import Any, cast

import pytest

from celerylite import Celery, _clock, _store
from celerylite._store import ResultRow, Settlement
from celerylite._store.sql import SqlStore
from celerylite.exceptions import TimeLimitExceeded
from celerylite.worker._pulse import Pulse
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, MakeApp
from compat_tests.ours.store_fixtures import join, started


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


# -- leases after an outage ----------------------------------------------------------------------------


class Wall(_clock.Clock):
    """A wall clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1000.0

    def time(self) -> float:
        return self.now


def test_a_process_that_was_late_itself_gives_the_others_time_to_renew() -> None:
    wall = Wall()
    pulse = Pulse(20.0, wall)
    assert pulse.is_steady()
    for _ in range(5):
        wall.now += 7.0
        pulse.beat()
        assert pulse.is_steady()
    # The machine slept, or the database was away.
    wall.now += 60.0
    assert not pulse.is_steady()
    pulse.beat()
    assert not pulse.is_steady()
    wall.now += 6.0
    pulse.beat()
    assert not pulse.is_steady()
    wall.now += 6.0
    pulse.beat()
    assert pulse.is_steady()


def test_a_clock_that_was_set_back_is_no_proof_that_others_are_dead() -> None:
    wall = Wall()
    pulse = Pulse(20.0, wall)
    wall.now -= 3600.0
    assert not pulse.is_steady()
    pulse.beat()
    assert not pulse.is_steady()
    wall.now += 10.0
    pulse.beat()
    assert pulse.is_steady()


@pytest.mark.parametrize("by_lease", [True, False])
def test_a_lapsed_lease_means_death_only_to_who_has_kept_its_own(tmp_path: Path, by_lease: bool) -> None:
    url = f"sqlite:///{tmp_path / 'jobs.sqlite3'}"
    lapsed, mine = _store.open_store(url, lease=0.0), _store.open_store(url)
    try:
        join(cast("SqlStore", lapsed), "lapsed")
        started(cast("SqlStore", lapsed), "t", "lapsed")
        rescued = mine.rescue("me", lambda worker: False, by_lease=by_lease)
        assert [each.message.id for each in rescued] == (["t"] if by_lease else [])
        # Whoever is certainly gone is taken over from in any case.
        rescued += mine.rescue("me", lambda worker: worker.owner == "lapsed", by_lease=False)
        assert [each.message.id for each in rescued] == ["t"]
    finally:
        lapsed.close()
        mine.close()
