"""Workflows made at random give the values that their description says, whatever they are made of."""

from __future__ import annotations

import random
from collections.abc import Iterator
from typing import Any

import pytest

#: A workflow as data: ("task", name, number), ("chain", parts), ("group", parts), ("chord", header).
Plan = tuple[Any, ...]


class Workflows:
    """Makes plans, the signatures they stand for, and the values these must give."""

    def __init__(self, lib: Any, app: Any, seed: int) -> None:
        self.lib = lib
        self.random = random.Random(seed)

        @app.task(name="random.pair")
        def pair(value: Any, number: int) -> list[Any]:
            return [value, number]

        @app.task(name="random.retried", bind=True)
        def retried(self: Any, value: Any, number: int) -> list[Any]:
            if not self.request.retries:
                raise self.retry(countdown=0)
            return ["retried", value, number]

        @app.task(name="random.replaced", bind=True)
        def replaced(self: Any, value: Any, number: int) -> Any:
            raise self.replace(pair.s(value, number))

        @app.task(name="random.all")
        def everything(values: list[Any]) -> list[Any]:
            return ["all", values]

        self.tasks = {"pair": pair, "retried": retried, "replaced": replaced}
        self.everything = everything

    def plan(self) -> Plan:
        """A chain of one to four steps of any kind; a group is never followed by another one."""
        parts: list[Plan] = []
        for _ in range(self.random.randint(1, 4)):
            after_group = bool(parts) and parts[-1][0] == "group"
            parts.append(self._task() if after_group else self._step())
        return ("chain", [("task", "pair", 0), *parts])

    def _step(self) -> Plan:
        kind = self.random.choice(("task", "task", "group", "chord"))
        if kind == "task":
            return self._task()
        return (kind, [self._member() for _ in range(self.random.randint(2, 3))])

    def _member(self) -> Plan:
        if self.random.random() < 0.5:
            return self._task()
        return ("chain", [self._task() for _ in range(2)])

    def _task(self) -> Plan:
        return ("task", self.random.choice(list(self.tasks)), self.random.randrange(100))

    def signature(self, plan: Plan, *first: Any) -> Any:
        """What Celery makes of the plan; `first` are the arguments of a task that follows nothing."""
        kind, *rest = plan
        if kind == "task":
            name, number = rest
            return self.tasks[name].s(*first, number)
        members = [
            self.signature(part, *(first if kind != "chain" or not n else ()))
            for n, part in enumerate(rest[0])
        ]
        if kind == "chain":
            return self.lib.chain(*members)
        if kind == "group":
            return self.lib.group(members)
        return self.lib.chord(members, self.everything.s())

    def value(self, plan: Plan, before: Any) -> Any:
        """What the plan must give after `before`."""
        kind, *rest = plan
        if kind == "task":
            name, number = rest
            return [*(["retried"] if name == "retried" else []), before, number]
        if kind == "chain":
            for part in rest[0]:
                before = self.value(part, before)
            return before
        values = [self.value(part, before) for part in rest[0]]
        return values if kind == "group" else ["all", values]


@pytest.fixture
def app(app: Any, start_worker: Any) -> Iterator[Any]:
    # One thread: Celery stores RETRY after it has published the next try, which may be over by then.
    with start_worker(app, concurrency=1):
        yield app


@pytest.mark.parametrize("seed", range(20))
def test_a_random_workflow_gives_what_it_describes(lib: Any, app: Any, seed: int) -> None:
    workflows = Workflows(lib, app, seed)
    plan = workflows.plan()
    result = workflows.signature(plan, "start").apply_async()
    assert result.get(timeout=10) == workflows.value(plan, "start")
