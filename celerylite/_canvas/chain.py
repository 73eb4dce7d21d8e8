"""The chain: tasks that run one after the other, each with the result of the one before."""

from __future__ import annotations

import operator
from collections import deque
from collections.abc import Callable, Iterable
from functools import reduce
from typing import TYPE_CHECKING, Any

from kombu.utils.functional import is_list, maybe_list

from celerylite._canvas.chord import _chord, _is_chain_led_by_task
from celerylite._canvas.folding import _fold_chain
from celerylite._canvas.group import group
from celerylite._canvas.signature import Signature, is_empty_group, maybe_signature, maybe_unroll_group
from celerylite._canvas.steps import Preparation, trim_front
from celerylite._state import current_app
from celerylite.result import EagerResult, allow_join_result
from celerylite.states import IGNORED, REJECTED
from celerylite.utils.functional import regen, seq_concat_item
from celerylite.utils.objects import getitem_property
from celerylite.utils.text import remove_repeating_from_task

if TYPE_CHECKING:
    from celerylite._canvas.stamping import StampingVisitor
    from celerylite.app.base import Celery

__all__ = ("_chain", "chain")


@Signature.register_type(name="chain")
class _chain(Signature[Any]):
    """A line of signatures, kept as given. `chain` folds first; this is what it folds into."""

    tasks = getitem_property("kwargs.tasks", "Tasks in chain.")

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Celery | None = None) -> _chain:
        tasks = d["kwargs"]["tasks"]
        if tasks:
            if isinstance(tasks, tuple):
                # As Celery: the dict that is read keeps a list.
                tasks = d["kwargs"]["tasks"] = list(tasks)
            tasks = [maybe_signature(task, app=app) for task in tasks]
        return cls(tasks, app=app, **d["options"])

    def __init__(self, *tasks: Any, **options: Any) -> None:
        steps: Any = regen(tasks[0]) if len(tasks) == 1 and is_list(tasks[0]) else tasks
        super().__init__("celery.chain", (), {"tasks": steps}, **options)
        self._use_link = options.pop("use_link", None)
        self.subtask_type = "chain"
        self._frozen: Any = None

    # -- calling

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        # As Celery: calling an empty chain does nothing and gives None.
        return self.apply_async(args, kwargs) if self.tasks else None

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """`apply_async` with the arguments written as in a call."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply_async(  # type: ignore[override]
        self, args: Iterable[Any] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Send the first task, which carries the others; returns the result of the last."""
        app = self.app
        if app.conf.task_always_eager:
            with allow_join_result():
                return self.apply(args, kwargs, **options)
        return self.run(args, kwargs, app=app, **{**self.options, **options})

    def run(
        self,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        group_id: str | None = None,
        chord: Any = None,
        task_id: str | None = None,
        link: Any = None,
        link_error: Any = None,
        publisher: Any = None,
        producer: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        app: Any = None,
        group_index: int | None = None,
        **options: Any,
    ) -> Any:
        """`apply_async` without the chain's own options; None for an empty chain."""
        app = app or self.app
        first_args = (*args, *self.args) if args and not self.immutable else self.args
        tasks, results = self.prepare_steps(
            first_args,
            kwargs or {},
            self.tasks,
            root_id,
            parent_id,
            link_error,
            app,
            task_id,
            group_id,
            chord,
            group_index=group_index,
        )
        if not results:
            return None  # As Celery: there was nothing to send.
        if link:
            tasks[0].extend_list_option("link", link)
        first_task = tasks.pop()
        if self._links_steps(app):
            options["chain"] = None
        else:
            options["chain"] = [*options["chain"], *tasks] if "chain" in options else tasks
        sent = first_task.apply_async(**options)
        return results[0] if tasks else sent

    def apply(
        self, args: Iterable[Any] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run the tasks in this process; stops after one that was ignored or rejected."""
        tasks = list(self.tasks)
        task_options = {**self.options, **options}
        link = task_options.pop("link", None)
        last_index = max(
            (i for i, task in enumerate(tasks) if not is_empty_group(task)), default=len(tasks) - 1
        )
        last: Any = None
        for index, task in enumerate(tasks):
            if is_empty_group(task) and (index < len(tasks) - 1 or last is not None):
                continue
            step = task.clone()
            if link and index == last_index:
                (step.body if isinstance(step, _chord) else step).extend_list_option("link", link)
            if last is None:
                result = step.apply(args or (), kwargs or {}, **task_options)
            else:
                result = step.apply((last.get(),), None, **task_options)
            result.parent, last = last, result
            if isinstance(result, EagerResult) and result.state in (IGNORED, REJECTED):
                break
        return last

    # -- preparing

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        """Fix the ids of all steps; returns the result of the last."""
        self._frozen = self.prepare_steps(
            self.args,
            self.kwargs,
            self.tasks,
            root_id,
            parent_id,
            None,
            self.app,
            _id,
            group_id,
            chord,
            clone=False,
            group_index=group_index,
        )
        return self._frozen[1][0]

    def prepare_steps(
        self,
        args: Iterable[Any],
        kwargs: Any,
        tasks: Iterable[Any],
        root_id: str | None = None,
        parent_id: str | None = None,
        link_error: Any = None,
        app: Any = None,
        last_task_id: str | None = None,
        group_id: str | None = None,
        chord_body: Any = None,
        clone: bool = True,
        from_dict: Callable[..., Any] = Signature.from_dict,
        group_index: int | None = None,
    ) -> tuple[list[Any], list[Any]]:
        """Tasks ready to send and their results, both from the last to the first."""
        app = app or self.app
        steps = deque(tasks)
        trim_front(steps, app, clone, from_dict)
        prepared, results = Preparation(
            app=app,
            steps=steps,
            args=args,
            kwargs=kwargs,
            last={"_id": last_task_id, "group_id": group_id, "chord": chord_body, "group_index": group_index},
            root_id=root_id,
            errbacks=maybe_list(link_error) or [],
            clone=clone,
            use_link=self._links_steps(app),
            from_dict=from_dict,
        ).run()
        self.id = results[0].id if results else last_task_id
        return prepared, results

    def _links_steps(self, app: Any) -> bool:
        """Whether steps follow each other by callbacks, as messages of protocol 1 have it."""
        if self._use_link is None:
            return bool(app.conf.task_protocol == 1)
        return bool(self._use_link)

    def _unroll_chords(self, app: Any = None) -> None:
        """Make the body of each chord a single task, and the rest of the body steps of this chain."""
        app = app or self.app
        if self._links_steps(app):
            return  # steps that follow by callbacks are not looked at again
        pending, tasks = deque(self.tasks), []
        while pending:
            task = pending.popleft()
            if isinstance(task, _chain):
                task = task.clone()
                task._unroll_chords(app)
            if isinstance(task, _chord) and _is_chain_led_by_task(task.body):
                pending.extendleft(reversed(task._unroll_body()))
            else:
                tasks.append(task)
        self.tasks = tasks

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        copied = super().clone(*args, **kwargs)
        copied.kwargs["tasks"] = [
            maybe_signature(task, app=self._app, clone=True) for task in copied.kwargs["tasks"]
        ]
        return copied

    def unchain_tasks(self) -> list[Any]:
        """Copies of the tasks with the chain's callbacks on the last and its errbacks on each."""
        tasks = [task.clone() for task in self.tasks]
        for callback in maybe_list(self.options.get("link")) or []:
            tasks[-1].link(callback)
        for errback in maybe_list(self.options.get("link_error")) or []:
            for task in tasks:
                task.link_error(errback)
        return tasks

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        answer = None if visitor is None else visitor.on_chain_start(self, **headers) or {}
        headers = self._stamp_headers(answer, append_stamps, **headers)
        self.stamp_links(visitor, **headers)
        for task in self.tasks:
            task.stamp(visitor, append_stamps, **headers)
        if visitor is not None:
            visitor.on_chain_end(self, **headers)

    # -- composing and looking

    def __or__(self, other: Any) -> Any:
        if is_empty_group(other):
            return self
        if isinstance(other, group):
            unrolled = maybe_unroll_group(other)
            return self._or_group(unrolled) if isinstance(unrolled, group) else self.__or__(unrolled)
        if isinstance(other, _chain):
            return reduce(operator.or_, other.unchain_tasks(), self)
        if isinstance(other, Signature):
            return self._or_single(other)
        return NotImplemented

    def _or_group(self, other: Any) -> Any:
        tasks = self.unchain_tasks()
        if not tasks:
            return other
        if isinstance(tasks[-1], _chord):
            tasks[-1].body = tasks[-1].body | other
            return type(self)(tasks, app=self.app)
        return type(self)(seq_concat_item(tasks, other), app=self._app)

    def _or_single(self, other: Any) -> Any:
        last = self.tasks[-1] if self.tasks else None
        if isinstance(last, group):
            return self._or_chord_of_last_group(other)
        if isinstance(last, _chord) and not isinstance(other, _chord):
            sig = self.clone()
            sig.tasks[-1].body = sig.tasks[-1].body | other
            return sig
        return type(self)(seq_concat_item(self.unchain_tasks(), other), app=self._app)

    def _or_chord_of_last_group(self, body: Any) -> Any:
        sig = self.clone()
        upgraded = _chord(sig.tasks[-1], body, app=self._app)
        sig.tasks[-1] = upgraded
        if len(sig.tasks) > 1 and isinstance(sig.tasks[-2], _chord):
            # A chord after a chord is part of the first one's body.
            sig.tasks[-2].body = sig.tasks[-2].body | upgraded
            sig.tasks = sig.tasks[:-1]
        return sig

    @property
    def app(self) -> Any:
        app = self._app
        if app is None:
            try:
                app = self.tasks[0].app
            except (LookupError, AttributeError):  # no step to ask, or a plain dict
                app = None
        return app or current_app

    @app.setter
    def app(self, app: Celery | None) -> None:
        self._app = app

    def __repr__(self) -> str:
        if not self.tasks:
            return f"<{type(self).__name__}@{id(self):#x}: empty>"
        line = " | ".join(repr(task) for task in self.tasks)
        text: str = remove_repeating_from_task(self.tasks[0]["task"], line)
        return text


class chain(_chain):
    """``chain(a, b, c)`` is ``a | b | c``: call it to send it, ``chain(...)(args)``.

    The result is not always a chain: one task stays that task, and a group with a task after it
    becomes a chord.
    """

    def __new__(cls, *tasks: Any, **kwargs: Any) -> Any:
        several = len(tasks) > 1 or (len(tasks) == 1 and is_list(tasks[0]))
        if kwargs or not several:
            return super().__new__(cls, *tasks, **kwargs)
        folded = _fold_chain(tasks[0] if len(tasks) == 1 else tasks)
        if cls is not chain and isinstance(folded, _chain) and not isinstance(folded, cls):
            return super().__new__(cls, folded.tasks, **kwargs)
        return folded


for _public in (_chain, chain):
    _public.__module__ = "celerylite.canvas"
