"""The lease of a process that lives: whatever keeps it busy, nobody may take it for dead."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, _clock, signals
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, MakeApp, rows

#: Seconds; short, so that a renewal that stays away shows soon.
_LEASE_S = 0.6


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    return make_app(celerylite_lease=_LEASE_S, celerylite_beat="on")


@pytest.fixture
def blocked_publisher(gate: Gate) -> Iterator[Gate]:
    """A handler of the user's that holds up whoever publishes the task "tick"."""

    def hold_up(sender: Any = None, **_: Any) -> None:
        if sender == "tick":
            gate.wait()

    signals.before_task_publish.connect(hold_up, weak=False)
    yield gate
    signals.before_task_publish.disconnect(hold_up)


def schedule_a_tick(app: Celery) -> None:
    @app.task(name="tick")
    def tick() -> None: ...

    app.conf.beat_schedule = {"often": {"task": "tick", "schedule": 0.05}}


def lease_until(database: Path) -> float:
    ((until,),) = rows(database, "select lease_until from celerylite_workers where departed = 0")
    return float(until)


def until_renewed(database: Path) -> None:
    """Wait until the one lease there is was prolonged for longer than it would have lasted."""
    first, pause = lease_until(database), threading.Event()
    end = _clock.Clock().monotonic() + DEADLINE_S
    while lease_until(database) < first + 1.5 * _LEASE_S:
        assert _clock.Clock().monotonic() < end, "expected the lease to be renewed"
        pause.wait(_LEASE_S / 20)


def test_a_publish_handler_that_blocks_the_schedule_costs_neither_the_lease_nor_other_work(
    app: Celery, database: Path, blocked_publisher: Gate, make_app: MakeApp
) -> None:
    @app.task(name="work")
    def work() -> str:
        return "done"

    schedule_a_tick(app)
    app.start_runtime()
    blocked_publisher.until_arrived(1)
    until_renewed(database)
    publisher = make_app("publisher", celerylite_runtime="off")
    assert publisher.send_task("work").get(timeout=DEADLINE_S) == "done"
    blocked_publisher.open()


def test_the_lease_is_kept_while_a_stop_waits_for_what_runs(app: Celery, database: Path, gate: Gate) -> None:
    @app.task
    def work() -> str:
        gate.wait()
        return "done"

    result = work.delay()
    gate.until_arrived(1)
    runtime = app._runtime
    assert runtime is not None
    stopping = threading.Thread(target=app.stop_runtime)
    stopping.start()
    try:
        assert runtime.stop_event.wait(DEADLINE_S)
        until_renewed(database)
    finally:
        gate.open()
        stopping.join(DEADLINE_S)
    assert result.get(timeout=DEADLINE_S) == "done"
    assert rows(database, "select owner from celerylite_workers where departed = 0") == []


def test_a_process_that_has_left_does_not_join_again(app: Celery, database: Path) -> None:
    app.start_runtime()
    runtime = app._runtime
    assert runtime is not None
    app.stop_runtime()
    runtime._lease.renew()
    assert rows(database, "select owner from celerylite_workers where departed = 0") == []
