"""Running in a worker: the request, the order of signals and hooks, and ends that are no success."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest
from kombu.serialization import loads


@pytest.fixture
def signals(submodule: Callable[[str], Any]) -> Any:
    return submodule("signals")


@pytest.fixture
def exceptions(submodule: Callable[[str], Any]) -> Any:
    return submodule("exceptions")


WATCHED = (
    "before_task_publish",
    "after_task_publish",
    "task_received",
    "task_prerun",
    "task_success",
    "task_failure",
    "task_retry",
    "task_revoked",
    "task_unknown",
    "task_rejected",
    "task_postrun",
)


@pytest.fixture
def watched(receive: Any, signals: Any, journal: Any) -> Any:
    """A journal that notes the name of every signal of a task's life."""
    for name in WATCHED:
        receive(getattr(signals, name), lambda name=name, **kwargs: journal.note(name))
    return journal


@pytest.fixture
def told(receive: Any, signals: Any, journal: Any) -> Callable[[str], dict[str, Any]]:
    """`told("task_failure")` connects; calling the answer waits and gives what the receiver got."""

    def connect(name: str) -> Any:
        got: dict[str, Any] = {}

        def receiver(**kwargs: Any) -> None:
            got.update(kwargs)
            journal.note(f"told {name}")

        receive(getattr(signals, name), receiver)

        def wait() -> dict[str, Any]:
            journal.until(f"told {name}")
            return got

        return wait

    return connect


@pytest.fixture
def handling(lib: Any, watched: Any) -> Any:
    """A base class that notes every hook."""

    class Handling(lib.Task):  # type: ignore[misc]
        abstract = True

        def before_start(self, *args: Any) -> None:
            watched.note("before_start")

        def on_success(self, *args: Any) -> None:
            watched.note("on_success")

        def on_failure(self, *args: Any) -> None:
            watched.note("on_failure")

        def on_retry(self, *args: Any) -> None:
            watched.note("on_retry")

        def after_return(self, *args: Any) -> None:
            watched.note("after_return")

    return Handling


def test_a_success_goes_through_its_signals_and_hooks_in_order(
    running_app: Any, watched: Any, handling: Any
) -> None:
    @running_app.task(base=handling)
    def job() -> None:
        watched.note("run")

    job.delay()
    seen = watched.until("task_postrun")
    sent, ran = seen[: seen.index("before_start") - 1], seen[seen.index("task_prerun") :]
    assert [name for name in sent if name.endswith("publish")] == [
        "before_task_publish",
        "after_task_publish",
    ]
    assert ran == [
        "task_prerun",
        "before_start",
        "run",
        "on_success",
        "task_success",
        "after_return",
        "task_postrun",
    ]
    assert seen.index("before_task_publish") < seen.index("task_received") < seen.index("task_prerun")


def test_a_failure_goes_through_its_signals_and_hooks_in_order(
    running_app: Any, watched: Any, handling: Any
) -> None:
    @running_app.task(base=handling)
    def job() -> None:
        watched.note("run")
        raise ValueError

    job.delay()
    seen = watched.until("task_postrun")
    assert seen[seen.index("task_prerun") :] == [
        "task_prerun",
        "before_start",
        "run",
        "on_failure",
        "task_failure",
        "after_return",
        "task_postrun",
    ]


def test_a_retry_goes_through_its_signals_and_hooks_without_after_return(
    running_app: Any, watched: Any, handling: Any
) -> None:
    @running_app.task(base=handling, bind=True)
    def job(self: Any) -> None:
        watched.note("run")
        raise self.retry(countdown=3600)

    job.delay()
    seen = watched.until("task_postrun")
    assert [name for name in seen[seen.index("run") :] if name != "task_received"] == [
        "run",
        "before_task_publish",
        "after_task_publish",
        "on_retry",
        "task_retry",
        "task_postrun",
    ]


