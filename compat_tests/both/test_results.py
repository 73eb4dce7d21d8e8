"""Results: asking, waiting, sets and groups of them, trees of children, and their copies."""

from __future__ import annotations

import copy
import pickle
import uuid
from collections.abc import Callable
from typing import Any

import pytest

WAIT_S = 5


@pytest.fixture
def result(submodule: Callable[[str], Any]) -> Any:
    return submodule("result")


@pytest.fixture
def exceptions(submodule: Callable[[str], Any]) -> Any:
    return submodule("exceptions")


def done(app: Any, value: Any) -> Any:
    """The result of a call that succeeded with `value`."""
    known = app.AsyncResult(str(uuid.uuid4()))
    app.backend.mark_as_done(known.id, value)
    return known


def failed(app: Any, exc: Exception) -> Any:
    """The result of a call that raised `exc`."""
    known = app.AsyncResult(str(uuid.uuid4()))
    app.backend.mark_as_failure(known.id, exc, traceback="Traceback: here")
    return known


def unknown(app: Any) -> Any:
    """The result of a call that nobody made."""
    return app.AsyncResult(str(uuid.uuid4()))


# -- one result


def test_an_unknown_id_is_pending(app: Any) -> None:
    pending = unknown(app)
    assert (pending.state, pending.status, pending.result) == ("PENDING", "PENDING", None)
    assert not any([pending.ready(), pending.successful(), pending.failed()])


def test_a_result_needs_an_id(app: Any) -> None:
    with pytest.raises(ValueError, match="AsyncResult requires valid id, not <class 'NoneType'>"):
        app.AsyncResult(None)


def test_a_success_has_its_value(app: Any) -> None:
    known = done(app, {"n": 1})
    assert (known.state, known.result, known.info, known.get()) == ("SUCCESS", *[{"n": 1}] * 3)
    assert known.ready()
    assert known.successful()
    assert known.date_done is not None


def test_a_failure_has_its_exception_and_traceback(app: Any) -> None:
    known = failed(app, KeyError("lost"))
    assert known.failed()
    assert isinstance(known.result, KeyError)
    assert known.traceback == "Traceback: here"
    assert isinstance(known.get(propagate=False), KeyError)
    with pytest.raises(KeyError, match="lost"):
        known.get()
    with pytest.raises(KeyError, match="lost"):
        known.maybe_throw()


def test_get_gives_up_after_its_timeout(app: Any, exceptions: Any) -> None:
    with pytest.raises(exceptions.TimeoutError, match="The operation timed out"):
        unknown(app).get(timeout=0.01, interval=0.005)


def test_get_calls_back_with_id_and_value(app: Any) -> None:
    known, got = done(app, 7), []
    assert known.get(callback=lambda task_id, value: got.append((task_id, value))) == 7
    assert got == [(known.id, 7)]


def test_get_calls_on_interval_while_it_waits(app: Any, exceptions: Any) -> None:
    calls: list[int] = []
    with pytest.raises(exceptions.TimeoutError):
        unknown(app).get(timeout=0.02, interval=0.005, on_interval=lambda: calls.append(1))
    assert calls


def test_get_raises_the_failure_of_a_parent(app: Any) -> None:
    child = app.AsyncResult(str(uuid.uuid4()), parent=failed(app, KeyError("lost")))
    with pytest.raises(KeyError, match="lost"):
        child.get(timeout=WAIT_S)


def test_get_in_a_task_is_refused_unless_allowed(app: Any, result: Any) -> None:
    known = done(app, 1)
    with result.denied_join_result():
        with pytest.raises(RuntimeError, match=r"Never call result\.get\(\) within a task!"):
            known.get()
        assert known.get(disable_sync_subtasks=False) == 1
        with result.allow_join_result():
            assert known.get() == 1


def test_the_result_of_an_ignored_call_is_none_at_once(app: Any) -> None:
    ignored = unknown(app)
    ignored.ignored = True
    assert ignored.get() is None


def test_a_forgotten_result_is_pending_again(app: Any) -> None:
    known = done(app, 1)
    assert known.get() == 1
    known.forget()
    assert known.state == "PENDING"


def test_results_are_equal_by_id(app: Any) -> None:
    known = unknown(app)
    assert known == app.AsyncResult(known.id)
    assert known == known.id
    assert known != unknown(app)
    assert len({known, app.AsyncResult(known.id)}) == 1
    assert (str(known), repr(known)) == (known.id, f"<AsyncResult: {known.id}>")


def test_a_result_can_be_copied_and_pickled(app: Any) -> None:
    known = done(app, 3)
    for copied in (copy.copy(known), pickle.loads(pickle.dumps(known))):
        assert copied == known
        assert copied.get() == 3


def test_a_result_survives_being_a_tuple(app: Any, result: Any) -> None:
    parent = unknown(app)
    child = app.AsyncResult(str(uuid.uuid4()), parent=parent)
    assert child.as_tuple() == ((child.id, ((parent.id, None), None)), None)
    assert child.as_list() == [child.id, parent.id]
    again = result.result_from_tuple(child.as_tuple(), app=app)
    assert (again, again.parent) == (child, parent)
    group = app.GroupResult("gid", [child, unknown(app)], parent=parent)
    regrouped = result.result_from_tuple(group.as_tuple(), app=app)
    assert regrouped == group


