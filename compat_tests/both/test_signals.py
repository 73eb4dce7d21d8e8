"""Signals: how receivers are connected, held, chosen and kept from doing harm."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable
from typing import Any

import pytest


@pytest.fixture
def signals(submodule: Callable[[str], Any]) -> Any:
    return submodule("signals")


@pytest.fixture
def signal(submodule: Callable[[str], Any]) -> Any:
    return submodule("utils.dispatch").Signal(name="tested", providing_args={"value"})


@pytest.mark.parametrize(
    "name",
    [
        "after_setup_logger",
        "after_setup_task_logger",
        "after_task_publish",
        "beat_embedded_init",
        "beat_init",
        "before_task_publish",
        "celeryd_after_setup",
        "celeryd_init",
        "eventlet_pool_apply",
        "eventlet_pool_postshutdown",
        "eventlet_pool_preshutdown",
        "eventlet_pool_started",
        "heartbeat_sent",
        "import_modules",
        "setup_logging",
        "task_failure",
        "task_internal_error",
        "task_postrun",
        "task_prerun",
        "task_received",
        "task_rejected",
        "task_retry",
        "task_revoked",
        "task_sent",
        "task_success",
        "task_unknown",
        "user_preload_options",
        "worker_before_create_process",
        "worker_init",
        "worker_process_init",
        "worker_process_shutdown",
        "worker_ready",
        "worker_shutdown",
        "worker_shutting_down",
    ],
)
def test_every_signal_exists_under_its_name(signals: Any, name: str) -> None:
    assert getattr(signals, name).name == name


def test_the_names_for_import_star_are_all_there(signals: Any) -> None:
    assert all(hasattr(signals, name) for name in signals.__all__)


def test_receivers_are_called_with_sender_and_signal(signal: Any) -> None:
    seen: list[dict[str, Any]] = []

    @signal.connect(weak=False)
    def receiver(**kwargs: Any) -> None:
        seen.append(kwargs)

    signal.send(sender="s", value=1)
    assert seen == [{"sender": "s", "value": 1, "signal": signal}]


def test_connect_can_be_used_bare_as_a_decorator(signal: Any) -> None:
    seen: list[Any] = []

    @signal.connect
    def receiver(value: Any, **kwargs: Any) -> None:
        seen.append(value)

    signal.send(sender=None, value=1)
    assert seen == [1]


def test_send_answers_with_each_receiver_and_its_answer(signal: Any) -> None:
    def receiver(**kwargs: Any) -> str:
        return "answer"

    signal.connect(receiver)
    assert signal.send(sender=None) == [(receiver, "answer")]


def test_send_without_receivers_answers_with_nothing(signal: Any) -> None:
    assert signal.send(sender=None) == []


def test_receivers_are_called_in_the_order_of_connecting(signal: Any) -> None:
    order: list[int] = []
    receivers: list[Any] = [lambda i=i, **kwargs: order.append(i) for i in range(5)]
    for receiver in receivers:
        signal.connect(receiver)
    signal.send(sender=None)
    assert order == [0, 1, 2, 3, 4]


def test_a_receiver_is_forgotten_with_its_last_reference(signal: Any) -> None:
    seen: list[int] = []

    def connect() -> None:
        def receiver(**kwargs: Any) -> None:
            seen.append(1)

        signal.connect(receiver)

    connect()
    gc.collect()
    signal.send(sender=None)
    assert seen == []


def test_a_receiver_connected_strongly_is_kept(signal: Any) -> None:
    seen: list[int] = []

    def connect() -> None:
        def receiver(**kwargs: Any) -> None:
            seen.append(1)

        signal.connect(receiver, weak=False)

    connect()
    gc.collect()
    signal.send(sender=None)
    assert seen == [1]


def test_a_method_is_forgotten_with_its_object(signal: Any) -> None:
    class Listener:
        def __init__(self, seen: list[int]) -> None:
            self.seen = seen

        def receive(self, **kwargs: Any) -> None:
            self.seen.append(1)

    seen: list[int] = []
    listener = Listener(seen)
    signal.connect(listener.receive)
    signal.send(sender=None)
    del listener
    gc.collect()
    signal.send(sender=None)
    assert seen == [1]


def test_a_receiver_connected_twice_is_called_once(signal: Any) -> None:
    seen: list[int] = []

    def receiver(**kwargs: Any) -> None:
        seen.append(1)

    signal.connect(receiver)
    signal.connect(receiver)
    signal.send(sender=None)
    assert seen == [1]


def test_a_dispatch_uid_lets_only_one_receiver_in(signal: Any) -> None:
    seen: list[str] = []

    def first(**kwargs: Any) -> None:
        seen.append("first")

    def second(**kwargs: Any) -> None:
        seen.append("second")

    signal.connect(first, dispatch_uid="only")
    signal.connect(second, dispatch_uid="only")
    signal.send(sender=None)
    assert seen == ["first"]


def test_a_receiver_is_disconnected_by_its_dispatch_uid(signal: Any) -> None:
    seen: list[int] = []

    def receiver(**kwargs: Any) -> None:
        seen.append(1)

    signal.connect(receiver, dispatch_uid="mine")
    signal.disconnect(dispatch_uid="mine")
    signal.send(sender=None)
    assert seen == []


def test_a_disconnected_receiver_is_not_called(signal: Any) -> None:
    seen: list[int] = []

    def receiver(**kwargs: Any) -> None:
        seen.append(1)

    signal.connect(receiver)
    signal.disconnect(receiver)
    signal.send(sender=None)
    assert seen == []
    assert not signal.has_listeners()


def test_a_sender_filter_lets_only_that_sender_through(signal: Any) -> None:
    seen: list[str] = []
    one, two = object(), object()

    def receiver(**kwargs: Any) -> None:
        seen.append("called")

    signal.connect(receiver, sender=one)
    signal.send(sender=two)
    assert seen == []
    signal.send(sender=one)
    assert seen == ["called"]


def test_a_receiver_without_keywords_is_refused(signal: Any) -> None:
    def receiver(sender: Any) -> None: ...

    with pytest.raises(ValueError, match="must accept keyword arguments"):
        signal.connect(receiver, weak=False)


def test_a_failing_receiver_does_not_keep_the_others_from_being_called(
    signal: Any, caplog: pytest.LogCaptureFixture
) -> None:
    seen: list[int] = []

    def fails(**kwargs: Any) -> None:
        raise ValueError("receiver")

    def works(**kwargs: Any) -> None:
        seen.append(1)

    signal.connect(fails)
    signal.connect(works)
    with caplog.at_level(logging.ERROR):
        answers = signal.send(sender=None)
    assert seen == [1]
    assert isinstance(answers[0][1], ValueError)
    assert "raised: ValueError('receiver')" in caplog.text


def test_a_failing_receiver_does_not_stop_the_task(running_app: Any, receive: Any, signals: Any) -> None:
    def fails(**kwargs: Any) -> None:
        raise ValueError("receiver")

    for name in ("before_task_publish", "task_received", "task_prerun", "task_success", "task_postrun"):
        receive(getattr(signals, name), fails)

    @running_app.task
    def job() -> str:
        return "done"

    assert job.delay().get(timeout=10) == "done"


def test_a_filter_by_task_lets_only_its_runs_through(running_app: Any, journal: Any, signals: Any) -> None:
    @running_app.task
    def one() -> None: ...

    @running_app.task
    def two() -> None: ...

    @signals.task_postrun.connect(sender=running_app.tasks[one.name], weak=False)
    def filtered(sender: Any, **kwargs: Any) -> None:
        journal.note(("filtered", sender.name))

    @signals.task_postrun.connect(weak=False)
    def every(sender: Any, **kwargs: Any) -> None:
        journal.note(("every", sender.name))

    two.delay()
    journal.until(("every", two.name))
    one.delay()
    journal.until(("filtered", one.name))
    assert ("filtered", two.name) not in journal


def test_a_filter_by_the_proxy_of_a_task_made_later_works(
    running_app: Any, journal: Any, signals: Any
) -> None:
    @running_app.task
    def one() -> None: ...

    @signals.task_prerun.connect(sender=one, weak=False)
    def filtered(sender: Any, **kwargs: Any) -> None:
        journal.note("filtered")

    one.delay()
    journal.until("filtered")


def test_the_embedded_worker_tells_when_it_starts_and_stops(
    app: Any, start_worker: Any, receive: Any, submodule: Callable[[str], Any]
) -> None:
    testing = submodule("contrib.testing.worker")
    order: list[str] = []
    for name in ("test_worker_starting", "test_worker_started", "test_worker_stopped"):
        receive(getattr(testing, name), lambda name=name, **kwargs: order.append(name))
    with start_worker(app):
        assert order == ["test_worker_starting", "test_worker_started"]
    assert order[-1] == "test_worker_stopped"


def test_the_worker_tells_when_it_begins(app: Any, start_worker: Any, receive: Any, signals: Any) -> None:
    seen: list[Any] = []
    receive(signals.worker_init, lambda sender, **kwargs: seen.append(sender.hostname))
    with start_worker(app, hostname="named@here"):
        pass
    assert seen == ["named@here"]


def test_import_modules_is_sent_when_the_default_modules_are_imported(
    app: Any, receive: Any, signals: Any
) -> None:
    seen: list[Any] = []
    receive(signals.import_modules, lambda sender, **kwargs: seen.append(sender))
    app.loader.import_default_modules()
    assert seen == [app]


# Celery says it by a warning as well.
@pytest.mark.filterwarnings("ignore:Exception raised outside body")
def test_a_defect_around_a_task_is_told(running_app: Any, receive: Any, signals: Any, journal: Any) -> None:
    class Refuses:
        top = None

        def push(self, request: Any) -> None:
            raise LookupError("no place for a request")

        def pop(self) -> None: ...

    told: list[dict[str, Any]] = []

    def note(**kwargs: Any) -> None:
        told.append(kwargs)
        journal.note("told")

    receive(signals.task_internal_error, note)

    @running_app.task(name="signals.broken")
    def broken(x: int) -> None: ...

    task = running_app.tasks["signals.broken"]
    task.request_stack = Refuses()
    result = broken.delay(1)
    journal.until("told")
    (given,) = told
    assert set(given) == {
        *("signal", "sender", "task_id", "args", "kwargs"),
        *("request", "exception", "traceback", "einfo"),
    }
    assert given["sender"] is task
    assert given["task_id"] == result.id
    assert isinstance(given["exception"], LookupError)
    del task.request_stack


def test_a_signal_can_be_retried_until_its_receiver_succeeds(submodule: Callable[[str], Any]) -> None:
    signal = submodule("utils.dispatch").Signal(name="patient", use_caching=True)
    assert repr(signal).startswith("<Signal: patient")
