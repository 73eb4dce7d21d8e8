"""Monitoring events: what a worker tells of its tasks, and the picture that follows from it."""

from __future__ import annotations

import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import pytest

SubModule = Callable[[str], Any]


class Capture:
    """Captures events in a thread until told to stop."""

    def __init__(self, app: Any) -> None:
        self.events: list[dict[str, Any]] = []
        self._changed = threading.Condition()
        self._receiver = app.events.Receiver(app.connection_for_read(), handlers={"*": self._take})
        self._thread = threading.Thread(target=self._run)

    def _run(self) -> None:
        for _ in self._receiver.itercapture(limit=None, timeout=None, wakeup=True):
            pass

    def _take(self, event: dict[str, Any]) -> None:
        with self._changed:
            self.events.append(event)
            self._changed.notify_all()

    def until(self, type: str) -> dict[str, Any]:
        """Wait for an event of that type, and give it."""
        with self._changed:
            assert self._changed.wait_for(lambda: self._of(type), 10), f"no {type} in {self.types()}"
            return self._of(type)[0]

    def _of(self, type: str) -> list[dict[str, Any]]:
        return [event for event in self.events if event["type"] == type]

    def types(self) -> list[str]:
        return [event["type"] for event in self.events]

    def start(self) -> None:
        self._thread.start()
        self.until("worker-heartbeat")

    def stop(self) -> None:
        self._receiver.should_stop = True
        self._thread.join(10)
        assert not self._thread.is_alive()


@pytest.fixture
def capturing() -> Callable[[Any], Any]:
    @contextmanager
    def capture(app: Any) -> Iterator[Capture]:
        one = Capture(app)
        one.start()
        try:
            yield one
        finally:
            one.stop()

    return capture


@pytest.fixture
def told(new_app: Any, start_worker: Any, capturing: Any) -> Iterator[tuple[Any, Capture]]:
    """An app whose worker sends events about tasks, and what is captured of them."""
    app = new_app(worker_send_task_events=True, task_send_sent_event=True)
    with start_worker(app), capturing(app) as capture:
        yield app, capture


def test_the_life_of_a_task_is_told(told: Any, submodule: SubModule) -> None:
    app, capture = told

    @app.task(name="events.adds")
    def adds(x: int, y: int) -> int:
        return x + y

    result = adds.delay(2, y=3)
    done = capture.until("task-succeeded")
    node = submodule("utils.nodenames").anon_nodename()
    received, started = capture.until("task-received"), capture.until("task-started")
    assert {event["uuid"] for event in (received, started, done)} == {result.id}
    assert {event["hostname"] for event in (received, started, done)} == {node}
    assert (received["name"], received["args"], received["kwargs"]) == ("events.adds", "(2,)", "{'y': 3}")
    assert (received["root_id"], received["parent_id"], received["retries"]) == (result.id, None, 0)
    assert (received["eta"], received["expires"]) == (None, None)
    assert done["result"] == "5"
    assert done["runtime"] >= 0
    assert all(event["pid"] == os.getpid() for event in (received, started, done))
    assert {"timestamp", "utcoffset", "clock", "local_received"} <= set(done)


def test_sending_is_told_by_the_client(told: Any) -> None:
    app, capture = told

    @app.task(name="events.sent")
    def sent() -> None: ...

    result = sent.delay()
    event = capture.until("task-sent")
    assert (event["uuid"], event["name"], event["args"], event["kwargs"]) == (
        result.id,
        "events.sent",
        "()",
        "{}",
    )
    assert (event["queue"], event["exchange"], event["routing_key"]) == ("celery", "", "celery")


def test_a_failure_is_told_with_its_traceback(told: Any) -> None:
    app, capture = told

    @app.task(name="events.fails")
    def fails() -> None:
        raise LookupError("not there")

    fails.delay()
    event = capture.until("task-failed")
    assert event["exception"] == "LookupError('not there')"
    assert "LookupError: not there" in event["traceback"]


def test_a_retry_is_told(told: Any) -> None:
    app, capture = told

    @app.task(name="events.again", bind=True, max_retries=1)
    def again(self: Any) -> None:
        if not self.request.retries:
            raise self.retry(exc=LookupError("once"), countdown=0)

    again.delay()
    assert "LookupError('once')" in capture.until("task-retried")["exception"]
    capture.until("task-succeeded")


def test_a_revoked_call_is_told(told: Any) -> None:
    app, capture = told

    @app.task(name="events.never")
    def never() -> None: ...

    app.control.revoke("never-run", reply=True, limit=1, timeout=15)
    never.apply_async(task_id="never-run")
    event = capture.until("task-revoked")
    assert (event["uuid"], event["terminated"], event["signum"], event["expired"]) == (
        "never-run",
        False,
        None,
        False,
    )


def test_a_task_sends_events_of_its_own(told: Any) -> None:
    app, capture = told

    @app.task(name="events.reports", bind=True)
    def reports(self: Any) -> None:
        self.send_event("task-progress", done=3)

    result = reports.delay()
    event = capture.until("task-progress")
    assert (event["uuid"], event["done"]) == (result.id, 3)


