"""Exceptions made fit to be stored, and objects made of what JSON knows."""

from __future__ import annotations

import pickle
from datetime import UTC, date, datetime, time, timedelta
from typing import Any

import pytest

from celerylite.utils import serialization
from celerylite.utils.serialization import (
    UnpickleableExceptionWrapper,
    get_pickleable_etype,
    get_pickleable_exception,
    get_pickled_exception,
    jsonify,
    raise_with_context,
    strtobool,
)


class Choosy(KeyError):
    """Cannot be made from its arguments alone."""

    def __init__(self, first: str, second: str) -> None:
        super().__init__(first)


def test_an_exception_that_can_be_pickled_stays_itself() -> None:
    exc = KeyError("foo")
    assert get_pickleable_exception(exc) is exc


def test_another_becomes_its_nearest_parent() -> None:
    found = get_pickleable_exception(Choosy("foo", "bar"))
    assert type(found) is KeyError
    assert found.args == ("foo",)


def test_one_without_a_useful_parent_is_wrapped_and_can_be_restored() -> None:
    class Local(Exception):
        pass

    with pytest.raises(Local) as info:
        raise Local("foo", lambda: None)
    wrapper = get_pickleable_exception(info.value)
    assert wrapper.__traceback__ is info.value.__traceback__
    assert isinstance(wrapper, UnpickleableExceptionWrapper)
    assert str(wrapper).startswith("Local('foo', <function")
    restored = get_pickled_exception(pickle.loads(pickle.dumps(wrapper)))
    assert type(restored).__name__ == "Local"
    assert restored.args[0] == "foo"
    assert get_pickleable_etype(Local) is Exception
    assert get_pickleable_etype(KeyError) is KeyError


@pytest.mark.parametrize(
    ("value", "plain"),
    [
        (datetime(2024, 1, 2, 3, 4, 5, 678900, tzinfo=UTC), "2024-01-02T03:04:05.678Z"),
        (datetime(2024, 1, 2, 3, 4, 5), "2024-01-02T03:04:05"),  # noqa: DTZ001 - naive on purpose
        (date(2024, 1, 2), "2024-01-02"),
        (time(3, 4, 5, 678900), "03:04:05.678"),
        (timedelta(seconds=5), "0:00:05"),
        ({"a": (1, None, "x")}, {"a": [1, None, "x"]}),
    ],
)
def test_the_usual_kinds_are_made_of_json(value: Any, plain: Any) -> None:
    assert jsonify(value) == plain


def test_the_unknown_is_refused_or_filtered() -> None:
    with pytest.raises(ValueError, match="Unsupported type: <class 'object'>"):
        jsonify({"a": object()})
    assert jsonify({"a": object(), "_b": 1}, keyfilter=str.isalpha, unknown_type_filter=lambda o: "?") == {
        "a": "?"
    }


def test_words_for_true_and_false() -> None:
    assert [strtobool(word) for word in ("Yes", "off", "1", None)] == [True, False, True, None]
    with pytest.raises(TypeError, match="Cannot coerce 'foo' to type bool"):
        strtobool("foo")


def test_an_exception_is_raised_with_its_cause() -> None:
    def handle() -> None:
        try:
            raise ValueError("first")
        except ValueError:
            raise_with_context(KeyError("second"))

    with pytest.raises(KeyError) as info:
        handle()
    assert isinstance(info.value.__cause__, ValueError)


def test_base_64_there_and_back() -> None:
    assert serialization.b64decode(serialization.b64encode(b"foo\xff")) == b"foo\xff"
