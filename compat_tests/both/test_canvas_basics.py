"""Workflows in a worker and on the spot: chains, groups, chords, their errors, and what they look like."""

from __future__ import annotations

import json
import pickle
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

WAIT_S = 5


@pytest.fixture
def canvas(submodule: Callable[[str], Any]) -> Any:
    return submodule("canvas")


@pytest.fixture
def exceptions(submodule: Callable[[str], Any]) -> Any:
    return submodule("exceptions")


def make_tasks(app: Any, journal: Any = None) -> SimpleNamespace:
    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="mul")
    def mul(x: int, y: int) -> int:
        return x * y

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="echo")
    def echo(value: Any) -> Any:
        return value

    @app.task(name="fail")
    def fail(*args: Any) -> None:
        raise ValueError("broken")

    @app.task(name="note")
    def note(value: Any) -> Any:
        journal.note(value)
        return value

    @app.task(name="parent_of", bind=True)
    def parent_of(self: Any, *args: Any) -> Any:
        return self.request.parent_id

    return SimpleNamespace(
        add=add, mul=mul, total=total, echo=echo, fail=fail, note=note, parent_of=parent_of
    )


@pytest.fixture
def tasks(running_app: Any, journal: Any) -> SimpleNamespace:
    """Tasks of an app with a running worker."""
    return make_tasks(running_app, journal)


@pytest.fixture
def idle(app: Any) -> SimpleNamespace:
    """Tasks of an app without a worker."""
    return make_tasks(app)


@pytest.fixture
def eager(new_app: Callable[..., Any]) -> SimpleNamespace:
    """Tasks of an app that runs everything on the spot."""
    return make_tasks(new_app(task_always_eager=True))


# -- what signatures look like


def test_a_signature_is_a_dict(idle: Any) -> None:
    sig = idle.add.s(2, 3).set(countdown=10)
    assert dict(sig) == {
        "task": "add",
        "args": (2, 3),
        "kwargs": {},
        "options": {"countdown": 10},
        "subtask_type": None,
        "immutable": False,
    }
    assert (sig.task, sig.args, sig.options, sig.immutable) == ("add", (2, 3), {"countdown": 10}, False)


def test_a_signature_survives_json_and_pickle(idle: Any, canvas: Any) -> None:
    workflow = canvas.chain(idle.add.s(1, 1), canvas.group([idle.mul.s(2), idle.mul.s(3)]), idle.total.s())
    for copied in (
        canvas.maybe_signature(json.loads(json.dumps(workflow)), app=idle.add.app),
        pickle.loads(pickle.dumps(workflow)),
    ):
        assert type(copied) is type(workflow)
        assert repr(copied) == repr(workflow)


def test_a_dict_becomes_the_class_of_its_subtask_type(idle: Any, canvas: Any) -> None:
    for workflow, kind in (
        (canvas.chain(idle.add.s(1, 1), idle.add.s(1)), canvas._chain),
        (canvas.group(idle.add.s(1, 1), idle.add.s(2, 2)), canvas.group),
        (canvas.chord([idle.add.s(1, 1)], idle.total.s()), canvas.chord),
    ):
        assert type(canvas.Signature.from_dict(dict(workflow), app=idle.add.app)) is kind


def test_an_own_type_of_signature_can_be_registered(idle: Any, canvas: Any) -> None:
    @canvas.Signature.register_type(name="loud")
    class Loud(canvas.Signature):  # type: ignore[misc]
        @classmethod
        def from_dict(cls, d: dict[str, Any], app: Any = None) -> Any:
            return cls(d, app=app)

    try:
        assert type(canvas.Signature.from_dict({"task": "add", "subtask_type": "loud"})) is Loud
    finally:
        del canvas.Signature.TYPES["loud"]


