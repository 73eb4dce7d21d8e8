"""The names that tasks get, and what a task looks like under its name."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def test_a_task_is_named_after_its_module_and_function(app: Any) -> None:
    @app.task
    def add() -> None: ...

    assert add.name == f"{__name__}.add"


def test_a_nested_function_is_named_without_the_function_around_it(app: Any) -> None:
    def factory() -> Any:
        @app.task
        def inner() -> None: ...

        return inner

    assert factory().name == f"{__name__}.inner"


def test_a_name_given_in_the_decorator_wins(app: Any) -> None:
    @app.task(name="given.name")
    def whatever() -> None: ...

    assert whatever.name == "given.name"
    assert app.tasks["given.name"].name == "given.name"


def test_a_function_of_the_main_module_is_named_after_the_app(new_app: Callable[..., Any]) -> None:
    app = new_app("proj")

    def script() -> None: ...

    script.__module__ = "__main__"
    assert app.task(script).name == "proj.script"


def test_a_subclass_can_name_tasks_its_own_way(lib: Any, new_app: Callable[..., Any]) -> None:
    class Named(lib.Celery):  # type: ignore[misc]
        def gen_task_name(self, name: str, module: str) -> str:
            return f"jobs:{name}"

    @new_app(cls=Named).task
    def send() -> None: ...

    assert send.name == "jobs:send"


def test_a_second_task_of_a_name_is_the_first_and_that_is_warned_about(
    app: Any, submodule: Callable[[str], Any]
) -> None:
    @app.task(name="twice", shared=False, lazy=False)
    def first() -> str:
        return "first"

    def second() -> str:
        return "second"

    with pytest.warns(submodule("exceptions").DuplicateTaskNameWarning, match="Task name 'twice'"):
        task = app.task(name="twice", shared=False, lazy=False)(second)
    assert task() == "first"


def test_a_task_shows_its_name_and_app(app: Any) -> None:
    @app.task(name="shown")
    def shown() -> None: ...

    assert repr(shown).startswith("<@task: shown of tests at 0x")


def test_a_task_keeps_what_its_function_says_about_itself(app: Any) -> None:
    @app.task
    def documented() -> None:
        """What it does."""

    assert documented.__name__ == "documented"
    assert documented.__doc__ == "What it does."


def test_the_function_is_found_under_run_and_wrapped(app: Any) -> None:
    def plain(x: int) -> int:
        return x + 1

    task = app.task(plain)
    assert task.run(1) == 2
    assert task.__wrapped__(1) == 2


def test_a_task_stands_for_itself_in_dicts_and_sets(app: Any) -> None:
    @app.task
    def member() -> None: ...

    assert app.tasks[member.name] in {app.tasks[member.name]}


@pytest.mark.parametrize("name", ["with space", "ünïcode", "a.b.c.d", "x" * 200])
def test_any_text_can_be_a_name(running_app: Any, name: str) -> None:
    @running_app.task(name=name)
    def named() -> str:
        return name

    assert running_app.send_task(name).get(timeout=10) == name
