"""The steps of a chain made ready to send: from the last to the first, each knowing what follows it."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

from celerylite._canvas.chord import _chord, _is_chain_led_by_task, _strip_chord_header_links
from celerylite._canvas.signature import is_chain, is_empty_group, is_group, maybe_unroll_group
from celerylite.utils import abstract

__all__ = ("Preparation", "trim_front")


@dataclass(slots=True, kw_only=True)
class Preparation:
    """One run over the steps of a chain, back to front.

    Chains inside the chain are opened, a group that something follows becomes a chord, each task is
    frozen (that is, gets its id) and the results are linked to their parents.
    """

    app: Any
    #: First to last.
    steps: deque[Any]
    #: Arguments of the call, for the first step.
    args: Iterable[Any]
    kwargs: Any
    #: What the last step is frozen with: its id, its group, the chord it reports to.
    last: dict[str, Any]
    root_id: str | None
    errbacks: list[Any]
    #: Work on copies (to send), or on the steps themselves (to freeze).
    clone: bool
    #: Link each step to the next by a callback: what task protocol 1 needs.
    use_link: bool
    from_dict: Callable[..., Any]
    #: Last to first, as are `results`.
    tasks: list[Any] = field(default_factory=list)
    results: list[Any] = field(default_factory=list)
    _next_task: Any = None
    _next_result: Any = None
    _frozen_any: bool = False

    def run(self) -> tuple[list[Any], list[Any]]:
        """Prepare all steps; returns tasks and results, the last of the chain first."""
        while self.steps:
            self._prepare(self.steps.pop())
        if self.clone:
            for task in self.tasks:
                _strip_chord_header_links(task)
        return self.tasks, self.results

    def _prepare(self, step: Any) -> None:
        task = self._as_signature(step)
        if is_group(task):
            task = maybe_unroll_group(task)
            if is_empty_group(task) and (self.steps or self._next_task is not None):
                return  # nothing to run, and it is not alone: as if it were not there
        if self.clone and isinstance(task, _chord) and _is_chain_led_by_task(task.body):
            self.steps.extend(task._unroll_body())
            return
        task = self._with_arguments(task)
        if is_chain(task):
            self.steps.extend(task.tasks)
            return
        if is_group(task) and self._next_task is not None:
            task = self._upgrade(task)
        self._connect(task, self._freeze(task))

    def _as_signature(self, step: Any) -> Any:
        return step if isinstance(step, abstract.CallableSignature) else self.from_dict(step, app=self.app)

    def _with_arguments(self, task: Any) -> Any:
        is_first = not self.steps
        if self.clone:
            return task.clone(self.args, self.kwargs) if is_first else task.clone()
        if is_first:
            task.args = (*self.args, *task.args)
        return task

    def _upgrade(self, header: Any) -> Any:
        """A chord of the group `header` and the step after it, which leaves the line."""
        body = self.tasks.pop()
        body_result = self.results.pop()
        options = {"root_id": self.root_id, "app": self.app}
        body_id = getattr(self._next_result, "task_id", None)
        if body_id is not None:
            options["task_id"] = body_id
        chord = _chord(header, body=body, **options)
        self._next_task = self.tasks[-1] if self.tasks else None
        self._unlink(body_result)
        return chord

    def _unlink(self, body_result: Any) -> None:
        """Free what came after `body_result` of it: its parent will be the chord's result."""
        node = self.results[-1] if self.results else None
        while node is not None and node.parent is not body_result:
            node = node.parent
        if node is not None:
            node.parent = None
            self._next_result = node

    def _freeze(self, task: Any) -> Any:
        place = {} if self._frozen_any else self.last
        self._frozen_any = True
        return task.freeze(root_id=self.root_id, **place)

    def _connect(self, task: Any, result: Any) -> None:
        if self._next_task is not None:
            if self.use_link:
                task.link(self._next_task)
            if self._next_result and not self._next_result.parent:
                self._next_result.parent = result
        for errback in self.errbacks:
            task.link_error(errback)
            if isinstance(task, _chord) and task.body:
                task.body.link_error(errback)
        self.tasks.append(task)
        self.results.append(result)
        self._next_task, self._next_result = task, result
        if isinstance(task, _chord):
            self.app.backend.ensure_chords_allowed()
            # What runs before a chord is the parent of its header.
            while self._next_result.parent:
                self._next_result = self._next_result.parent


def trim_front(steps: deque[Any], app: Any, clone: bool, from_dict: Callable[..., Any]) -> None:
    """Open chains at the front of `steps` and drop empty groups there, unless nothing else is left."""
    dropped = None
    while steps:
        head = steps[0]
        if not isinstance(head, abstract.CallableSignature):
            head = steps[0] = from_dict(head, app=app)
        if is_chain(head):
            steps.popleft()
            opened = head.clone() if clone else head
            steps.extendleft(reversed(opened.tasks))
            continue
        if is_group(head):
            head = steps[0] = maybe_unroll_group(head)
        if not (is_empty_group(head) and len(steps) > 1):
            break
        dropped = steps.popleft()
    if dropped is not None and not steps:
        steps.append(dropped)