def test_reprs_read_like_the_code(idle: Any, canvas: Any) -> None:
    assert repr(idle.add.s(1, y=2)) == "add(1, y=2)"
    assert repr(idle.add.s(1, 1) | idle.mul.s(2)) == "add(1, 1) | mul(2)"
    assert repr(canvas.group([idle.add.s(1, 1), idle.mul.s(2, 2)])) == "group([add(1, 1), mul(2, 2)])"
    assert repr(canvas.chord([idle.add.s(1, 1)], idle.total.s())) == "%total([add(1, 1)])"
    assert repr(idle.echo.map([1, 2])) == "[echo(x) for x in [1, 2]]"
    assert repr(idle.add.starmap([(1, 2)])) == "[add(*x) for x in [(1, 2)]]"


def test_a_clone_takes_arguments_and_options_without_changing_the_original(idle: Any) -> None:
    sig = idle.add.s(4)
    copied = sig.clone(args=(2,), countdown=3)
    assert (copied.args, copied.options) == ((2, 4), {"countdown": 3})
    assert (sig.args, sig.options) == ((4,), {})
    immutable = idle.add.si(4, 4)
    assert immutable.clone(args=(2,)).args == (4, 4)
    assert sig.replace(args=(9, 9)).args == (9, 9)


def test_links_are_kept_once_and_flatten(idle: Any) -> None:
    sig, callback, errback = idle.add.s(1, 1), idle.add.s(2), idle.echo.s()
    for _ in range(2):
        assert sig.link(callback) is callback
        assert sig.link_error(errback) is errback
    assert sig.options == {"link": [callback], "link_error": [errback]}
    callback.link(idle.mul.s(3))
    assert [part.task for part in sig.flatten_links()] == ["add", "add", "mul"]
    assert sig.on_error(idle.total.s()) is sig


def test_freeze_gives_the_id_before_anything_is_sent(idle: Any, canvas: Any) -> None:
    sig = idle.add.s(1, 1)
    result = sig.freeze()
    assert sig.id == sig.options["task_id"] == result.id
    assert sig.freeze().id == result.id
    header = canvas.group(idle.add.s(1, 1), idle.add.s(2, 2))
    frozen = canvas.chord(header, idle.total.s()).freeze()
    assert len(frozen.parent.results) == 2


# -- what pipes make


def test_a_chain_keeps_its_tasks_in_order(idle: Any, canvas: Any) -> None:
    assert list(canvas.chain(idle.add.s(1, 1)).tasks) == [idle.add.s(1, 1)]
    assert list(canvas.chain(idle.add.s(1, 1), idle.add.s(2)).tasks) == [idle.add.s(1, 1), idle.add.s(2)]


def test_a_group_piped_into_a_task_is_a_chord(idle: Any, canvas: Any) -> None:
    chord = canvas.group(idle.add.s(1, 1), idle.add.s(2, 2)) | idle.total.s()
    assert isinstance(chord, canvas.chord)
    assert chord.body == idle.total.s()
    longer = idle.add.s(1, 1) | canvas.group(idle.add.s(1), idle.add.s(2)) | idle.total.s()
    assert isinstance(longer, canvas._chain)
    assert isinstance(longer.tasks[-1], canvas.chord)


def test_a_chord_piped_on_extends_its_body(idle: Any, canvas: Any) -> None:
    chord = canvas.chord([idle.add.s(1, 1)], idle.total.s()) | idle.mul.s(2)
    assert isinstance(chord, canvas.chord)
    assert list(chord.body.tasks) == [idle.total.s(), idle.mul.s(2)]


def test_empty_groups_vanish_from_chains(idle: Any, canvas: Any) -> None:
    chain = canvas.chain(idle.add.s(1, 1), canvas.group(app=idle.add.app), idle.mul.s(2))
    assert chain.tasks == [idle.add.s(1, 1), idle.mul.s(2)]


