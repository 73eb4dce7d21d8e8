"""What tests of users hold: what waits is looked at and run to the end, and the clock is moved."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from celerylite import _clock, signals
from celerylite.contrib.testing import assert_enqueued, drain, enqueued, manual_clock
from celerylite.contrib.testing.app import TestApp
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp


def test_what_was_sent_can_be_asserted(make_app: MakeApp) -> None:
    app = make_app(celerylite_runtime=False)

    @app.task(name="mails")
    def mails(to: str, *, urgent: bool = False) -> None: ...

    result = mails.delay("a@b", urgent=True)
    call = assert_enqueued(app, mails, "a@b", urgent=True)
    assert (call.id, call.queue, call.due_at) == (result.id, "celery", None)
    assert [one.name for one in enqueued(app)] == ["mails"]
    with pytest.raises(AssertionError, match="expected a call mails with"):
        assert_enqueued(app, mails, "c@d")
    with pytest.raises(AssertionError, match=r"expected a call other .*got \[Enqueued"):
        assert_enqueued(app, "other")


def test_a_countdown_passes_when_the_clock_is_moved(make_app: MakeApp) -> None:
    app = make_app()

    @app.task(name="reminds")
    def reminds() -> str:
        return "now"

    with manual_clock() as clock:
        result = reminds.apply_async(countdown=3600)
        assert result.state == "PENDING"
        clock.advance(3601)
        assert result.get(timeout=DEADLINE_S) == "now"
        app.close()


def test_the_schedule_obeys_the_clock_too(make_app: MakeApp) -> None:
    app = make_app()
    ticks: list[float] = []

    @app.task(name="ticks")
    def tick() -> None:
        ticks.append(_clock.time())

    app.conf.beat_schedule = {"hourly": {"task": "ticks", "schedule": 3600.0}}
    with manual_clock(1_800_000_000.0) as clock:
        app.start_runtime(beat=True)
        drain(app)
        assert ticks == []
        clock.advance(3601)
        drain(app)
        assert ticks == [1_800_003_601.0]
        clock.advance(3600)
        drain(app)
        assert len(ticks) == 2
        app.close()


def test_an_entry_that_is_just_being_published_is_not_overlooked(
    make_app: MakeApp, receive: Callable[..., Any]
) -> None:
    app = make_app()
    ticks = app.task(name="ticks")(lambda: None)
    publishing, go_on = threading.Event(), threading.Event()

    def publish(**kwargs: Any) -> None:
        publishing.set()
        go_on.wait(DEADLINE_S)

    receive(signals.before_task_publish, publish)
    app.conf.beat_schedule = {"hourly": {"task": ticks.name, "schedule": 3600.0}}
    with manual_clock(1_800_000_000.0) as clock:
        runtime = app.start_runtime(beat=True)
        drain(app)
        clock.advance(3601)
        assert publishing.wait(DEADLINE_S)
        assert not runtime.is_idle(with_schedule=True)
        go_on.set()
        drain(app)
        assert app.schedule.get("hourly").total_run_count == 1
        app.close()


def test_what_waits_is_run_to_the_end_with_all_that_follows(make_app: MakeApp) -> None:
    app = make_app(celerylite_runtime=False)
    done: list[int] = []

    @app.task(name="counts")
    def counts(left: int) -> None:
        done.append(left)
        if left:
            counts.delay(left - 1)

    counts.delay(3)
    assert done == []
    drain(app)
    assert done == [3, 2, 1, 0]
    counts.delay(0)
    # It ran nothing before, and runs nothing now.
    assert [call.args for call in enqueued(app, counts)] == [(0,)]


def test_the_error_of_a_task_is_raised_by_who_runs_it_to_the_end(make_app: MakeApp) -> None:
    app = make_app(celerylite_runtime=False)

    @app.task(name="fails")
    def fails() -> None:
        raise LookupError("on purpose")

    fails.delay()
    with pytest.raises(LookupError, match="on purpose"):
        drain(app)
    fails.delay()
    drain(app, propagate=False)
    assert enqueued(app) == []


def test_a_runtime_that_ran_before_goes_on(make_app: MakeApp) -> None:
    app = make_app()
    adds = app.task(name="adds")(lambda x, y: x + y)
    app.start_runtime()
    result = adds.delay(1, 2)
    drain(app)
    assert result.result == 3
    assert adds.delay(2, 2).get(timeout=DEADLINE_S) == 4


def test_an_app_in_memory_is_drained_when_the_clock_has_moved() -> None:
    app = TestApp()
    done: list[str] = []

    @app.task(name="later")
    def later() -> None:
        done.append("done")

    with manual_clock() as clock:
        later.apply_async(countdown=600)
        drain(app)
        assert (done, len(enqueued(app))) == ([], 1)
        clock.advance(601)
        drain(app)
        assert (done, enqueued(app)) == (["done"], [])
    app.close()
