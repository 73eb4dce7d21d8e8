"""Classes of tasks: bases, attributes given in the decorator, overridden calls and sending."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any
from unittest import mock

import pytest


@pytest.fixture
def flask_task(lib: Any) -> Any:
    class FlaskTask(lib.Task):  # type: ignore[misc]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ("in context", self.run(*args, **kwargs))

    return FlaskTask


def test_an_apps_task_class_is_a_fresh_class_over_the_given_one(
    lib: Any, new_app: Callable[..., Any], flask_task: Any
) -> None:
    app = lib.Celery("x", task_cls=flask_task, set_as_current=False)

    @app.task
    def job() -> None: ...

    names = [cls.__name__ for cls in type(app.tasks[job.name]).__mro__]
    assert names[:4] == ["job", "Task", "FlaskTask", "Task"]
    assert app.Task.__name__ == "Task"
    assert issubclass(app.Task, flask_task)


def test_a_task_class_can_be_named_by_path_on_a_subclass_of_the_app(lib: Any) -> None:
    class Own(lib.Celery):  # type: ignore[misc]
        task_cls = f"{lib.__name__}.contrib.abortable:AbortableTask"

    app = Own("x", set_as_current=False)

    @app.task
    def job() -> None: ...

    assert "AbortableTask" in [cls.__name__ for cls in type(app.tasks[job.name]).__mro__]


def test_putting_a_class_on_the_app_changes_every_later_task(app: Any) -> None:
    base = app.Task

    class ContextTask(base):  # type: ignore[misc,valid-type]
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            return ("context", super().__call__(*args, **kwargs))

    app.Task = ContextTask

    @app.task
    def job() -> str:
        return "done"

    assert job() == ("context", "done")
    assert isinstance(app.tasks[job.name], ContextTask)


def test_base_gives_one_task_a_class_of_its_own(lib: Any, app: Any) -> None:
    class Special(lib.Task):  # type: ignore[misc]
        answer = 42

    @app.task(base=Special, bind=True)
    def job(self: Any) -> int:
        return int(self.answer)

    assert job() == 42
    assert isinstance(app.tasks[job.name], Special)


def test_an_abstract_base_is_not_registered(lib: Any, app: Any) -> None:
    class Base(lib.Task):  # type: ignore[misc]
        abstract = True
        name = "abstract.base"

    @app.task(base=Base, name="concrete")
    def job() -> None: ...

    assert "concrete" in app.tasks
    assert "abstract.base" not in app.tasks


def test_a_bound_task_gets_itself_as_first_argument(app: Any) -> None:
    @app.task(bind=True)
    def whoami(self: Any, x: int) -> tuple[str, int]:
        return self.name, x

    assert whoami(3) == (whoami.name, 3)


def test_unknown_options_of_the_decorator_become_attributes(app: Any) -> None:
    @app.task(once={"keys": ["a"]}, unique_on=["b"], lock_expiry=60, flush_every=10)
    def job() -> None: ...

    assert job.once == {"keys": ["a"]}
    assert job.unique_on == ["b"]
    assert (job.lock_expiry, job.flush_every) == (60, 10)


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("max_retries", 3),
        ("default_retry_delay", 180),
        ("serializer", "json"),
        ("rate_limit", None),
        ("ignore_result", False),
        ("acks_late", False),
        ("track_started", False),
        ("store_errors_even_if_ignored", False),
        ("time_limit", None),
        ("soft_time_limit", None),
        ("typing", True),
        ("trail", True),
        ("expires", None),
        ("priority", None),
        ("throws", ()),
        ("send_events", True),
        ("reject_on_worker_lost", None),
        ("acks_on_failure_or_timeout", True),
    ],
)
def test_an_attribute_that_nobody_set_has_its_default(app: Any, attribute: str, value: Any) -> None:
    @app.task
    def job() -> None: ...

    assert getattr(job, attribute) == value


@pytest.mark.parametrize(
    ("setting", "value", "attribute"),
    [
        ("task_serializer", "yaml", "serializer"),
        ("task_default_rate_limit", "10/s", "rate_limit"),
        ("task_ignore_result", True, "ignore_result"),
        ("task_acks_late", True, "acks_late"),
        ("task_track_started", True, "track_started"),
        ("task_store_errors_even_if_ignored", True, "store_errors_even_if_ignored"),
        ("task_reject_on_worker_lost", True, "reject_on_worker_lost"),
        ("task_default_priority", 5, "priority"),
    ],
)
def test_an_attribute_takes_the_apps_setting(app: Any, setting: str, value: Any, attribute: str) -> None:
    app.conf[setting] = value

    @app.task
    def job() -> None: ...

    assert getattr(job, attribute) == value


def test_an_attribute_in_the_decorator_wins_over_the_apps_setting(new_app: Callable[..., Any]) -> None:
    app = new_app(task_ignore_result=True)

    @app.task(ignore_result=False)
    def kept() -> None: ...

    assert kept.ignore_result is False


def test_annotations_change_attributes_of_one_task(new_app: Callable[..., Any]) -> None:
    app = new_app(task_annotations={"annotated": {"rate_limit": "5/m"}})

    @app.task(name="annotated")
    def annotated() -> None: ...

    @app.task(name="other")
    def other() -> None: ...

    assert (annotated.rate_limit, other.rate_limit) == ("5/m", None)


def test_annotations_for_a_star_change_every_task(new_app: Callable[..., Any]) -> None:
    app = new_app(task_annotations={"*": {"max_retries": 9}})

    @app.task
    def job() -> None: ...

    assert job.max_retries == 9


def test_annotations_can_replace_a_hook(new_app: Callable[..., Any], start_worker: Any) -> None:
    failures: list[str] = []

    def on_failure(self: Any, exc: Exception, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        failures.append(repr(exc))

    app = new_app(task_annotations={"*": {"on_failure": on_failure}})

    @app.task
    def fails() -> None:
        raise ValueError("annotated")

    with start_worker(app):
        fails.delay().get(timeout=10, propagate=False)
    assert failures == ["ValueError('annotated')"]


def test_an_overridden_call_wraps_direct_calls(lib: Any, app: Any, flask_task: Any) -> None:
    @app.task(base=flask_task)
    def job(x: int) -> int:
        return x

    assert job(1) == ("in context", 1)


def test_an_overridden_call_wraps_eager_runs(app: Any, flask_task: Any) -> None:
    @app.task(base=flask_task)
    def job(x: int) -> int:
        return x

    assert job.apply((1,)).get() == ("in context", 1)


def test_an_overridden_call_wraps_runs_in_the_worker(running_app: Any, flask_task: Any) -> None:
    @running_app.task(base=flask_task)
    def job(x: int) -> int:
        return x

    assert job.delay(1).get(timeout=10) == ["in context", 1]


def test_an_overridden_call_of_the_apps_class_wraps_runs_in_the_worker(
    app: Any, start_worker: Any, flask_task: Any
) -> None:
    app.Task = flask_task

    @app.task
    def job(x: int) -> int:
        return x

    with start_worker(app):
        assert job.delay(1).get(timeout=10) == ["in context", 1]


def test_run_can_be_replaced_by_a_mock_and_put_back(app: Any) -> None:
    @app.task
    def job() -> str:
        return "real"

    with mock.patch.object(job, "run", return_value="mocked"):
        assert job() == "mocked"
    assert job() == "real"


def test_delay_can_be_replaced_by_a_mock_and_put_back(app: Any) -> None:
    @app.task
    def job(x: int) -> None: ...

    with mock.patch.object(job, "delay") as delay:
        job.delay(1)
    delay.assert_called_once_with(1)
    assert job.delay(1).id


def test_apply_async_can_be_replaced_by_a_mock_under_delay(app: Any) -> None:
    @app.task
    def job(x: int, y: int = 0) -> None: ...

    with mock.patch.object(job, "apply_async") as apply_async:
        job.delay(1, y=2)
    apply_async.assert_called_once_with((1,), {"y": 2})


class _Sendings:
    def __init__(self, lib: Any) -> None:
        sent = self.sent = []  # type: list[str]

        class Counting(lib.Task):  # type: ignore[misc]
            abstract = True

            def apply_async(self, args: Any = None, kwargs: Any = None, **options: Any) -> Any:
                sent.append(self.name)
                return super().apply_async(args=args, kwargs=kwargs, **options)

        self.base = Counting


@pytest.fixture
def sendings(lib: Any) -> _Sendings:
    return _Sendings(lib)


def test_delay_goes_through_an_overridden_apply_async(app: Any, sendings: _Sendings) -> None:
    @app.task(base=sendings.base, name="counted")
    def job() -> None: ...

    job.delay()
    assert sendings.sent == ["counted"]


def test_a_signature_goes_through_an_overridden_apply_async(app: Any, sendings: _Sendings) -> None:
    @app.task(base=sendings.base, name="counted")
    def job(x: int) -> None: ...

    job.s(1).apply_async()
    job.s(1).delay()
    job.s(1)()
    assert sendings.sent == ["counted", "counted"]


def test_a_chain_goes_through_an_overridden_apply_async(
    lib: Any, running_app: Any, sendings: _Sendings
) -> None:
    @running_app.task(base=sendings.base, name="counted")
    def job(x: int) -> int:
        return x + 1

    assert lib.chain(job.s(1), job.s(), job.s())().get(timeout=10) == 4
    assert sendings.sent == ["counted"] * 3


def test_a_group_goes_through_an_overridden_apply_async(
    lib: Any, running_app: Any, sendings: _Sendings
) -> None:
    @running_app.task(base=sendings.base, name="counted")
    def job(x: int) -> int:
        return x + 1

    assert lib.group(job.s(1), job.s(2))().get(timeout=10) == [2, 3]
    assert sendings.sent == ["counted"] * 2


def test_a_retry_goes_through_an_overridden_apply_async(running_app: Any, sendings: _Sendings) -> None:
    @running_app.task(base=sendings.base, name="counted", bind=True)
    def job(self: Any) -> int:
        if self.request.retries < 1:
            raise self.retry(countdown=0)
        return int(self.request.retries)

    assert job.delay().get(timeout=10) == 1
    assert sendings.sent == ["counted"] * 2


def test_apply_async_may_answer_with_another_result_instead_of_sending(lib: Any, app: Any) -> None:
    class Once(lib.Task):  # type: ignore[misc]
        abstract = True

        def apply_async(self, *args: Any, **options: Any) -> Any:
            return self.AsyncResult("the-running-one")

    @app.task(base=Once)
    def job() -> None: ...

    assert job.delay().id == "the-running-one"


def test_a_rejected_result_can_be_made_without_an_id(submodule: Callable[[str], Any]) -> None:
    states = submodule("states")
    rejected = submodule("result").EagerResult(None, None, states.REJECTED)
    assert rejected.state == "REJECTED"
    assert rejected.id is None


def test_one_instance_of_a_task_serves_all_runs(lib: Any, running_app: Any) -> None:
    class Caching(lib.Task):  # type: ignore[misc]
        connection: int | None = None

    @running_app.task(base=Caching, bind=True)
    def job(self: Any) -> int:
        self.connection = (self.connection or 0) + 1
        return int(self.connection)

    assert [job.delay().get(timeout=10) for _ in range(3)] == [1, 2, 3]


def test_a_class_without_run_says_that_tasks_must_define_it(lib: Any, app: Any) -> None:
    class Empty(lib.Task):  # type: ignore[misc]
        name = "empty"

    with pytest.raises(NotImplementedError, match="Tasks must define the run method"):
        app.register_task(Empty())()


def test_a_static_function_of_a_class_can_be_a_task(app: Any) -> None:
    class Jobs:
        @staticmethod
        @app.task
        def double(x: int) -> int:
            return x * 2

    assert Jobs.double(2) == 4


def test_a_task_knows_its_app_and_backend(app: Any) -> None:
    @app.task
    def job() -> None: ...

    assert job.app is app
    assert job.backend is app.backend
    assert job.AsyncResult("an-id").id == "an-id"


def test_shadow_name_can_be_overridden_for_logs_and_monitors(
    lib: Any, app: Any, receive: Any, submodule: Callable[[str], Any]
) -> None:
    class Shadowing(lib.Task):  # type: ignore[misc]
        def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str:
            return f"job for {args[0]}"

    headers: list[dict[str, Any]] = []

    @app.task(base=Shadowing)
    def job(who: str) -> None: ...

    def handler(headers: dict[str, Any], seen: list[Any] = headers, **kwargs: Any) -> None:
        seen.append(headers)

    receive(submodule("signals").before_task_publish, handler)
    job.delay("anna")
    assert headers[0]["shadow"] == "job for anna"


def test_the_request_stack_gives_the_current_request_only_while_it_runs(app: Any) -> None:
    @app.task(bind=True)
    def job(self: Any) -> Any:
        return self.request.id

    assert job.apply(task_id="inside").get() == "inside"
    assert job.request.id is None


@pytest.mark.parametrize("attribute", ["queue", "exchange", "routing_key", "priority"])
def test_a_routing_attribute_works_but_is_deprecated_and_says_so_once(
    app: Any, submodule: Callable[[str], Any], attribute: str
) -> None:
    def job() -> None: ...

    with pytest.warns(
        submodule("exceptions").CDeprecationWarning, match=f"'{attribute}' task attribute"
    ) as warned:
        task = app.task(lazy=False, **{attribute: 4})(job)
    assert getattr(task, attribute) == 4
    assert len(warned) == 1
