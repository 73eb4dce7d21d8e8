"""Running on the spot: `apply()` and `task_always_eager`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from kombu.exceptions import EncodeError


@pytest.fixture
def eager_app(new_app: Callable[..., Any]) -> Any:
    return new_app(task_always_eager=True)


@pytest.fixture
def propagating_app(new_app: Callable[..., Any]) -> Any:
    return new_app(task_always_eager=True, task_eager_propagates=True)


def test_delay_runs_the_task_before_it_returns(eager_app: Any, submodule: Callable[[str], Any]) -> None:
    ran: list[int] = []

    @eager_app.task
    def job(x: int) -> int:
        ran.append(x)
        return x + 1

    result = job.delay(1)
    assert ran == [1]
    assert isinstance(result, submodule("result").EagerResult)
    assert (result.state, result.get(), result.successful()) == ("SUCCESS", 2, True)


def test_a_failure_is_in_the_result_and_not_raised(eager_app: Any) -> None:
    @eager_app.task
    def job() -> None:
        raise KeyError("missing")

    result = job.delay()
    assert result.state == "FAILURE"
    assert result.failed()
    assert isinstance(result.result, KeyError)
    assert "KeyError: 'missing'" in result.traceback
    with pytest.raises(KeyError, match="missing"):
        result.get()


def test_get_without_propagate_gives_the_exception(eager_app: Any) -> None:
    @eager_app.task
    def job() -> None:
        raise KeyError("missing")

    assert isinstance(job.delay().get(propagate=False), KeyError)


def test_an_eager_run_stores_nothing(eager_app: Any) -> None:
    @eager_app.task
    def job() -> int:
        return 1

    result = job.delay()
    assert result.state == "SUCCESS"
    with pytest.warns(RuntimeWarning, match="Results are not stored in backend"):
        assert eager_app.AsyncResult(result.id).state == "PENDING"


def test_an_eager_run_is_stored_when_the_setting_says_so(new_app: Callable[..., Any]) -> None:
    app = new_app(task_always_eager=True, task_store_eager_result=True)

    @app.task
    def job() -> int:
        return 5

    stored = app.AsyncResult(job.delay().id)
    assert (stored.state, stored.result) == ("SUCCESS", 5)


def test_a_failing_eager_run_is_stored_when_the_setting_says_so(new_app: Callable[..., Any]) -> None:
    app = new_app(task_always_eager=True, task_store_eager_result=True)

    @app.task
    def job() -> None:
        raise ValueError("kept")

    stored = app.AsyncResult(job.delay().id)
    assert stored.state == "FAILURE"
    assert repr(stored.result) == "ValueError('kept')"


def test_the_task_id_can_be_given(eager_app: Any) -> None:
    @eager_app.task(bind=True)
    def job(self: Any) -> str:
        return str(self.request.id)

    assert job.apply_async(task_id="mine").get() == "mine"


def test_a_group_gives_the_list_of_values(lib: Any, eager_app: Any) -> None:
    @eager_app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert lib.group(add.s(1, 1), add.s(2, 2))().get() == [2, 4]


def test_a_chain_hands_each_value_on(lib: Any, eager_app: Any) -> None:
    @eager_app.task
    def add(x: int, y: int) -> int:
        return x + y

    assert lib.chain(add.s(1, 1), add.s(2), add.s(3))().get() == 7
    assert (add.s(1, 1) | add.s(2)).delay().get() == 4


def test_a_chord_gets_the_list_of_its_header(lib: Any, eager_app: Any) -> None:
    @eager_app.task
    def add(x: int, y: int) -> int:
        return x + y

    @eager_app.task
    def total(values: list[int]) -> int:
        return sum(values)

    assert lib.chord([add.s(1, 1), add.s(2, 2)])(total.s()).get() == 6


def test_callbacks_and_errbacks_run_too(eager_app: Any) -> None:
    seen: list[Any] = []

    @eager_app.task
    def note(value: Any) -> None:
        seen.append(value)

    @eager_app.task
    def errback(request: Any, exc: Exception, traceback: Any) -> None:
        seen.append(repr(exc))

    @eager_app.task
    def job(fail: bool) -> str:
        if fail:
            raise ValueError("no")
        return "yes"

    job.apply_async((False,), link=note.s())
    job.apply_async((True,), link_error=errback.s())
    assert seen == ["yes", "ValueError('no')"]


def test_with_propagation_delay_raises_what_the_task_raises(propagating_app: Any) -> None:
    @propagating_app.task
    def job() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError, match="missing"):
        job.delay()


def test_with_propagation_a_retry_comes_out_of_delay(
    propagating_app: Any, submodule: Callable[[str], Any]
) -> None:
    @propagating_app.task(bind=True)
    def job(self: Any) -> None:
        raise self.retry(exc=ConnectionError(), countdown=10)

    with pytest.raises(submodule("exceptions").Retry) as raised:
        job.delay()
    assert str(raised.value) == "Retry in 10s: ConnectionError()"


def test_without_propagation_retries_run_on_the_spot(eager_app: Any) -> None:
    retries: list[int] = []

    @eager_app.task(bind=True, max_retries=2)
    def job(self: Any) -> None:
        retries.append(self.request.retries)
        raise self.retry(exc=ConnectionError("down"), countdown=60)

    result = job.delay()
    assert retries == [0, 1, 2]
    assert result.state == "FAILURE"
    with pytest.raises(ConnectionError, match="down"):
        result.get()


def test_a_retry_that_succeeds_gives_the_value(eager_app: Any) -> None:
    @eager_app.task(bind=True)
    def job(self: Any) -> int:
        if self.request.retries < 2:
            raise self.retry()
        return int(self.request.retries)

    result = job.delay()
    assert (result.state, result.get()) == ("SUCCESS", 2)


def test_a_run_knows_that_it_is_eager_and_not_called_directly(eager_app: Any) -> None:
    @eager_app.task(bind=True)
    def job(self: Any) -> tuple[bool, bool]:
        return self.request.is_eager, self.request.called_directly

    assert job.delay().get() == (True, False)
    assert job.apply().get() == (True, False)


def test_a_plain_call_knows_that_it_is_one(app: Any) -> None:
    @app.task(bind=True)
    def job(self: Any) -> tuple[bool, bool, Any]:
        return self.request.is_eager, self.request.called_directly, self.request.id

    assert job() == (False, True, None)


def test_a_plain_call_has_no_fields_of_a_message(app: Any) -> None:
    @app.task(bind=True)
    def job(self: Any) -> tuple[Any, Any]:
        return hasattr(self.request, "task"), self.request.get("task", "safe")

    assert job() == (False, "safe")


def test_the_request_of_an_eager_run_has_the_call(app: Any) -> None:
    @app.task(bind=True, name="eager.request")
    def job(self: Any, x: int, y: int = 0) -> dict[str, Any]:
        request = self.request
        return {key: request.get(key) for key in ("task", "args", "kwargs", "retries", "hostname", "headers")}

    seen = job.apply((1,), {"y": 2}, headers={"tenant": "a"}).get()
    assert seen["task"] == "eager.request"
    assert list(seen["args"]) == [1]
    assert seen["kwargs"] == {"y": 2}
    assert seen["retries"] == 0
    assert seen["hostname"]
    assert seen["headers"]["tenant"] == "a"


def test_apply_takes_the_number_of_retries_already_made(app: Any) -> None:
    @app.task(bind=True)
    def job(self: Any) -> int:
        return int(self.request.retries)

    assert job.apply(retries=2).get() == 2


def test_apply_raises_when_told_to_throw(app: Any) -> None:
    @app.task
    def job() -> None:
        raise KeyError("missing")

    with pytest.raises(KeyError):
        job.apply(throw=True)
    assert job.apply().state == "FAILURE"


def test_apply_passes_arguments_as_they_are(eager_app: Any) -> None:
    unencodable = object()

    @eager_app.task
    def job(x: Any) -> Any:
        return x

    assert job.apply((unencodable,)).get() is unencodable


def test_delay_passes_arguments_through_the_serializer(eager_app: Any) -> None:
    @eager_app.task
    def job(x: Any) -> Any:
        return x

    assert job.delay({1: (1, 2)}).get() == {"1": [1, 2]}


def test_delay_refuses_arguments_that_cannot_be_serialised(eager_app: Any) -> None:
    @eager_app.task
    def job(x: Any) -> Any:
        return x

    with pytest.raises(EncodeError, match="not JSON serializable"):
        job.delay(object())


def test_wrong_arguments_are_refused_by_delay(eager_app: Any) -> None:
    @eager_app.task
    def job(x: int) -> int:
        return x

    with pytest.raises(TypeError, match="positional argument"):
        job.delay()


def test_eager_runs_send_the_signals_of_a_run(
    eager_app: Any, receive: Any, submodule: Callable[[str], Any]
) -> None:
    signals = submodule("signals")
    order: list[str] = []

    def noting(name: str) -> Callable[..., None]:
        return lambda **kwargs: order.append(name)

    for name in (
        "before_task_publish",
        "after_task_publish",
        "task_received",
        "task_prerun",
        "task_success",
        "task_failure",
        "task_retry",
        "task_postrun",
    ):
        receive(getattr(signals, name), noting(name))

    @eager_app.task
    def works() -> None:
        order.append("works")

    @eager_app.task
    def fails() -> None:
        raise ValueError

    works.delay()
    assert order == ["task_prerun", "works", "task_success", "task_postrun"]
    order.clear()
    fails.delay()
    assert order == ["task_prerun", "task_failure", "task_postrun"]


def test_eager_runs_call_the_handlers_of_the_task(lib: Any, eager_app: Any) -> None:
    order: list[str] = []

    class Handling(lib.Task):  # type: ignore[misc]
        def before_start(self, *args: Any) -> None:
            order.append("before_start")

        def on_success(self, *args: Any) -> None:
            order.append("on_success")

        def after_return(self, *args: Any) -> None:
            order.append("after_return")

        def on_failure(self, *args: Any) -> None:
            order.append("on_failure")

    @eager_app.task(base=Handling)
    def job(fail: bool) -> None:
        order.append("run")
        if fail:
            raise ValueError

    job.delay(False)
    assert order == ["before_start", "run", "on_success", "after_return"]
    order.clear()
    job.delay(True)
    assert order == ["before_start", "run", "on_failure", "after_return"]


def test_the_sender_of_the_signals_is_the_task(
    eager_app: Any, receive: Any, submodule: Callable[[str], Any]
) -> None:
    senders: list[Any] = []
    receive(submodule("signals").task_prerun, lambda sender, **kwargs: senders.append(sender))

    @eager_app.task
    def job() -> None: ...

    job.delay()
    assert [sender.name for sender in senders] == [job.name]


def test_send_task_is_not_eager(eager_app: Any, submodule: Callable[[str], Any]) -> None:
    exceptions = submodule("exceptions")
    ran: list[str] = []

    @eager_app.task(name="by.name")
    def job() -> None:
        ran.append("job")

    with pytest.warns(exceptions.AlwaysEagerIgnored, match="task_always_eager has no effect on send_task"):
        eager_app.send_task("by.name")
    assert ran == []


def test_ignore_leaves_the_result_with_the_state_ignored(
    eager_app: Any, submodule: Callable[[str], Any]
) -> None:
    ignore = submodule("exceptions").Ignore

    @eager_app.task
    def job() -> None:
        raise ignore

    assert job.delay().state == "IGNORED"


def test_reject_leaves_the_result_with_the_state_rejected(
    eager_app: Any, submodule: Callable[[str], Any]
) -> None:
    reject = submodule("exceptions").Reject

    @eager_app.task
    def job() -> None:
        raise reject("no")

    assert job.delay().state == "REJECTED"


def test_an_eager_result_is_ready_and_has_no_secrets(eager_app: Any) -> None:
    @eager_app.task(name="eager.told")
    def job() -> str:
        return "value"

    result = job.delay()
    assert result.ready()
    assert result.info == "value"
    assert repr(result) == f"<EagerResult: {result.id}>"
    assert result.forget() is None
    assert result.get(timeout=1, disable_sync_subtasks=True) == "value"


def test_a_revoked_eager_result_says_so(eager_app: Any, submodule: Callable[[str], Any]) -> None:
    result = submodule("result").EagerResult("id", None, "PENDING")
    result.revoke()
    assert result.state == "REVOKED"


def test_a_task_called_in_a_task_runs_within_it(eager_app: Any) -> None:
    order: list[str] = []

    @eager_app.task
    def inner() -> None:
        order.append("inner")

    @eager_app.task
    def outer() -> None:
        order.append("outer starts")
        inner.delay()
        order.append("outer ends")

    outer.delay()
    assert order == ["outer starts", "inner", "outer ends"]


def test_get_inside_a_task_is_refused(eager_app: Any) -> None:
    @eager_app.task
    def inner() -> int:
        return 1

    @eager_app.task
    def outer() -> int:
        return int(inner.delay().get()) + 1

    with pytest.raises(RuntimeError, match=r"Never call result.get\(\) within a task!"):
        outer.delay().get()


def test_get_inside_a_task_can_be_allowed(eager_app: Any, submodule: Callable[[str], Any]) -> None:
    allow_join_result = submodule("result").allow_join_result

    @eager_app.task
    def inner() -> int:
        return 1

    @eager_app.task
    def outer() -> int:
        one = inner.delay().get(disable_sync_subtasks=False)
        with allow_join_result():
            return int(inner.delay().get()) + int(one)

    assert outer.delay().get() == 2


def test_the_setting_takes_effect_when_it_is_changed(app: Any) -> None:
    @app.task
    def job() -> int:
        return 1

    assert job.delay().state == "PENDING"
    app.conf.task_always_eager = True
    assert job.delay().state == "SUCCESS"
    app.conf.task_always_eager = False
    assert job.delay().state == "PENDING"


def test_replace_runs_the_replacement_on_the_spot(app: Any) -> None:
    @app.task
    def other(x: int) -> int:
        return x * 2

    @app.task(bind=True)
    def job(self: Any, x: int) -> Any:
        return self.replace(other.s(x))

    assert job.apply((3,)).get() == 6