def test_piping_does_not_change_what_is_piped(idle: Any, canvas: Any) -> None:
    chain = idle.add.s(1, 1) | idle.add.s(2)
    longer = chain | idle.add.s(3)
    assert (len(chain.tasks), len(longer.tasks)) == (2, 3)
    chain |= idle.add.s(9)
    assert len(chain.tasks) == 3


def test_links_of_a_group_are_refused_when_it_is_sent(idle: Any, canvas: Any) -> None:
    group = canvas.group(idle.add.s(1, 1))
    with pytest.raises(TypeError, match="Cannot add link to group: use a chord"):
        group.apply_async(link=idle.add.s(1))
    with pytest.raises(TypeError, match="Cannot add link to group: do that on individual tasks"):
        group.apply_async(link_error=idle.add.s(1))


def test_skew_spreads_a_group_over_time(idle: Any, canvas: Any) -> None:
    group = canvas.group(idle.add.s(i, i) for i in range(4)).skew(start=1, stop=3)
    assert [task.options["countdown"] for task in group.tasks] == [1, 2, 3, 3]


# -- chains


def test_a_chain_hands_each_result_to_the_next(tasks: Any, canvas: Any) -> None:
    assert canvas.chain(tasks.add.s(2, 2), tasks.add.s(4), tasks.mul.s(8))().get(timeout=WAIT_S) == 64
    assert (tasks.add.s(4) | tasks.mul.s(8))(4).get(timeout=WAIT_S) == 64


def test_the_results_of_a_chain_are_linked_to_their_parents(tasks: Any, canvas: Any) -> None:
    result = canvas.chain(tasks.add.s(2, 2), tasks.add.s(4), tasks.mul.s(8))()
    assert result.get(timeout=WAIT_S) == 64
    assert result.parent.get(timeout=WAIT_S) == 8
    assert result.parent.parent.get(timeout=WAIT_S) == 4
    assert result.parent.parent.parent is None


def test_each_step_of_a_chain_knows_who_sent_it(tasks: Any, canvas: Any) -> None:
    result = canvas.chain(tasks.parent_of.s(), tasks.parent_of.s())()
    assert result.get(timeout=WAIT_S) == result.parent.id
    assert result.parent.get(timeout=WAIT_S) is None


def test_an_immutable_step_does_not_take_the_result(tasks: Any, canvas: Any) -> None:
    assert canvas.chain(tasks.add.s(2, 2), tasks.add.si(1, 1))().get(timeout=WAIT_S) == 2


def test_a_callback_gets_the_result_and_may_be_a_group(tasks: Any, canvas: Any, journal: Any) -> None:
    tasks.add.apply_async((1, 2), link=tasks.note.s())
    journal.until(3)
    sig = tasks.add.s(2, 2)
    sig.link(tasks.note.s())
    sig.link(canvas.group(tasks.note.si("one"), tasks.note.si("two")))
    sig.delay()
    for entry in (4, "one", "two"):
        journal.until(entry)


def test_a_failing_step_ends_the_chain_and_its_last_result_raises_the_failure(
    tasks: Any, canvas: Any, journal: Any
) -> None:
    result = canvas.chain(tasks.add.s(1, 1), tasks.fail.s(), tasks.note.si("too far"))()
    with pytest.raises(ValueError, match="broken"):
        result.get(timeout=WAIT_S)
    assert result.parent.state == "FAILURE"
    assert result.parent.parent.get(timeout=WAIT_S) == 2
    assert list(journal) == []


def test_a_step_may_be_a_group_or_a_chord(tasks: Any, canvas: Any) -> None:
    workflow = canvas.chain(
        tasks.add.s(1, 1),
        canvas.group(tasks.add.s(10), tasks.mul.s(10)),
        tasks.total.s(),
        canvas.group(tasks.add.s(1), tasks.add.s(2)),
        tasks.total.s(),
    )
    assert workflow().get(timeout=WAIT_S) == 67


