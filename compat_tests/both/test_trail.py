"""What a task launched while it ran: children, `collect()` and the way back to the parent."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest


def _launching(app: Any, **options: Any) -> Any:
    @app.task(name="trail.leaf")
    def leaf(x: int) -> int:
        return x * 10

    @app.task(name="trail.root", **options)
    def root(count: int) -> str:
        for x in range(count):
            leaf.delay(x)
        return "root"

    return root


def test_results_launched_inside_a_task_become_its_children(running_app: Any) -> None:
    result = _launching(running_app).delay(3)
    assert result.get(timeout=10) == "root"
    assert [child.get(timeout=10) for child in result.children] == [0, 10, 20]


def test_children_are_seen_through_any_result_of_the_id(running_app: Any) -> None:
    result = _launching(running_app).delay(2)
    result.get(timeout=10)
    other = running_app.AsyncResult(result.id)
    assert [child.id for child in other.children] == [child.id for child in result.children]
    assert len(other.children) == 2


def test_a_task_that_launched_nothing_has_no_children(running_app: Any) -> None:
    result = _launching(running_app).delay(0)
    result.get(timeout=10)
    assert not result.children


def test_a_result_that_is_not_there_yet_has_no_children(app: Any) -> None:
    assert not _launching(app).delay(1).children


def test_the_trail_can_be_turned_off(running_app: Any) -> None:
    result = _launching(running_app, trail=False).delay(2)
    result.get(timeout=10)
    assert not result.children


def test_collect_walks_all_children(running_app: Any) -> None:
    result = _launching(running_app).delay(3)
    result.get(timeout=10)
    seen = [(node.id, value) for node, value in result.collect(timeout=10)]
    assert seen[0] == (result.id, "root")
    assert sorted(value for _, value in seen[1:]) == [0, 10, 20]


def test_collect_walks_children_of_children(running_app: Any) -> None:
    @running_app.task
    def leaf() -> str:
        return "leaf"

    @running_app.task
    def middle() -> str:
        leaf.delay()
        return "middle"

    @running_app.task
    def root() -> str:
        middle.delay()
        return "root"

    result = root.delay()
    assert [value for _, value in result.collect(timeout=10)] == ["root", "middle", "leaf"]


def test_children_of_a_group_inside_a_task_are_one_group(
    lib: Any, running_app: Any, submodule: Callable[[str], Any]
) -> None:
    @running_app.task
    def leaf(x: int) -> int:
        return x

    @running_app.task
    def root() -> None:
        lib.group(leaf.s(1), leaf.s(2)).delay()

    result = root.delay()
    result.get(timeout=10)
    (child,) = result.children
    assert isinstance(child, submodule("result").GroupResult)
    assert child.get(timeout=10) == [1, 2]


def test_get_leaf_gives_the_value_of_the_last_child(running_app: Any) -> None:
    @running_app.task
    def leaf() -> str:
        return "leaf"

    @running_app.task
    def root() -> str:
        leaf.delay()
        return "root"

    assert root.delay().get_leaf() == "leaf"


def test_a_chain_knows_the_way_back_to_its_first_link(lib: Any, running_app: Any) -> None:
    @running_app.task
    def add(x: int, y: int) -> int:
        return x + y

    result = lib.chain(add.s(1, 1), add.s(10), add.s(100))()
    assert result.get(timeout=10) == 112
    assert result.parent.get(timeout=10) == 12
    assert result.parent.parent.get(timeout=10) == 2
    assert result.parent.parent.parent is None


def test_the_next_link_of_a_chain_is_a_child_of_the_one_before(lib: Any, running_app: Any) -> None:
    @running_app.task
    def add(x: int, y: int) -> int:
        return x + y

    result = lib.chain(add.s(1, 1), add.s(10))()
    result.get(timeout=10)
    assert [child.id for child in result.parent.children] == [result.id]


def test_callbacks_are_children_too(running_app: Any) -> None:
    @running_app.task
    def callback(value: str) -> str:
        return f"after {value}"

    @running_app.task
    def job() -> str:
        return "job"

    result = job.apply_async(link=callback.s())
    result.get(timeout=10)
    assert [child.get(timeout=10) for child in result.children] == ["after job"]


def test_iterdeps_gives_pairs_of_parent_and_node(running_app: Any) -> None:
    result = _launching(running_app).delay(2)
    result.get(timeout=10)
    for child in result.children:
        child.get(timeout=10)
    pairs = [(parent and parent.id, node.id) for parent, node in result.iterdeps()]
    assert pairs == [(None, result.id), *((result.id, child.id) for child in result.children)]


def test_a_tree_that_is_not_complete_says_so(app: Any, submodule: Callable[[str], Any]) -> None:
    result = _launching(app).delay(1)
    with pytest.raises(submodule("exceptions").IncompleteStream):
        list(result.iterdeps())


def test_a_result_survives_its_tuple(running_app: Any, submodule: Callable[[str], Any]) -> None:
    result = _launching(running_app).delay(1)
    result.get(timeout=10)
    copy = submodule("result").result_from_tuple(result.as_tuple(), app=running_app)
    assert copy == result
    assert copy.get(timeout=10) == "root"


def test_forgetting_the_root_leaves_the_children(running_app: Any) -> None:
    result = _launching(running_app).delay(1)
    result.get(timeout=10)
    (child,) = result.children
    assert child.get(timeout=10) == 0
    result.forget()
    assert running_app.AsyncResult(child.id).get(timeout=10) == 0


def test_a_retry_is_no_child(app: Any, start_worker: Any) -> None:
    @app.task(bind=True)
    def job(self: Any) -> str:
        if not self.request.retries:
            raise self.retry(countdown=0)
        return "done"

    with start_worker(app, concurrency=1):
        result = job.delay()
        assert result.get(timeout=10) == "done"
        assert not result.children
