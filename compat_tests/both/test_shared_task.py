"""Tasks of modules that never see the app: `shared_task` and the proxies for what is current."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def test_a_shared_task_can_be_made_before_any_app(lib: Any, new_app: Callable[..., Any]) -> None:
    @lib.shared_task
    def early(x: int) -> int:
        return x + 1

    app = new_app("late")
    assert early.app is app
    assert early.name == f"{__name__}.early"
    assert early.name in app.tasks
    assert early(1) == 2


def test_a_shared_task_takes_the_options_of_task(lib: Any, new_app: Callable[..., Any]) -> None:
    @lib.shared_task(name="shared.named", bind=True, max_retries=7, rate_limit="4/s")
    def job(self: Any) -> tuple[str, int]:
        return self.name, self.max_retries

    new_app()
    assert job() == ("shared.named", 7)
    assert job.rate_limit == "4/s"


def test_a_shared_task_follows_the_current_app(lib: Any, new_app: Callable[..., Any]) -> None:
    @lib.shared_task(name="shared.follows")
    def job() -> None: ...

    one = new_app("one")
    assert job.app is one
    two = new_app("two")
    assert job.app is two
    one.set_current()
    assert job.app is one


def test_a_shared_task_made_after_an_app_is_known_to_it(lib: Any, app: Any) -> None:
    app.finalize()

    @lib.shared_task(name="shared.after")
    def job() -> None: ...

    assert "shared.after" in app.tasks


def test_every_app_has_its_own_copy_of_a_shared_task(lib: Any, new_app: Callable[..., Any]) -> None:
    @lib.shared_task(name="shared.copies")
    def job() -> None: ...

    one, two = new_app("one"), new_app("two")
    assert one.tasks["shared.copies"] is not two.tasks["shared.copies"]


def test_a_shared_task_runs_in_the_worker(lib: Any, running_app: Any) -> None:
    @lib.shared_task(name="shared.runs")
    def job(x: int) -> int:
        return x * 2

    assert job.delay(4).get(timeout=10) == 8


def test_a_shared_task_makes_signatures(lib: Any, app: Any) -> None:
    @lib.shared_task(name="shared.signed")
    def job(x: int) -> int:
        return x

    assert dict(job.s(1))["task"] == "shared.signed"
    assert job.s(1).type.app is app


def test_attributes_are_set_on_a_shared_task_through_its_proxy(lib: Any, app: Any) -> None:
    @lib.shared_task(name="shared.attributes")
    def job() -> None: ...

    job.marker = "set"
    assert app.tasks["shared.attributes"].marker == "set"


def test_a_shared_task_uses_the_class_given_as_base(lib: Any, app: Any) -> None:
    class Base(lib.Task):  # type: ignore[misc]
        def __call__(self, *args: Any) -> Any:
            return ["wrapped", self.run(*args)]

    @lib.shared_task(base=Base)
    def job(x: int) -> int:
        return x

    assert job(1) == ["wrapped", 1]


def test_a_shared_task_is_eager_when_the_current_app_is(lib: Any, new_app: Callable[..., Any]) -> None:
    @lib.shared_task
    def job(x: int) -> int:
        return x + 1

    new_app(task_always_eager=True)
    assert job.delay(1).get() == 2


def test_the_current_task_is_the_one_that_runs(lib: Any, running_app: Any) -> None:
    @running_app.task
    def job() -> tuple[str, str]:
        return lib.current_task.name, lib.current_task.request.id

    result = job.delay()
    assert result.get(timeout=10) == [job.name, result.id]


def test_there_is_no_current_task_outside_of_one(lib: Any, app: Any) -> None:
    assert not lib.current_task
    assert app.current_task is None


def test_the_current_app_inside_a_task_is_the_one_that_runs_it(lib: Any, running_app: Any) -> None:
    @running_app.task
    def job() -> str:
        return str(lib.current_app.main)

    assert job.delay().get(timeout=10) == "tests"


def test_a_task_called_by_another_is_current_meanwhile(lib: Any, app: Any) -> None:
    @app.task(name="inner")
    def inner() -> str:
        return str(lib.current_task.name)

    @app.task(name="outer")
    def outer() -> list[str]:
        return [lib.current_task.name, inner(), lib.current_task.name]

    assert outer() == ["outer", "inner", "outer"]


def test_the_worker_task_is_the_outermost_one(app: Any, submodule: Callable[[str], Any]) -> None:
    state = submodule("_state")

    @app.task(name="inner")
    def inner() -> Any:
        return state.get_current_task().name, app.current_worker_task

    @app.task(name="outer")
    def outer() -> Any:
        name, worker_task = inner()
        return name, worker_task is not None and worker_task.name

    assert outer.apply().get() == ("inner", "outer")


@pytest.mark.parametrize("name", ["current_app", "current_task"])
def test_what_is_current_can_be_imported_from_two_places(
    lib: Any, submodule: Callable[[str], Any], name: str
) -> None:
    assert getattr(lib, name) is getattr(submodule("_state"), name)
