"""How a task's exception travels: its class, its arguments, and what is made of those that cannot travel."""

from __future__ import annotations

import pickle
from collections.abc import Callable
from typing import Any

import kombu.exceptions
import pytest


class TwoArguments(Exception):
    """An exception whose constructor takes more than a message."""

    def __init__(self, code: int, text: str) -> None:
        super().__init__(code, text)
        self.code = code


class Nested:
    class InnerError(Exception):
        """An exception that lives inside another class."""


@pytest.fixture
def exceptions(submodule: Callable[[str], Any]) -> Any:
    return submodule("exceptions")


def _failing(app: Any, exception: BaseException, **options: Any) -> Any:
    @app.task(name="exceptions.fails", **options)
    def fails() -> None:
        raise exception

    return fails.delay()


@pytest.mark.parametrize(
    "exception",
    [
        ValueError("text"),
        ValueError(),
        KeyError("k", 2),
        ZeroDivisionError("division by zero"),
        OSError(2, "No such file"),
        RuntimeError({"a": [1]}),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"),
        TwoArguments(5, "five"),
    ],
    ids=repr,
)
def test_an_importable_exception_comes_back_as_its_class(running_app: Any, exception: Exception) -> None:
    result = _failing(running_app, exception)
    with pytest.raises(type(exception)):
        result.get(timeout=10)
    assert result.result.args == exception.args


def test_attributes_set_by_the_constructor_are_there_again(running_app: Any) -> None:
    assert _failing(running_app, TwoArguments(5, "five")).get(timeout=10, propagate=False).code == 5


def test_an_exception_inside_a_class_is_found_again(running_app: Any) -> None:
    result = _failing(running_app, Nested.InnerError("inner"))
    error = result.get(timeout=10, propagate=False)
    assert type(error).__name__ == "InnerError" or type(error).__name__ == "Nested.InnerError"
    assert error.args == ("inner",)


def test_an_exception_that_cannot_be_imported_keeps_its_name_and_arguments(running_app: Any) -> None:
    class LocalError(Exception):
        pass

    result = _failing(running_app, LocalError("local", 1))
    error = result.get(timeout=10, propagate=False)
    assert result.state == "FAILURE"
    assert "LocalError" in repr(error)
    assert "local" in repr(error)


def test_arguments_that_cannot_be_serialised_become_their_repr(running_app: Any) -> None:
    class Opaque:
        def __repr__(self) -> str:
            return "<opaque>"

    result = _failing(running_app, ValueError("text", Opaque()))
    error = result.get(timeout=10, propagate=False)
    assert result.state == "FAILURE"
    assert "<opaque>" in repr(error)


def test_the_traceback_is_text_that_names_the_line(running_app: Any) -> None:
    @running_app.task
    def job() -> None:
        raise ValueError("named line")

    result = job.delay()
    result.get(timeout=10, propagate=False)
    assert result.traceback.startswith("Traceback (most recent call last)")
    assert 'raise ValueError("named line")' in result.traceback
    assert result.traceback.rstrip().endswith("ValueError: named line")


def test_the_cause_is_in_the_traceback(running_app: Any) -> None:
    @running_app.task
    def job() -> None:
        try:
            raise KeyError("cause")
        except KeyError as exc:
            raise ValueError("effect") from exc

    result = job.delay()
    result.get(timeout=10, propagate=False)
    assert "KeyError: 'cause'" in result.traceback
    assert "The above exception was the direct cause of the following exception" in result.traceback


def test_a_success_has_no_traceback(running_app: Any) -> None:
    @running_app.task
    def job() -> None: ...

    result = job.delay()
    result.get(timeout=10)
    assert result.traceback is None


def test_a_state_of_failure_can_be_told_with_type_and_message(app: Any) -> None:
    meta = {"exc_type": "ValueError", "exc_message": "told", "exc_module": "builtins", "extra": 1}
    app.backend.store_result("told", meta, "FAILURE")
    result = app.AsyncResult("told")
    assert result.state == "FAILURE"
    assert repr(result.result) == "ValueError('told')"


def test_a_failure_without_a_type_cannot_be_read(app: Any) -> None:
    app.backend.store_result("untyped", {"done": 3}, "FAILURE")
    with pytest.raises(ValueError, match="Exception information must include the exception type"):
        _ = app.AsyncResult("untyped").state


