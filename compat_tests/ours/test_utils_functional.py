"""head_from_fun and regen: the argument check of every call, and a list that is read from an iterator."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from celerylite.utils.functional import head_from_fun, regen
from celerylite.utils.imports import gen_task_name


def add(x: int, y: int = 2, *, z: int = 3) -> None:
    """Only its arguments matter."""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda head: head(), "add() missing 1 required positional argument: 'x'"),
        (lambda head: head(1, 2, 3), "add() takes from 1 to 2 positional arguments but 3 were given"),
        (lambda head: head(1, w=3), "add() got an unexpected keyword argument 'w'"),
    ],
)
def test_wrong_arguments_are_refused_in_python_s_words(call: Callable[[Any], Any], message: str) -> None:
    with pytest.raises(TypeError) as info:
        call(head_from_fun(add))
    assert str(info.value) == message


def test_right_arguments_pass() -> None:
    head_from_fun(add)(1, z=4)
    head_from_fun(lambda x, *args, **kwargs: None)(1, 2, 3, k=4)


def test_the_task_itself_is_the_first_argument_of_a_bound_one() -> None:
    head = head_from_fun(lambda self, x: None, bound=True)
    head(1)
    with pytest.raises(TypeError, match=r"<lambda>\(\) missing 1 required positional argument: 'x'"):
        head()


def test_annotations_are_not_evaluated() -> None:
    def unknown(x: NoSuchName) -> None:  # type: ignore[name-defined]  # noqa: F821 - that is the point
        """Only its arguments matter."""

    head_from_fun(unknown)(1)


def test_an_iterator_becomes_a_list_that_is_read_as_needed() -> None:
    taken: list[int] = []

    def numbers() -> Iterator[int]:
        for number in range(4):
            taken.append(number)
            yield number

    numbers_again = regen(numbers())
    assert numbers_again[0] == 0
    assert taken == [0, 1]
    assert list(numbers_again) == list(numbers_again) == [0, 1, 2, 3]
    assert json.dumps(numbers_again) == "[0, 1, 2, 3]"
    assert isinstance(numbers_again, list)


def test_an_error_of_the_iterator_comes_after_its_last_item() -> None:
    def broken() -> Iterator[int]:
        yield 1
        raise KeyError("foo")

    items = iter(regen(broken()))
    assert next(items) == 1
    with pytest.raises(KeyError, match="foo"):
        next(items)


class _App:
    main = "proj"


def test_a_task_without_a_name_has_that_of_its_function() -> None:
    assert gen_task_name(_App, "add", "proj.tasks") == "proj.tasks.add"


def test_in_a_script_the_app_s_name_is_the_module() -> None:
    assert gen_task_name(_App, "add", "__main__") == "proj.add"
