"""What a look at a group costs: one question for all members, not one for each."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from celerylite import Celery, group, states
from celerylite.result import GroupResult, ResultSet
from compat_tests.ours.runtime_fixtures import DEADLINE_S, Gate, MakeApp


@pytest.fixture
def app(make_app: MakeApp) -> Celery:
    return make_app(worker_concurrency=4)


def reads_of(app: Celery, look: Callable[[], Any]) -> tuple[Any, int]:
    """What a look returns, and how many results it read, in statements."""
    statements: list[str] = []
    database = app.store.database  # type: ignore[attr-defined]
    database.on_statement = statements.append
    try:
        seen = look()
    finally:
        database.on_statement = None
    return seen, sum("FROM celery_taskmeta" in each for each in statements)


def result_of(app: Celery, outcomes: list[Any]) -> GroupResult:
    """A group of a member per outcome: a value, an exception, or a gate that it waits at."""

    @app.task
    def member(number: int) -> Any:
        outcome = outcomes[number]
        if isinstance(outcome, Gate):
            return outcome.wait()
        if isinstance(outcome, Exception):
            raise outcome
        return outcome

    result = group(member.s(n) for n in range(len(outcomes))).apply_async()
    assert isinstance(result, GroupResult)
    return result


@pytest.mark.parametrize(
    ("question", "answer"),
    [("ready", False), ("waiting", True), ("successful", False), ("failed", True), ("completed_count", 2)],
)
def test_a_group_of_which_some_are_done_is_read_at_once(
    app: Celery, gate: Gate, question: str, answer: Any
) -> None:
    result = result_of(app, [1, 2, gate, gate, ValueError("no")])
    for done in (0, 1, 4):
        app.AsyncResult(result[done].id).get(timeout=DEADLINE_S, propagate=False)
    again = GroupResult(result.id, [app.AsyncResult(each.id) for each in result], app=app)
    assert reads_of(app, getattr(again, question)) == (answer, 1)
    gate.open()
    app.drain(DEADLINE_S)
    assert reads_of(app, again.ready) == (True, 1)
    # All know their outcome now.
    assert reads_of(app, again.completed_count) == (4, 0)
    assert [each.state for each in again].count(states.FAILURE) == 1


def test_a_wait_for_a_body_looks_at_the_header_at_once(app: Celery, gate: Gate) -> None:
    result = result_of(app, [1, 2, gate, gate])
    for done in (0, 1):
        app.AsyncResult(result[done].id).get(timeout=DEADLINE_S)
    again = GroupResult(result.id, [app.AsyncResult(each.id) for each in result], app=app)
    assert reads_of(app, again.maybe_throw) == (None, 1)
    gate.open()


def test_a_set_within_a_set_is_looked_at_too(app: Celery, gate: Gate) -> None:
    first, second, *inner = result_of(app, [1, 2, 3, gate])
    outer = ResultSet([first, second, ResultSet(inner, app=app)], app=app)
    assert not outer.ready()
    gate.open()
    app.drain(DEADLINE_S)
    assert outer.ready()
    assert outer.successful()


def test_results_of_two_apps_are_asked_for_where_they_are(app: Celery, tmp_path: Path) -> None:
    other = Celery("other")
    other.conf.result_backend = f"db+sqlite:///{tmp_path / 'other.sqlite3'}"
    for each in ("a", "b"):
        app.backend.store_result(f"mine {each}", 1, states.SUCCESS)
        other.backend.store_result(f"theirs {each}", 2, states.SUCCESS)
    ids = [(mine, f"{name} {each}") for mine, name in ((app, "mine"), (other, "theirs")) for each in "ab"]
    both = ResultSet([of.AsyncResult(task_id) for of, task_id in ids], app=app)
    assert both.ready()
    assert both.completed_count() == 4
    other.close()


def test_a_callback_of_a_group_is_called_when_a_look_finds_it_done(app: Celery) -> None:
    result = result_of(app, [1, 2])
    app.drain(DEADLINE_S)
    told: list[Any] = []
    result.then(told.append)
    assert result.ready()
    assert told == [result]


def test_a_look_that_may_look_once_does_not_wait(app: Celery, gate: Gate) -> None:
    result = result_of(app, [1, gate])
    result[0].get(timeout=DEADLINE_S)
    ids = [each.id for each in result]
    assert [task_id for task_id, _ in app.backend.get_many(ids, max_iterations=1)] == ids[:1]
