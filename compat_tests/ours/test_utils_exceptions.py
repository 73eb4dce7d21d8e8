"""Exceptions: the tree in the docstring is the real one, and each survives pickling."""

from __future__ import annotations

import pickle
import re

import pytest

from celerylite import exceptions
from celerylite.exceptions import AlreadyQueued, ClaimLost, MaxRetriesExceededError, Retry, SchemaTooNew


def _drawn() -> dict[str, str]:
    """Each name in the drawing with the one it stands under."""
    parents: list[tuple[int, str]] = []
    drawn: dict[str, str] = {}
    for line in (exceptions.__doc__ or "").splitlines()[1:]:
        match = re.match(r"( *)(\w+)", line)
        if match is None:
            continue
        depth, name = len(match[1]), match[2]
        parents = [(level, parent) for level, parent in parents if level < depth]
        if parents:
            drawn[name] = parents[-1][1]
        parents.append((depth, name))
    return drawn


def test_the_tree_is_drawn_as_it_is() -> None:
    for name, parent in _drawn().items():
        found = getattr(exceptions, name, None) or getattr(__builtins__, name, None)
        if found is not None:
            assert parent in {base.__name__ for base in found.__mro__[1:]}, (name, parent)


def test_the_tree_is_complete() -> None:
    classes = {name for name in exceptions.__all__ if isinstance(getattr(exceptions, name), type)}
    assert classes <= set(_drawn())


def test_those_of_celery_are_all_there_with_their_parents() -> None:
    from celery import exceptions as theirs

    for name in theirs.__all__:
        ours, original = getattr(exceptions, name), getattr(theirs, name)
        if isinstance(original, type):
            assert [base.__name__ for base in ours.__mro__] == [base.__name__ for base in original.__mro__]


@pytest.mark.parametrize(
    ("exc", "text"),
    [
        (Retry(exc=KeyError("foo"), when=10), "Retry in 10s: KeyError('foo')"),
        (Retry("because"), "because"),
        (exceptions.NotRegistered("proj.add"), "'proj.add'"),
        (exceptions.TimeLimitExceeded(3), "TimeLimitExceeded(3,)"),
        (exceptions.SoftTimeLimitExceeded(), "SoftTimeLimitExceeded()"),
        (
            AlreadyQueued("proj.add(1)", "id-1"),
            "unique key 'proj.add(1)': expected it to be free, but task id-1 holds it; wait for that one, "
            "or leave the key out",
        ),
        (
            ClaimLost("id-1", "host:1"),
            "task id-1: expected its message to be owned by 'host:1', but another runtime took it over; "
            "its outcome counts, this one was discarded",
        ),
        (
            SchemaTooNew(3, 2),
            "database schema: expected version 2 or older, got 3; "
            "upgrade celerylite here, or use another database",
        ),
    ],
)
def test_an_exception_says_the_same_after_pickling(exc: Exception, text: str) -> None:
    assert str(exc) == text
    assert str(pickle.loads(pickle.dumps(exc))) == text


def test_the_call_that_used_up_its_retries_is_named() -> None:
    exc = MaxRetriesExceededError("enough", task_args=(1,), task_kwargs={"a": 2})
    assert (exc.task_args, exc.task_kwargs, str(exc)) == ((1,), {"a": 2}, "enough")


def test_the_command_exception_is_click_s_and_loads_it_late() -> None:
    exc = exceptions.CeleryCommandException("no", exit_code=3)
    assert exc.exit_code == 3