def test_callbacks_are_sent_before_the_success_is_told(running_app: Any, watched: Any, handling: Any) -> None:
    @running_app.task(name="the.callback")
    def callback(value: Any) -> None: ...

    @running_app.task(base=handling)
    def job() -> None:
        watched.note("run")

    job.apply_async(link=callback.s())
    seen = watched.until("task_postrun", times=2)
    assert "before_task_publish" in seen[seen.index("run") : seen.index("on_success")]


def test_an_unknown_task_is_told_and_fails(
    running_app: Any, watched: Any, told: Any, exceptions: Any
) -> None:
    unknown = told("task_unknown")
    result = running_app.send_task("nobody.has.this")
    with pytest.raises(exceptions.NotRegistered, match=r"nobody\.has\.this"):
        result.get(timeout=10)
    seen = unknown()
    assert (seen["name"], seen["id"]) == ("nobody.has.this", result.id)
    assert isinstance(seen["exc"], KeyError)
    assert seen["message"].headers["id"] == result.id
    assert "task_prerun" not in watched


FIELDS = (
    *("id", "task", "args", "kwargs", "retries", "root_id", "parent_id", "group", "headers", "hostname"),
    *("origin", "reply_to", "correlation_id", "timelimit", "callbacks", "errbacks", "chain", "chord"),
    *("argsrepr", "kwargsrepr", "eta", "expires", "ignore_result", "is_eager", "called_directly"),
    *("delivery_info", "shadow", "lang"),
)


def test_the_request_has_everything_about_the_call(running_app: Any) -> None:
    @running_app.task(bind=True, name="running.request")
    def job(self: Any, x: int, y: int = 0) -> Any:
        request = self.request
        return {name: getattr(request, name, "missing") for name in FIELDS}

    result = job.apply_async((1,), {"y": 2})
    seen = result.get(timeout=10)
    assert seen["id"] == seen["root_id"] == seen["correlation_id"] == result.id
    assert seen["task"] == "running.request"
    assert (seen["args"], seen["kwargs"]) == ([1], {"y": 2})
    assert seen["retries"] == 0
    assert seen["timelimit"] == [None, None]
    assert (seen["argsrepr"], seen["kwargsrepr"]) == ("(1,)", "{'y': 2}")
    assert seen["lang"] == "py"
    assert seen["hostname"]
    assert "@" in seen["origin"]
    assert seen["reply_to"]
    for flag in ("ignore_result", "is_eager", "called_directly"):
        assert seen[flag] is False, flag
    for name in ("parent_id", "group", "callbacks", "errbacks", "chain", "chord", "eta", "expires", "shadow"):
        assert seen[name] is None, name


def test_the_request_knows_the_callbacks_of_its_call(running_app: Any) -> None:
    @running_app.task(name="the.callback")
    def callback(*args: Any) -> None: ...

    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        return [sig["task"] for sig in self.request.callbacks]

    assert job.apply_async(link=callback.s()).get(timeout=10) == ["the.callback"]