def test_a_worker_shows_itself_when_a_receiver_asks(told: Any, submodule: SubModule) -> None:
    _, capture = told
    event = capture.until("worker-heartbeat")
    assert event["hostname"] == submodule("utils.nodenames").anon_nodename()
    assert event["freq"] == 5
    assert (event["sw_ident"], event["sw_ver"]) == ("py-celery", "5.7.0")


def test_nothing_is_told_of_tasks_unless_it_is_wanted(
    new_app: Any, start_worker: Any, capturing: Any
) -> None:
    app = new_app()

    @app.task(name="events.quiet")
    def quiet() -> int:
        return 1

    with start_worker(app, without_heartbeat=False), capturing(app) as capture:
        quiet.delay().get(timeout=10)
        app.control.enable_events(reply=True, limit=1, timeout=15)
        quiet.delay().get(timeout=10)
        capture.until("task-succeeded")
        assert capture.types().count("task-received") == 1


def test_the_state_follows_the_events(app: Any) -> None:
    state = app.events.State()
    base = {"hostname": "a@b", "timestamp": 100.0, "local_received": 100.0, "clock": 1, "pid": 7}
    state.event({**base, "type": "worker-online", "freq": 2.0})
    state.event(
        {**base, "type": "task-received", "uuid": "t", "name": "proj.add", "args": "(1,)", "clock": 2}
    )
    state.event({**base, "type": "task-started", "uuid": "t", "clock": 3, "timestamp": 101.0})
    state.event(
        {**base, "type": "task-succeeded", "uuid": "t", "clock": 4, "timestamp": 102.0, "result": "2"}
    )
    task = state.tasks["t"]
    assert (task.state, task.name, task.args, task.result) == ("SUCCESS", "proj.add", "(1,)", "2")
    assert (task.received, task.started, task.succeeded) == (100.0, 101.0, 102.0)
    assert task.worker.hostname == "a@b"
    assert (state.event_count, state.task_count, state.task_types()) == (4, 1, ["proj.add"])
    assert [uuid for uuid, _ in state.tasks_by_time()] == ["t"]
    assert [uuid for uuid, _ in state.tasks_by_type("proj.add")] == ["t"]
    assert task.info()["result"] == "2"


def test_an_event_that_comes_late_does_not_turn_a_task_back(app: Any) -> None:
    state = app.events.State()
    base = {"hostname": "a@b", "timestamp": 100.0, "local_received": 100.0, "uuid": "t"}
    state.event({**base, "type": "task-succeeded", "clock": 4, "result": "2"})
    state.event({**base, "type": "task-received", "clock": 2, "name": "proj.add", "unknown": 1})
    task = state.tasks["t"]
    assert (task.state, task.name, task.result) == ("SUCCESS", "proj.add", "2")
    assert not hasattr(task, "unknown")


def test_a_worker_that_went_is_forgotten_where_that_is_asked(app: Any) -> None:
    left: list[str] = []
    state = app.events.State(on_node_leave=lambda worker: left.append(worker.hostname))
    base = {"hostname": "a@b", "timestamp": 100.0, "local_received": 100.0, "clock": 1}
    state.event({**base, "type": "worker-online"})
    state.event({**base, "type": "worker-offline"})
    assert (left, list(state.workers)) == (["a@b"], [])


def test_an_event_is_a_dictionary(submodule: SubModule) -> None:
    events = submodule("events")
    event = events.Event("task-sent", uuid="t", timestamp=3.0)
    assert event == {"type": "task-sent", "uuid": "t", "timestamp": 3.0}
    assert "timestamp" in events.Event("task-sent")
    assert events.group_from("custom-my-event") == "custom"


def test_events_are_lines_of_text(submodule: SubModule) -> None:

    out = io.StringIO()
    dumper = submodule("events.dumper").Dumper(out)
    base = {"hostname": "a@b", "timestamp": 0.0}
    dumper.on_event({**base, "type": "worker-online", "freq": 2})
    dumper.on_event(
        {**base, "type": "task-received", "uuid": "t", "name": "add", "args": "()", "kwargs": "{}"}
    )
    dumper.on_event({**base, "type": "task-started", "uuid": "t", "pid": 7})
    assert out.getvalue().splitlines() == [
        "a@b [1970-01-01 00:00:00+00:00] started: freq=2",
        "a@b [1970-01-01 00:00:00+00:00] task received add(t) args=() kwargs={} ",
        "a@b [1970-01-01 00:00:00+00:00] task started: add(t) args=() kwargs={} pid=7",
    ]


def test_a_camera_takes_pictures_of_the_state(app: Any, submodule: SubModule) -> None:
    taken: list[Any] = []

    class Camera(submodule("events.snapshot").Polaroid):  # type: ignore[misc]
        def on_shutter(self, state: Any) -> None:
            taken.append(state)

    class Timer:
        def call_repeatedly(self, secs: float, fun: Callable[[], None]) -> Any:
            class Entry:
                def __call__(self) -> None:
                    fun()

                def cancel(self) -> None: ...

            return Entry()

    state = app.events.State()
    with Camera(state, app=app, timer=Timer()):
        pass
    assert taken == [state]