@pytest.mark.parametrize(
    ("name", "base"),
    [
        ("CeleryError", "Exception"),
        ("TaskPredicate", "CeleryError"),
        ("Retry", "TaskPredicate"),
        ("Ignore", "TaskPredicate"),
        ("Reject", "TaskPredicate"),
        ("TaskError", "CeleryError"),
        ("NotRegistered", "KeyError"),
        ("AlreadyRegistered", "TaskError"),
        ("TimeoutError", "TaskError"),
        ("MaxRetriesExceededError", "TaskError"),
        ("TaskRevokedError", "TaskError"),
        ("ChordError", "TaskError"),
        ("ImproperlyConfigured", "ImproperlyConfigured"),
        ("WorkerTerminate", "SystemExit"),
        ("WorkerShutdown", "SystemExit"),
        ("QueueNotFound", "KeyError"),
        ("BackendError", "Exception"),
        ("CPendingDeprecationWarning", "PendingDeprecationWarning"),
        ("CDeprecationWarning", "DeprecationWarning"),
        ("DuplicateNodenameWarning", "UserWarning"),
    ],
)
def test_the_exceptions_form_celerys_tree(exceptions: Any, name: str, base: str) -> None:
    import builtins

    parent = getattr(exceptions, base, None) or getattr(builtins, base)
    assert issubclass(getattr(exceptions, name), parent)


def test_the_error_of_an_absent_broker_is_kombus(exceptions: Any) -> None:
    assert exceptions.OperationalError is kombu.exceptions.OperationalError


@pytest.mark.parametrize(
    ("name", "args"),
    [
        ("Ignore", ()),
        ("Reject", ("why", True)),
        ("NotRegistered", ("proj.task",)),
        ("TaskRevokedError", ("revoked",)),
        ("SoftTimeLimitExceeded", ()),
        ("WorkerLostError", ("lost",)),
        ("ChordError", ("text",)),
    ],
)
def test_exceptions_survive_pickling(exceptions: Any, name: str, args: tuple[Any, ...]) -> None:
    error = getattr(exceptions, name)(*args)
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is type(error)
    assert str(copy) == str(error)


def test_the_texts_of_exceptions_are_celerys(exceptions: Any) -> None:
    assert repr(exceptions.Reject("why", requeue=True)) == "reject requeue=True: why"
    assert repr(exceptions.NotRegistered("proj.task")).startswith("Task of kind 'proj.task'")


def test_errors_of_a_chain_reach_its_last_result(lib: Any, running_app: Any) -> None:
    @running_app.task
    def fails() -> None:
        raise TwoArguments(5, "five")

    @running_app.task
    def never(value: Any) -> None: ...

    result = lib.chain(fails.s(), never.s(), never.s())()
    with pytest.raises(TwoArguments):
        result.get(timeout=10)


def test_a_failing_chord_names_the_part_that_failed(lib: Any, running_app: Any, exceptions: Any) -> None:
    @running_app.task
    def part(fail: bool) -> int:
        if fail:
            raise ValueError("part")
        return 1

    @running_app.task
    def body(values: Any) -> None: ...

    with pytest.raises(exceptions.ChordError, match=r"ValueError\('part'\)"):
        # Without its parent: that one would raise the error of the part itself.
        running_app.AsyncResult(lib.chord([part.s(False), part.s(True)])(body.s()).id).get(timeout=10)


def test_errbacks_run_once_when_retries_are_used_up(app: Any, start_worker: Any, journal: Any) -> None:
    @app.task
    def errback(request: Any, exc: Exception, traceback: Any) -> None:
        journal.note(repr(exc))

    @app.task(bind=True, max_retries=2)
    def job(self: Any) -> None:
        raise self.retry(exc=ValueError("used up"), countdown=0)

    with start_worker(app, concurrency=1):
        job.apply_async(link_error=errback.s()).get(timeout=10, propagate=False)
        journal.until("ValueError('used up')")
    assert len(journal) == 1


def test_a_failure_is_told_once_when_retries_are_used_up(
    app: Any, start_worker: Any, journal: Any, receive: Any, submodule: Callable[[str], Any]
) -> None:
    signals = submodule("signals")
    for name in ("task_retry", "task_failure", "task_success"):
        receive(getattr(signals, name), lambda name=name, **kwargs: journal.note(name))

    @app.task(bind=True, max_retries=2)
    def job(self: Any) -> None:
        raise self.retry(exc=ValueError("used up"), countdown=0)

    with start_worker(app, concurrency=1):
        job.delay()
        journal.until("task_failure")
    assert journal == ["task_retry", "task_retry", "task_failure"]


def test_callbacks_do_not_run_after_a_failure(app: Any, start_worker: Any, journal: Any) -> None:
    @app.task
    def callback(value: Any) -> None:
        journal.note("callback")

    @app.task
    def errback(request: Any, exc: Exception, traceback: Any) -> None:
        journal.note("errback")

    @app.task
    def job(fail: bool) -> None:
        if fail:
            raise ValueError

    with start_worker(app, concurrency=1):
        for fail in (True, False):
            job.apply_async((fail,), link=callback.s(), link_error=errback.s())
        journal.until("callback")
        journal.until("errback")
    assert sorted(journal) == ["callback", "errback"]