def test_the_request_knows_its_group(lib: Any, running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        return self.request.group

    result = lib.group(job.s(), job.s())()
    assert result.get(timeout=10) == [result.id, result.id]


def test_the_request_of_a_later_link_has_the_first_as_root(lib: Any, running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any, seen: list[Any]) -> Any:
        return [*seen, [self.request.root_id, self.request.parent_id]]

    result = lib.chain(job.s([]), job.s(), job.s())()
    first, second = result.parent.parent.id, result.parent.id
    assert result.get(timeout=10) == [[first, None], [first, first], [first, second]]


def test_the_request_is_a_context_that_can_be_asked_safely(running_app: Any) -> None:
    @running_app.task(bind=True)
    def job(self: Any) -> Any:
        self.request.own_attribute = "set"
        return [self.request.get("nothing"), self.request.get("nothing", 5), self.request.own_attribute]

    assert job.delay().get(timeout=10) == [None, 5, "set"]


def test_attributes_hung_on_the_request_are_seen_in_postrun(
    running_app: Any, journal: Any, receive: Any, signals: Any
) -> None:
    receive(signals.task_postrun, lambda task, **kwargs: journal.note(task.request.own_attribute))

    @running_app.task(bind=True)
    def job(self: Any) -> None:
        self.request.own_attribute = "hung"

    job.delay()
    journal.until("hung")


def test_prerun_is_told_the_call(running_app: Any, told: Any) -> None:
    prerun = told("task_prerun")

    @running_app.task
    def job(x: int, y: int = 0) -> None: ...

    result = job.apply_async((1,), {"y": 2})
    seen = prerun()
    assert seen["sender"].name == seen["task"].name == job.name
    assert seen["task_id"] == result.id
    assert (list(seen["args"]), seen["kwargs"]) == ([1], {"y": 2})


def test_postrun_is_told_the_value_and_the_state(running_app: Any, told: Any) -> None:
    postrun = told("task_postrun")

    @running_app.task
    def job(x: int) -> int:
        return x + 1

    result = job.delay(1)
    seen = postrun()
    assert (seen["retval"], seen["state"], seen["task_id"]) == (2, "SUCCESS", result.id)
    assert (list(seen["args"]), seen["kwargs"]) == ([1], {})


def test_postrun_of_a_failure_is_told_the_exception_and_the_state(running_app: Any, told: Any) -> None:
    postrun = told("task_postrun")

    @running_app.task
    def job() -> None:
        raise ValueError("postrun")

    job.delay()
    seen = postrun()
    assert seen["state"] == "FAILURE"
    assert "postrun" in repr(seen["retval"])


def test_success_is_told_the_value(running_app: Any, told: Any) -> None:
    success = told("task_success")

    @running_app.task
    def job() -> str:
        return "value"

    job.delay()
    seen = success()
    assert (seen["sender"].name, seen["result"]) == (job.name, "value")


def test_failure_is_told_exception_and_traceback(running_app: Any, told: Any) -> None:
    failure = told("task_failure")

    @running_app.task
    def job(x: int, y: int = 0) -> None:
        raise ValueError("told")

    result = job.apply_async((1,), {"y": 2})
    seen = failure()
    assert (seen["sender"].name, seen["task_id"]) == (job.name, result.id)
    assert repr(seen["exception"]) == "ValueError('told')"
    assert (list(seen["args"]), seen["kwargs"]) == ([1], {"y": 2})
    assert seen["traceback"].tb_frame.f_code.co_name
    assert "ValueError: told" in seen["einfo"].traceback


def test_the_einfo_of_a_failure_has_text_type_and_exception(running_app: Any, told: Any) -> None:
    failure = told("task_failure")

    @running_app.task
    def job() -> None:
        raise ValueError("einfo")

    job.delay()
    einfo = failure()["einfo"]
    assert str(einfo) == einfo.traceback
    assert einfo.traceback.startswith("Traceback (most recent call last):")
    assert repr(einfo.exception) == "ValueError('einfo')"
    assert einfo.type is ValueError
    assert einfo.internal is False


def test_retry_is_told_the_request_and_the_reason(running_app: Any, told: Any, exceptions: Any) -> None:
    retry = told("task_retry")

    @running_app.task(bind=True)
    def job(self: Any) -> None:
        raise self.retry(exc=ValueError("again"), countdown=3600)

    result = job.delay()
    seen = retry()
    assert seen["sender"].name == job.name
    assert seen["request"].id == result.id
    assert isinstance(seen["reason"], exceptions.Retry)
    assert str(seen["reason"]) == "Retry in 3600s: ValueError('again')"
    assert "ValueError: again" in seen["einfo"].traceback or "again" in str(seen["einfo"].exception)


def test_received_is_told_the_request_before_it_runs(running_app: Any, told: Any) -> None:
    received = told("task_received")

    @running_app.task
    def job() -> None: ...

    result = job.delay()
    request = received()["request"]
    assert (request.id, request.name) == (result.id, job.name)
    assert request.task_id == result.id
    assert request.task_name == job.name


@pytest.fixture
def request_of(receive: Any, signals: Any, journal: Any) -> Callable[[Any], Any]:
    """`request_of(result)` waits for the request with which `task_received` tells of a call."""
    receive(signals.task_received, lambda request, **kwargs: journal.note(request))
    return lambda result: journal.find(lambda request: request.id == result.id)


@pytest.mark.parametrize("compression", [None, "zlib"])
def test_received_shows_the_body_with_what_follows_the_call(
    running_app: Any, request_of: Callable[[Any], Any], compression: str | None
) -> None:
    @running_app.task
    def job(*args: Any) -> None: ...

    request = request_of(job.apply_async((1,), link=job.si(2), link_error=job.si(3), compression=compression))
    args, kwargs, embed = loads(request.body, request.content_type, request.content_encoding)
    assert (args, kwargs, embed["callbacks"][0]["args"], embed["errbacks"][0]["args"]) == ([1], {}, [2], [3])
    # Private, and what receivers use that are to see callbacks without reading the body once more.
    assert request._Request__payload == [args, kwargs, embed]


def test_a_callback_that_is_linked_between_two_stamps_has_the_last_one(
    running_app: Any, request_of: Callable[[Any], Any], submodule: Callable[[str], Any]
) -> None:
    class Stamping(submodule("canvas").StampingVisitor):  # type: ignore[misc]
        def __init__(self, value: str) -> None:
            self.value = value

        def on_signature(self, sig: Any, **headers: Any) -> dict[str, str]:
            return {"stamp": self.value}

    @running_app.task
    def job() -> None: ...

    call = job.si()
    call.stamp(visitor=Stamping("first"))
    call.link(job.si())
    call.stamp(visitor=Stamping("last"))
    request = request_of(call.apply_async())
    _, _, embed = loads(request.body, request.content_type, request.content_encoding)
    (link,) = embed["callbacks"]
    assert link["options"]["stamped_headers"] == ["stamp"]
    assert link["options"]["stamp"] == request.stamps["stamp"] == "last"


def test_the_hooks_get_value_id_and_call(lib: Any, running_app: Any, journal: Any) -> None:
    class Handling(lib.Task):  # type: ignore[misc]
        def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
            journal.note(("before_start", task_id, list(args), kwargs))

        def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
            journal.note(("on_success", retval, task_id, list(args), kwargs))

        def after_return(
            self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
        ) -> None:
            journal.note(("after_return", status, retval, task_id, einfo))

    @running_app.task(base=Handling)
    def job(x: int, y: int = 0) -> int:
        return x + y

    tid = job.apply_async((1,), {"y": 2}).id
    journal.until(("after_return", "SUCCESS", 3, tid, None))
    assert journal[:2] == [("before_start", tid, [1], {"y": 2}), ("on_success", 3, tid, [1], {"y": 2})]


def test_the_hook_for_failures_gets_exception_id_call_and_einfo(
    lib: Any, running_app: Any, journal: Any
) -> None:
    class Handling(lib.Task):  # type: ignore[misc]
        def on_failure(self, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
            journal.note(
                ("on_failure", repr(exc), task_id, list(args), "ValueError: hook" in einfo.traceback)
            )

        def after_return(
            self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
        ) -> None:
            journal.note(("after_return", status, repr(retval)))

    @running_app.task(base=Handling)
    def job(x: int) -> None:
        raise ValueError("hook")

    tid = job.delay(1).id
    journal.until(("after_return", "FAILURE", "ValueError('hook')"))
    assert journal[0] == ("on_failure", "ValueError('hook')", tid, [1], True)


def test_the_request_is_there_in_every_hook(lib: Any, running_app: Any, journal: Any) -> None:
    class Handling(lib.Task):  # type: ignore[misc]
        def before_start(self, *args: Any) -> None:
            journal.note(self.request.id)

        def on_success(self, *args: Any) -> None:
            journal.note(self.request.id)

        def after_return(self, *args: Any) -> None:
            journal.note(self.request.id)

    @running_app.task(base=Handling)
    def job() -> None: ...

    tid = job.delay().id
    journal.until(tid, times=3)


def test_an_exception_comes_back_as_its_own_class(running_app: Any) -> None:
    @running_app.task
    def job() -> None:
        raise KeyError("missing", 5)

    result = job.delay()
    with pytest.raises(KeyError) as raised:
        result.get(timeout=10)
    assert raised.value.args == ("missing", 5)
    assert result.state == "FAILURE"
    assert "KeyError: ('missing', 5)" in result.traceback


def test_a_value_that_cannot_be_serialised_fails_the_task(running_app: Any) -> None:
    from kombu.exceptions import EncodeError

    @running_app.task
    def job() -> Any:
        return object()

    result = job.delay()
    with pytest.raises(EncodeError):
        result.get(timeout=10)
    assert result.state == "FAILURE"


def test_expected_exceptions_still_fail_the_task(running_app: Any) -> None:
    @running_app.task(throws=(KeyError,))
    def job() -> None:
        raise KeyError("expected")

    result = job.delay()
    with pytest.raises(KeyError, match="expected"):
        result.get(timeout=10)
    assert result.state == "FAILURE"


def test_ignore_leaves_the_state_as_it_was(
    running_app: Any, journal: Any, receive: Any, signals: Any, exceptions: Any
) -> None:
    receive(signals.task_postrun, lambda state, **kwargs: journal.note(state))

    @running_app.task
    def job() -> None:
        raise exceptions.Ignore

    result = job.delay()
    journal.until("IGNORED")
    assert result.state == "PENDING"


def test_ignore_keeps_a_state_that_the_task_set_itself(
    running_app: Any, journal: Any, receive: Any, signals: Any, exceptions: Any
) -> None:
    receive(signals.task_postrun, lambda state, **kwargs: journal.note(state))

    @running_app.task(bind=True)
    def job(self: Any) -> None:
        self.update_state(state="SKIPPED", meta={"why": "old"})
        raise exceptions.Ignore

    result = job.delay()
    journal.until("IGNORED")
    assert (result.state, result.info) == ("SKIPPED", {"why": "old"})


def test_reject_ends_as_a_failure_that_is_told(running_app: Any, told: Any, exceptions: Any) -> None:
    postrun, failure = told("task_postrun"), told("task_failure")

    @running_app.task(acks_late=True)
    def job() -> None:
        raise exceptions.Reject("no", requeue=False)

    result = job.delay()
    assert isinstance(result.get(timeout=10, propagate=False), exceptions.Reject)
    assert result.state == "FAILURE"
    assert postrun()["state"] == "REJECTED"
    assert failure()["task_id"] == result.id


def test_reject_with_requeue_delivers_the_message_again(
    running_app: Any, exceptions: Any, journal: Any
) -> None:
    @running_app.task(bind=True, acks_late=True)
    def job(self: Any) -> str:
        journal.note("run")
        if journal.count("run") == 1:
            raise exceptions.Reject("again", requeue=True)
        return "second time"

    result = job.delay()
    assert result.get(timeout=10) == "second time"
    assert journal.count("run") == 2


def test_a_base_exception_that_is_no_exit_fails_the_task(running_app: Any) -> None:
    @running_app.task
    def job() -> None:
        raise AssertionError("checked")

    with pytest.raises(AssertionError, match="checked"):
        job.delay().get(timeout=10)


def test_four_tasks_run_at_once_in_four_threads(running_app: Any) -> None:
    barrier = threading.Barrier(4)

    @running_app.task
    def meet() -> bool:
        barrier.wait(10)
        return True

    results = [meet.delay() for _ in range(4)]
    assert [result.get(timeout=10) for result in results] == [True] * 4


def test_every_message_runs_once(running_app: Any) -> None:
    seen: list[int] = []

    @running_app.task
    def job(x: int) -> None:
        seen.append(x)

    results = [job.delay(x) for x in range(50)]
    for result in results:
        result.get(timeout=10)
    assert sorted(seen) == list(range(50))


def test_a_task_may_wait_for_another_one(running_app: Any) -> None:
    @running_app.task
    def inner() -> int:
        return 1

    @running_app.task
    def outer() -> int:
        return int(inner.delay().get(timeout=10)) + 1

    assert outer.delay().get(timeout=10) == 2


def test_get_inside_a_task_is_refused_where_joining_is_denied(
    running_app: Any, submodule: Callable[[str], Any]
) -> None:
    result_module = submodule("result")

    @running_app.task
    def inner() -> int:
        return 1

    result = inner.delay()
    with result_module.denied_join_result(), pytest.raises(RuntimeError, match=r"Never call result\.get"):
        result.get(timeout=10)
    assert result.get(timeout=10) == 1


def test_an_errback_of_three_arguments_gets_request_exception_and_traceback(
    running_app: Any, journal: Any
) -> None:
    @running_app.task
    def errback(request: Any, exc: Exception, traceback: str) -> None:
        journal.note((request.id, repr(exc), "ValueError: no" in traceback))

    @running_app.task
    def job() -> None:
        raise ValueError("no")

    result = job.apply_async(link_error=errback.s())
    journal.until((result.id, "ValueError('no')", True))


def test_an_errback_of_one_argument_is_sent_the_id(running_app: Any, journal: Any) -> None:
    @running_app.task
    def errback(task_id: str) -> None:
        journal.note(task_id)

    @running_app.task
    def job() -> None:
        raise ValueError("no")

    result = job.apply_async(link_error=errback.s())
    journal.until(result.id)


def test_a_callback_gets_the_value(running_app: Any, journal: Any) -> None:
    @running_app.task
    def callback(value: int, extra: str) -> None:
        journal.note((value, extra))

    @running_app.task
    def job() -> int:
        return 5

    job.apply_async(link=callback.s("extra"))
    journal.until((5, "extra"))


def test_several_callbacks_all_run(running_app: Any, journal: Any) -> None:
    @running_app.task
    def callback(value: int, extra: str) -> None:
        journal.note(extra)

    @running_app.task
    def job() -> int:
        return 5

    job.apply_async(link=[callback.s("a"), callback.s("b")])
    journal.until("a")
    journal.until("b")


def test_replace_hands_the_id_to_another_task(running_app: Any) -> None:
    @running_app.task
    def other(x: int) -> int:
        return x * 2

    @running_app.task(bind=True)
    def job(self: Any, x: int) -> Any:
        raise self.replace(other.s(x))

    assert job.delay(4).get(timeout=10) == 8


def test_a_task_can_add_to_its_chord(lib: Any, running_app: Any) -> None:
    @running_app.task
    def one() -> int:
        return 1

    @running_app.task
    def total(values: list[int]) -> int:
        return sum(values)

    assert lib.chord([one.s(), one.s()])(total.s()).get(timeout=10) == 2


def test_the_worker_goes_on_after_a_failure(running_app: Any) -> None:
    @running_app.task
    def job(fail: bool) -> str:
        if fail:
            raise ValueError
        return "fine"

    job.delay(True).get(timeout=10, propagate=False)
    assert job.delay(False).get(timeout=10) == "fine"


@pytest.mark.parametrize(
    "value", [None, 0, "", [], {}, {"a": [1, {"b": None}]}, "ünï", 1.5, True, [None, False]], ids=repr
)
def test_a_value_comes_back_as_it_was_returned(running_app: Any, value: Any) -> None:
    @running_app.task
    def job() -> Any:
        return value

    assert job.delay().get(timeout=10) == value


def test_a_task_can_be_sent_from_a_signal_handler(
    running_app: Any, journal: Any, receive: Any, signals: Any
) -> None:
    @running_app.task(name="sent.by.handler")
    def follow() -> None:
        journal.note("followed")

    @running_app.task(name="first.one")
    def job() -> None: ...

    def handler(sender: Any, **kwargs: Any) -> None:
        if sender.name == "first.one":
            follow.delay()

    receive(signals.task_success, handler)
    job.delay()
    journal.until("followed")


def test_a_task_called_inside_another_knows_that_it_was_called_directly(running_app: Any) -> None:
    @running_app.task(bind=True)
    def inner(self: Any) -> Any:
        return self.request.called_directly

    @running_app.task(bind=True)
    def outer(self: Any) -> Any:
        return [self.request.called_directly, inner()]

    assert outer.delay().get(timeout=10) == [False, True]
