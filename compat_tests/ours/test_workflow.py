"""What follows a call where this library promises more than Celery: nothing in a workflow stays pending."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from celerylite import Celery, chain, chord, group
from celerylite.contrib.testing.worker import start_worker
from celerylite.exceptions import ChordError

WAIT_S = 5


@pytest.fixture
def tasks() -> Iterator[Any]:
    app = Celery("workflows", broker_url="memory://", result_backend="cache+memory://")

    @app.task(name="add")
    def add(x: int, y: int) -> int:
        return x + y

    @app.task(name="total")
    def total(numbers: list[int]) -> int:
        return sum(numbers)

    @app.task(name="fail")
    def fail(*args: Any) -> None:
        raise KeyError("lost")

    @app.task(name="grow", bind=True)
    def grow(self: Any, numbers: list[int]) -> int:
        for number in numbers:
            self.add_to_chord(add.s(number, 0))
        return 0

    with start_worker(app, perform_ping_check=False, concurrency=2, pool="threads"):
        yield app.tasks
    app.close()


def test_a_group_that_a_failed_chain_led_to_fails_too(tasks: Any) -> None:
    result = chain(tasks["fail"].s(), group(tasks["add"].s(1), tasks["add"].s(2)))()
    with pytest.raises(KeyError, match="lost"):
        result.get(timeout=WAIT_S)
    assert [part.state for part in result.results] == ["FAILURE", "FAILURE"]


def test_a_chord_whose_header_has_a_failed_chord_fails_too(tasks: Any) -> None:
    inner = chord([tasks["fail"].s()], tasks["total"].s())
    result = chord([tasks["add"].s(1, 1), inner])(tasks["total"].s())
    with pytest.raises(ChordError, match="lost"):
        result.get(timeout=WAIT_S, follow_parents=False)


def test_a_frozen_chord_can_be_sent_again(tasks: Any) -> None:
    workflow = chord([tasks["add"].s(1, 1)], tasks["total"].s())
    workflow.freeze()
    for _ in range(2):
        assert workflow.apply_async().get(timeout=WAIT_S) == 2


def test_a_header_may_be_a_generator(tasks: Any) -> None:
    assert chord(tasks["add"].s(n, n) for n in range(5))(tasks["total"].s()).get(timeout=WAIT_S) == 20


def test_a_chord_waits_for_members_added_by_its_header(tasks: Any) -> None:
    header = [tasks["grow"].s([1, 2, 3]), tasks["add"].s(2, 2)]
    assert chord(header)(tasks["total"].s()).get(timeout=WAIT_S) == 10


def test_a_header_keeps_its_shape_in_the_arguments_of_the_body(tasks: Any) -> None:
    nested = chain(tasks["add"].s(1, 1), group(tasks["add"].s(1), tasks["add"].s(2)))
    result = chord([nested, tasks["add"].s(5, 5)])(tasks["celery.accumulate"].s(index=0))
    assert result.get(timeout=WAIT_S) == [[3, 4], 10]