def test_a_chain_may_end_in_a_group(tasks: Any, canvas: Any) -> None:
    result = canvas.chain(tasks.add.s(1, 1), canvas.group(tasks.add.s(1), tasks.add.s(2)))()
    assert result.get(timeout=WAIT_S) == [3, 4]


# -- groups and maps


def test_a_group_gives_its_values_in_order(tasks: Any, canvas: Any) -> None:
    result = canvas.group(tasks.add.s(i, i) for i in range(5))()
    assert result.get(timeout=WAIT_S) == [0, 2, 4, 6, 8]
    assert (len(result), result.completed_count(), result.successful()) == (5, 5, True)


def test_a_group_takes_arguments_for_all(tasks: Any, canvas: Any) -> None:
    assert canvas.group(tasks.add.s(1), tasks.mul.s(3)).delay(2).get(timeout=WAIT_S) == [3, 6]


def test_a_group_in_a_group_is_flattened(tasks: Any, canvas: Any) -> None:
    nested = canvas.group(canvas.group(tasks.add.s(1, 1), tasks.add.s(2, 2)), tasks.add.s(3, 3))
    assert nested().get(timeout=WAIT_S) == [2, 4, 6]


def test_map_starmap_and_chunks_call_the_task_with_each_item(tasks: Any) -> None:
    assert tasks.total.map([[1, 2], [3]]).apply_async().get(timeout=WAIT_S) == [3, 3]
    assert tasks.add.starmap([(1, 2), (3, 4)]).apply_async().get(timeout=WAIT_S) == [3, 7]
    assert tasks.add.chunks([(i, i) for i in range(5)], 2)().get(timeout=WAIT_S) == [[0, 2], [4, 6], [8]]


# -- chords


def test_a_chord_calls_its_body_with_all_results_in_order(tasks: Any, canvas: Any) -> None:
    header = [tasks.add.s(i, i) for i in range(5)]
    assert canvas.chord(header)(tasks.echo.s()).get(timeout=WAIT_S) == [0, 2, 4, 6, 8]
    assert canvas.chord(header, tasks.total.s()).delay().get(timeout=WAIT_S) == 20


def test_the_parent_of_a_chord_is_its_header(tasks: Any, canvas: Any, submodule: Any) -> None:
    result = canvas.chord([tasks.add.s(1, 1), tasks.add.s(2, 2)])(tasks.total.s())
    assert result.get(timeout=WAIT_S) == 6
    assert isinstance(result.parent, submodule("result").GroupResult)
    assert result.parent.get(timeout=WAIT_S) == [2, 4]


def test_the_body_was_sent_by_the_last_task_of_the_header(tasks: Any, canvas: Any) -> None:
    result = canvas.chord([tasks.add.s(1, 1), tasks.add.s(2, 2)])(tasks.parent_of.s())
    assert result.get(timeout=WAIT_S) in {part.id for part in result.parent.results}


def test_a_chord_with_an_empty_header_runs_its_body_at_once(tasks: Any, canvas: Any) -> None:
    assert canvas.chord([])(tasks.total.s()).get(timeout=WAIT_S) == 0


def test_a_header_of_chains_reports_their_last_results(tasks: Any, canvas: Any) -> None:
    header = [canvas.chain(tasks.add.s(i, i), tasks.mul.s(2)) for i in range(3)]
    assert canvas.chord(header)(tasks.echo.s()).get(timeout=WAIT_S) == [0, 4, 8]


def test_a_chord_may_be_part_of_a_header(tasks: Any, canvas: Any) -> None:
    inner = canvas.chord([tasks.add.s(1, 1), tasks.add.s(2, 2)], tasks.total.s())
    assert canvas.chord([inner, tasks.add.s(3, 3)])(tasks.echo.s()).get(timeout=WAIT_S) == [6, 6]


def test_the_body_may_be_a_chain(tasks: Any, canvas: Any) -> None:
    body = canvas.chain(tasks.total.s(), tasks.mul.s(10))
    assert canvas.chord([tasks.add.s(1, 1), tasks.add.s(2, 2)])(body).get(timeout=WAIT_S) == 60


