"""saferepr: as Celery's, whatever the arguments."""

from __future__ import annotations

from typing import Any

import pytest
from celery.utils.saferepr import saferepr as theirs
from hypothesis import given, settings
from hypothesis import strategies as st

from celerylite.utils.saferepr import reprstream, saferepr

_leaves = st.none() | st.booleans() | st.integers() | st.text(max_size=20) | st.binary(max_size=20)
_values = st.recursive(
    _leaves,
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text(max_size=8) | st.integers(), inner, max_size=4)
    ),
    max_leaves=20,
)


@given(_values, st.none() | st.integers(1, 120), st.integers(0, 4))
@settings(max_examples=40, deadline=None)
def test_it_cuts_where_celery_cuts(value: Any, maxlen: int | None, maxlevels: int) -> None:
    assert saferepr(value, maxlen, maxlevels) == theirs(value, maxlen, maxlevels)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ((), "()"),
        ({}, "{}"),
        ((1,), "(1,)"),
        ({1}, "{1}"),
        (set(), "set()"),
        ("it's", "'it\\'s'"),
        (b"a", "b'a'"),
    ],
)
def test_small_values_look_as_in_python(value: Any, text: str) -> None:
    assert saferepr(value, 1024) == text


def test_a_list_inside_itself_does_not_go_on_for_ever() -> None:
    value: list[Any] = [1]
    value.append(value)
    assert saferepr(value, 1024) == f"[1, <Recursion on list with id={id(value)}>]"


def test_an_object_without_a_repr_does_not_raise() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise KeyError("foo")

    assert saferepr(Broken(), 1024).startswith("<Unrepresentable")
    assert saferepr((10**5000,), 40).startswith("(<Unrepresentable")


def test_the_pieces_are_those_of_the_whole() -> None:
    assert "".join(reprstream([[[1, {"a": 2}]]])) == "[1, {'a': 2}]"