def test_extended_results_tell_what_was_called(new_app: Any, start_worker: Any) -> None:
    app = new_app(result_extended=True)

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    with start_worker(app):
        known = add.delay(2, y=3)
        known.get(timeout=WAIT_S)
    assert (known.name, known.args, known.kwargs, known.retries) == ("add", [2], {"y": 3}, 0)
    assert known.queue == "celery"
    assert known.worker


# -- trees of results


def test_the_children_of_a_result_are_what_its_task_sent(running_app: Any, submodule: Any) -> None:
    group = submodule("canvas").group

    @running_app.task
    def leaf(n: int) -> int:
        return n * n

    @running_app.task
    def root() -> None:
        leaf.delay(2)
        group(leaf.s(3), leaf.s(4)).delay()

    known = root.delay()
    known.get(timeout=WAIT_S)
    single, several = known.children
    assert single.get(timeout=WAIT_S) == 4
    assert several.get(timeout=WAIT_S) == [9, 16]
    values = [value for _, value in known.collect(timeout=WAIT_S)]
    assert values == [None, 4, [9, 16], 9, 16]
    assert len(known.graph) == 5


def test_a_tree_that_is_not_complete_says_so(app: Any, exceptions: Any) -> None:
    pending = unknown(app)
    with pytest.raises(exceptions.IncompleteStream):
        list(pending.iterdeps())
    assert list(pending.iterdeps(intermediate=True)) == [(None, pending)]


# -- sets and groups


def test_a_set_joins_its_results_in_order(app: Any) -> None:
    several = app.ResultSet([done(app, n) for n in range(3)])
    assert several.get() == [0, 1, 2]
    assert several.join() == [0, 1, 2]
    assert several.ready()
    assert several.successful()
    assert not several.waiting()
    assert several.completed_count() == 3


def test_a_set_with_a_failure_raises_it(app: Any) -> None:
    several = app.ResultSet([done(app, 1), failed(app, KeyError("lost"))])
    assert several.failed()
    with pytest.raises(KeyError, match="lost"):
        several.get()
    assert isinstance(several.get(propagate=False)[1], KeyError)


def test_a_set_calls_back_for_each_result(app: Any) -> None:
    members = [done(app, n) for n in range(3)]
    got: dict[str, Any] = {}
    app.ResultSet(members).get(callback=got.__setitem__)
    assert got == {member.id: n for n, member in enumerate(members)}


def test_a_set_gives_up_after_its_timeout(app: Any, exceptions: Any) -> None:
    with pytest.raises(exceptions.TimeoutError):
        app.ResultSet([done(app, 1), unknown(app)]).join(timeout=0.01, interval=0.005)


def test_a_set_can_be_changed(app: Any) -> None:
    one, two = unknown(app), unknown(app)
    several = app.ResultSet([one])
    several.add(two)
    several.add(two)
    assert several.results == [one, two]
    several.remove(one.id)
    with pytest.raises(KeyError):
        several.remove(one)
    several.discard(one)
    several.update([one, two])
    assert list(several) == [two, one]
    several.clear()
    assert len(several) == 0


def test_a_saved_group_is_restored_as_it_was(app: Any, result: Any) -> None:
    group = app.GroupResult("gid", [done(app, 1), done(app, 2)])
    group.save()
    restored = result.GroupResult.restore("gid", app=app)
    assert restored == group
    assert app.GroupResult.restore("gid").get() == [1, 2]
    group.delete()
    assert app.GroupResult.restore("gid") is None


def test_groups_are_equal_by_id_and_members(app: Any) -> None:
    members = [unknown(app), unknown(app)]
    group = app.GroupResult("gid", members)
    assert group == app.GroupResult("gid", members)
    assert group != app.GroupResult("gid", members[:1])
    assert group == "gid"
    assert hash(group) == hash("gid")
    assert (str(group), group.children) == ("gid", members)
    assert repr(group) == f"<GroupResult: gid [{members[0].id}, {members[1].id}]>"
    assert not app.GroupResult(None, [])


# -- eager results


def test_an_eager_result_knows_everything(app: Any, result: Any) -> None:
    eager = result.EagerResult("id", 42, "SUCCESS", name="add")
    assert (eager.get(), eager.state, eager.result, eager.name) == (42, "SUCCESS", 42, "add")
    assert eager.ready()
    assert repr(eager) == "<EagerResult: id>"
    assert copy.copy(eager).get() == 42
    assert pickle.loads(pickle.dumps(eager)).get() == 42


def test_an_eager_failure_raises_only_if_asked(app: Any, result: Any) -> None:
    eager = result.EagerResult("id", KeyError("lost"), "FAILURE")
    with pytest.raises(KeyError, match="lost"):
        eager.get()
    assert isinstance(eager.get(propagate=False), KeyError)


def test_an_eager_result_without_outcome_has_no_value(result: Any) -> None:
    assert result.EagerResult(None, None, "REJECTED").get() is None


def test_an_eager_result_can_only_be_revoked_afterwards(app: Any, result: Any, exceptions: Any) -> None:
    eager = result.EagerResult("id", 42, "SUCCESS")
    eager.revoke()
    assert eager.state == "REVOKED"
    with pytest.raises(exceptions.TaskRevokedError):
        eager.get()