def test_the_body_may_be_a_group(tasks: Any, canvas: Any) -> None:
    body = canvas.group(tasks.total.s(), tasks.echo.s())
    assert canvas.chord([tasks.add.s(1, 1), tasks.add.s(2, 2)])(body).get(timeout=WAIT_S) == [6, [2, 4]]


def test_a_failing_header_fails_the_body_with_the_cause_in_it(
    tasks: Any, canvas: Any, exceptions: Any, journal: Any
) -> None:
    result = canvas.chord([tasks.add.s(1, 1), tasks.fail.s()])(tasks.note.s())
    with pytest.raises(exceptions.ChordError) as failure:
        result.get(timeout=WAIT_S, follow_parents=False)
    assert result.state == "FAILURE"
    assert "ValueError('broken')" in str(failure.value)
    assert list(journal) == []


def test_a_failing_header_tells_the_errback_of_the_body_and_keeps_what_the_others_gave(
    running_app: Any, tasks: Any, canvas: Any, exceptions: Any, journal: Any
) -> None:
    @running_app.task
    def tell(task_id: str) -> None:
        journal.note(("told", task_id))

    header = [tasks.add.s(1, 2), tasks.add.s(3, 4), tasks.fail.s()]
    result = canvas.chord(header)(tasks.note.s().on_error(tell.s()))
    journal.until(("told", result.id))
    first, second, failed = result.parent.results
    with pytest.raises(exceptions.ChordError, match="broken"):
        result.get(timeout=WAIT_S, follow_parents=False)
    # Not in vain: what the others gave is there.
    assert [first.get(timeout=WAIT_S), second.get(timeout=WAIT_S), failed.state] == [3, 7, "FAILURE"]
    assert list(journal) == [("told", result.id)]


def test_a_failing_header_fails_what_follows_the_body(tasks: Any, canvas: Any, exceptions: Any) -> None:
    workflow = canvas.group(tasks.add.s(1, 1), tasks.fail.s()) | tasks.total.s() | tasks.echo.s()
    result = workflow()
    with pytest.raises(exceptions.ChordError, match="broken"):
        result.get(timeout=WAIT_S, follow_parents=False)


# -- errbacks


def test_an_errback_of_one_argument_is_sent_with_the_failed_id(
    running_app: Any, tasks: Any, journal: Any
) -> None:
    @running_app.task
    def tell(task_id: str) -> None:
        journal.note(task_id)

    result = tasks.fail.apply_async(link_error=tell.s())
    journal.until(result.id)


def test_an_errback_of_several_arguments_is_called_with_the_error(
    running_app: Any, tasks: Any, journal: Any
) -> None:
    got: list[Any] = []

    @running_app.task
    def tell(request: Any, exc: Exception, traceback: str) -> None:
        got.extend([request.id, exc, traceback])
        journal.note("told")

    result = tasks.fail.apply_async(link_error=tell.s())
    journal.until("told")
    assert got[0] == result.id
    assert isinstance(got[1], ValueError)
    assert "ValueError: broken" in got[2]


def test_own_arguments_of_an_errback_stand_before_the_error(
    running_app: Any, tasks: Any, journal: Any
) -> None:
    @running_app.task
    def tell(request: Any, exc: Exception, traceback: str, word: str = "") -> None:
        journal.note(word)

    tasks.fail.apply_async(link_error=tell.s(word="told"))
    journal.until("told")


def test_an_errback_that_raises_leaves_the_failure_as_it_is(
    running_app: Any, tasks: Any, journal: Any
) -> None:
    @running_app.task
    def tell(request: Any, exc: Exception, traceback: str) -> None:
        journal.note("told")
        raise KeyError("in the errback")

    result = tasks.fail.apply_async(link_error=tell.s())
    journal.until("told")
    with pytest.raises(ValueError, match="broken"):
        result.get(timeout=WAIT_S)


