"""Interrupts of a task that is just publishing: they come when that is done, and leave nothing half done."""

from __future__ import annotations

import threading

from celerylite import Celery
from celerylite.exceptions import SoftTimeLimitExceeded
from celerylite.worker._limits import ThreadGuard
from compat_tests.ours.runtime_fixtures import MakeApp

#: Seconds in which all calls of the test have ended, also on a busy machine.
ALL_S = 30.0


def test_limits_that_come_while_tasks_publish_cost_no_place_and_no_message(make_app: MakeApp) -> None:
    app: Celery = make_app(worker_concurrency=8)
    mutex, sent, ran = threading.Lock(), [0], [0]

    @app.task(ignore_result=True)
    def follow() -> None:
        with mutex:
            ran[0] += 1

    @app.task(soft_time_limit=0.02)
    def work() -> None:
        try:
            for _ in range(50):
                follow.delay()
                with mutex:
                    sent[0] += 1
        except SoftTimeLimitExceeded:
            pass

    for _ in range(24):
        work.delay()
    app.drain(ALL_S)
    assert app.store.unfinished() == {}
    # A call may have been sent whose sender was told to stop before it could count it.
    assert sent[0] <= ran[0] <= sent[0] + 24


def test_an_interrupt_waits_for_the_end_of_a_block_that_may_not_be_cut_short() -> None:
    guard, steps = ThreadGuard(), []

    def work() -> None:
        guard.hold()
        guard.hold()
        other = threading.Thread(target=guard.interrupt, args=(SoftTimeLimitExceeded,))
        other.start()
        other.join()
        steps.append("inside")
        guard.let_go()
        steps.append("still inside")
        guard.let_go()
        steps.append("never")

    assert isinstance(guard.run(work), SoftTimeLimitExceeded)
    assert steps == ["inside", "still inside"]