def test_an_errback_of_a_chain_is_called_for_the_step_that_failed(
    running_app: Any, tasks: Any, canvas: Any, journal: Any
) -> None:
    @running_app.task
    def tell(task_id: str) -> None:
        journal.note(task_id)

    result = canvas.chain(tasks.fail.s(), tasks.echo.s()).apply_async(link_error=tell.s())
    journal.until(result.parent.id)
    assert journal.count(result.id) == 0


def test_an_errback_of_a_chord_is_called_when_the_header_fails(
    running_app: Any, tasks: Any, canvas: Any, exceptions: Any, journal: Any
) -> None:
    @running_app.task
    def tell(task_id: str) -> None:
        journal.note(task_id)

    chord = canvas.chord([tasks.add.s(1, 1), tasks.fail.s()], tasks.total.s())
    with pytest.warns(exceptions.CPendingDeprecationWarning, match="task_allow_error_cb_on_chord_header"):
        chord.link_error(tell.s())
    journal.until(chord.delay().id)


# -- on the spot


def test_workflows_run_on_the_spot_in_eager_mode(eager: Any, canvas: Any) -> None:
    assert canvas.chain(eager.add.s(2, 2), eager.add.s(4), eager.mul.s(8))().get() == 64
    assert canvas.group(eager.add.s(i, i) for i in range(3))().get() == [0, 2, 4]
    assert canvas.chord([eager.add.s(1, 1), eager.add.s(2, 2)])(eager.total.s()).get() == 6
    mixed = eager.add.s(1, 1) | canvas.group(eager.add.s(1), eager.add.s(2)) | eager.total.s()
    assert mixed.delay().get() == 7


def test_apply_runs_a_workflow_here_whatever_the_settings(idle: Any, canvas: Any) -> None:
    assert canvas.chain(idle.add.s(2, 2), idle.mul.s(4)).apply().get() == 16
    assert canvas.group(idle.add.s(1, 1), idle.add.s(2, 2)).apply().get() == [2, 4]
    assert canvas.chord([idle.add.s(1, 1), idle.add.s(2, 2)], idle.total.s()).apply().get() == 6


def test_an_eager_chain_links_its_results(eager: Any, canvas: Any) -> None:
    result = canvas.chain(eager.add.s(2, 2), eager.mul.s(4))()
    assert (result.get(), result.parent.get()) == (16, 4)


def test_an_eager_callback_runs_too(eager: Any) -> None:
    ran: list[int] = []

    @eager.add.app.task(name="keep")
    def keep(value: int) -> None:
        ran.append(value)

    eager.add.apply_async((1, 2), link=keep.s())
    assert ran == [3]


def test_inverting_a_signature_gives_its_value(eager: Any) -> None:
    assert ~eager.add.s(2, 3) == 5


# -- stamps


def test_stamps_reach_every_task_and_callback(idle: Any, canvas: Any) -> None:
    class Mark(canvas.StampingVisitor):  # type: ignore[misc]
        def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
            return {"mark": sig.task}

    sig = idle.add.s(1, 1)
    sig.link(idle.echo.s())
    workflow = canvas.chain(sig, canvas.group(idle.mul.s(2), idle.mul.s(3)))
    workflow.stamp(Mark())
    stamped = [workflow.tasks[0], workflow.tasks[0].options["link"][0], *workflow.tasks[1].tasks]
    assert [task["options"]["mark"] for task in stamped] == ["add", "echo", "mul", "mul"]
    assert all("mark" in task["options"]["stamped_headers"] for task in stamped)


def test_a_running_task_sees_its_stamps(running_app: Any) -> None:
    @running_app.task(bind=True)
    def stamps(self: Any) -> Any:
        return self.request.stamps

    sig = stamps.s()
    sig.stamp(customer="me")
    assert sig.delay().get(timeout=WAIT_S) == {"customer": "me"}
