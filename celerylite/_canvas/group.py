"""The group: tasks that run in parallel, with one result for all of them."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, MutableSequence
from contextlib import nullcontext
from functools import partial
from itertools import tee
from types import GeneratorType
from typing import TYPE_CHECKING, Any, Self

from kombu.utils.functional import fxrange

from celerylite._canvas.signature import (
    Signature,
    is_chain,
    is_empty_group,
    is_group,
    maybe_signature,
    new_chord,
    signature,
)
from celerylite._state import current_app
from celerylite.result import AsyncResult, GroupResult
from celerylite.utils import abstract
from celerylite.utils._ids import uuid
from celerylite.utils.functional import _regen, lookahead, regen
from celerylite.utils.objects import getitem_property
from celerylite.utils.text import remove_repeating_from_task

if TYPE_CHECKING:
    from celerylite._canvas.stamping import StampingVisitor
    from celerylite.app.base import Celery

__all__ = ("group",)


@Signature.register_type()
class group(Signature[Any]):
    """Tasks to run in parallel: ``group(a.s(), b.s())`` or ``group(x.s(i) for i in ...)``.

    Calling it sends them and returns a `GroupResult`, whose values are in the order of the tasks. A
    generator is consumed while the tasks are being sent.
    """

    tasks = getitem_property("kwargs.tasks", "Tasks in group.")

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Celery | None = None) -> group:
        given = d["kwargs"]["tasks"]
        tasks = type(given)(maybe_signature(task, app=app) for task in given)
        # As Celery: the dict that is read keeps the rebuilt tasks.
        d["kwargs"]["tasks"] = tasks
        return cls(tasks, app=app, **d["options"])

    def __init__(self, *tasks: Any, **options: Any) -> None:
        members: Any = tasks
        if len(tasks) == 1:
            members = _members_of(tasks[0])
        super().__init__("celery.group", (), {"tasks": members}, **options)
        self.subtask_type = "group"

    # -- calling

    def __call__(self, *partial_args: Any, **options: Any) -> Any:
        return self.apply_async(partial_args, **options)

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> Any:
        """`apply_async` with the arguments written as in a call; returns a `GroupResult`."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply_async(  # type: ignore[override]
        self,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        add_to_parent: bool = True,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        **options: Any,
    ) -> Any:
        """Send all tasks and return their `GroupResult`."""
        if link is not None:
            raise TypeError("Cannot add link to group: use a chord")
        if link_error is not None:
            raise TypeError("Cannot add link to group: do that on individual tasks")
        app = self.app
        if app.conf.task_always_eager:
            return self.apply(args, kwargs, **options)
        if not self.tasks:
            return self.freeze()
        options, group_id, root_id = self._freeze_gid(options)
        tasks = self._prepared(self.tasks, [], group_id, root_id, app)
        # One transaction for a group that is known to its end; a generator's tasks run while it goes on.
        known = type(self.tasks) in (list, tuple)
        with app.publishing_together() if known else nullcontext({}) as duplicates:
            sent = self._apply_tasks(tasks, producer, app, args=args or (), kwargs=kwargs or {}, **options)
            results = list(sent)
        for result in results if duplicates else ():
            result.id = duplicates.get(result.id, result.id)
        result = app.GroupResult(group_id, results)
        # A group that ended up as one single group is that group.
        if len(result) == 1 and isinstance(result[0], GroupResult):
            result = result[0]
        parent_task = app.current_worker_task
        if add_to_parent and parent_task:
            parent_task.add_trail(result)
        return result

    def apply(
        self, args: Iterable[Any] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> Any:
        """Run all tasks in this process, one after the other."""
        app = self.app
        if not self.tasks:
            return self.freeze()
        options, group_id, root_id = self._freeze_gid(options)
        tasks = self._prepared(self.tasks, [], group_id, root_id, app, freeze=False)
        results = [task.apply(args=args or (), kwargs=kwargs or {}, **options) for task, _, _ in tasks]
        return app.GroupResult(group_id, results)

    def _prepared(
        self,
        tasks: Iterable[Any],
        partial_args: Iterable[Any],
        group_id: str,
        root_id: str | None,
        app: Any,
        *,
        freeze: bool = True,
    ) -> Iterator[tuple[Any, Any, str]]:
        """Each task to send, nested groups flattened, with its result and the group's id."""
        for index, member in enumerate(tasks):
            task = _as_clone(member, app)
            if is_group(task):
                yield from task._prepared(task.tasks, partial_args, group_id, root_id, app, freeze=freeze)
            elif not _is_empty_chain(task):
                if partial_args and not task.immutable:
                    task.args = (*partial_args, *task.args)
                result = None
                if freeze:
                    result = task.freeze(group_id=group_id, root_id=root_id, group_index=index)
                yield task, result, group_id

    def _apply_tasks(
        self,
        tasks: Iterable[tuple[Any, Any, str]],
        producer: Any = None,
        app: Any = None,
        p: Any = None,
        add_to_parent: bool | None = None,
        chord: Any = None,
        args: Any = None,
        kwargs: Any = None,
        group_index: int | None = None,
        **options: Any,
    ) -> Iterator[Any]:
        """Send `tasks` one by one as they come, yielding the result of each."""
        app = app or self.app
        size = 0
        with app.producer_or_acquire(producer) as acquired:
            for (task, result, group_id), following in lookahead(tasks):
                body = chord if chord is not None else task.options.get("chord")
                size += Signature.TYPES["chord"]._descend(task)  # type: ignore[attr-defined]
                if body is not None and following is None:
                    _tell_chord_size(app, group_id, size, task, body)
                sent = task.apply_async(
                    producer=acquired, add_to_parent=False, chord=body, args=args, kwargs=kwargs, **options
                )
                # Another id is that of the call of which this one is a duplicate.
                yield sent if isinstance(sent, AsyncResult) and sent.id != result.id else result

    # -- preparing

    def skew(self, start: float = 1.0, stop: float | None = None, step: float = 1.0) -> Self:
        """Give the tasks countdowns that grow from `start` to `stop`, in seconds; returns itself."""
        countdowns = fxrange(start, stop, step, repeatlast=True)
        for task in self.tasks:
            task.set(countdown=next(countdowns))
        return self

    def freeze(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> Any:
        gid, results = self._freeze_group_tasks(
            _id=_id,
            group_id=group_id,
            chord=chord,
            root_id=root_id,
            parent_id=parent_id,
            group_index=group_index,
        )
        # The results of a generator freeze its tasks as they are looked at: all of them now, because
        # from here on the tasks may be written into a message.
        len(results)
        return self.app.GroupResult(gid, results)

    _freeze = freeze

    def _freeze_gid(self, options: dict[str, Any]) -> tuple[dict[str, Any], str, str | None]:
        kept = self._IMMUTABLE_OPTIONS & self.options.keys()
        merged = {**self.options, **{key: value for key, value in options.items() if key not in kept}}
        group_id = merged.pop("task_id", None) or uuid()
        merged["group_id"] = group_id
        return merged, group_id, merged.get("root_id")

    def _freeze_group_tasks(
        self,
        _id: str | None = None,
        group_id: str | None = None,
        chord: Any = None,
        root_id: str | None = None,
        parent_id: str | None = None,
        group_index: int | None = None,
    ) -> tuple[str, Any]:
        """The group's id and the results of its tasks, which are frozen on the way."""
        # As Celery: `_id` is not looked at, a group's own id is always its option task_id or new.
        opts = self.options
        gid: str = opts["task_id"] if "task_id" in opts else opts.setdefault("task_id", uuid())
        if group_id:
            opts["group_id"] = group_id
        if chord:
            opts["chord"] = chord
        if group_index is not None:
            opts["group_index"] = group_index
        root_id = opts.setdefault("root_id", root_id)
        parent_id = opts.setdefault("parent_id", parent_id)
        return gid, self._freeze_members(group_id, chord, root_id, parent_id)

    def _freeze_members(self, group_id: Any, chord: Any, root_id: Any, parent_id: Any) -> Any:
        if isinstance(self.tasks, _regen):
            # Stays lazy: results and tasks are made as the generator gives them.
            to_freeze, to_send = tee(self._unroll_tasks(self.tasks))
            results = regen(self._freeze_tasks(to_freeze, group_id, chord, root_id, parent_id))
            self.tasks = regen(to_send)
            return results
        new_tasks: list[Any] = []
        results = list(self._freeze_unroll(new_tasks, group_id, chord, root_id, parent_id))
        self._set_members(new_tasks)
        return results

    def _set_members(self, new_tasks: list[Any]) -> None:
        if isinstance(self.tasks, MutableSequence):
            self.tasks[:] = new_tasks
        else:
            self.tasks = new_tasks

    def _freeze_tasks(
        self, tasks: Iterable[Any], group_id: Any, chord: Any, root_id: Any, parent_id: Any
    ) -> Iterator[Any]:
        for index, task in enumerate(tasks):
            if not _is_empty_chain(task):
                yield task.freeze(
                    group_id=group_id, chord=chord, root_id=root_id, parent_id=parent_id, group_index=index
                )

    def _unroll_tasks(self, tasks: Iterable[Any]) -> Iterator[Any]:
        for task in tasks:
            yield maybe_signature(task, app=self._app).clone()

    def _freeze_unroll(
        self, new_tasks: list[Any], group_id: Any, chord: Any, root_id: Any, parent_id: Any
    ) -> Iterator[Any]:
        waiting = deque(self.tasks)
        while waiting:
            task = maybe_signature(waiting.popleft(), app=self._app).clone()
            if is_group(task):
                # As Celery: the members of a nested group come out in reverse order.
                waiting.extendleft(task.tasks)
            elif not _is_empty_chain(task):
                index = len(new_tasks)
                new_tasks.append(task)
                yield task.freeze(
                    group_id=group_id, chord=chord, root_id=root_id, parent_id=parent_id, group_index=index
                )

    def set_immutable(self, immutable: bool) -> None:
        for task in self.tasks:
            task.set_immutable(immutable)

    # -- links and stamps

    def link(self, sig: Any) -> Any:
        """Call `sig` when the first task succeeds, without its result: what a group can do at best."""
        return self.tasks[0].link(sig.clone().set(immutable=True))

    def link_error(self, sig: Any) -> Any:
        """Call a copy of `sig` for each task that fails."""
        errback = maybe_signature(sig)
        return tuple(task.link_error(errback.clone()) for task in self.tasks)

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        answer = None if visitor is None else visitor.on_group_start(self, **headers) or {}
        headers = self._stamp_headers(answer, append_stamps, **headers)
        self.stamp_links(visitor, append_stamps, **headers)
        if isinstance(self.tasks, _regen):
            stamp_lazily(self.tasks, visitor, append_stamps, headers)
        else:
            tasks = [maybe_signature(task, app=self.app) for task in self.tasks]
            for task in tasks:
                task.stamp(visitor, append_stamps, **headers)
            self._set_members(tasks)
        if visitor is not None:
            visitor.on_group_end(self, **headers)

    # -- composing and looking

    def __or__(self, other: Any) -> Any:
        # Not asked of a lazy group: that would start its generator.
        if is_empty_group(other) and not isinstance(other.tasks, _regen):
            return self
        return new_chord(self, body=other, app=self._app)

    def __len__(self) -> int:
        return len(self.tasks)

    def __repr__(self) -> str:
        if not self.tasks:
            return "group(<empty>)"
        text: str = remove_repeating_from_task(self.tasks[0]["task"], f"group({self.tasks!r})")
        return text

    @property
    def app(self) -> Any:
        app = self._app
        if app is None:
            try:
                app = self.tasks[0].app
            except LookupError:  # no task to ask
                app = None
        return app if app is not None else current_app

    @app.setter
    def app(self, app: Celery | None) -> None:
        self._app = app


group.__module__ = "celerylite.canvas"


def _tell_chord_size(app: Any, group_id: str, size: int, last: Any, body: Any) -> None:
    """Say how many parts the chord of `body` has, before the last one is sent.

    To the backend, and in the message of the last one: without it the chord cannot be complete. A group
    at the end of a chain in the header reports to a chord that is not its own, and says nothing.
    """
    app.backend.set_chord_size(group_id, size)
    if isinstance(body, dict) and last.options.get("group_id") == group_id:
        body.setdefault("chord_size", size)


def _members_of(given: Any) -> Any:
    if is_group(given):
        given = given.tasks
    if isinstance(given, abstract.CallableSignature):
        given = [given.clone()]
    return given if isinstance(given, _regen) else regen(given)


def _as_clone(task: Any, app: Any) -> Any:
    if isinstance(task, abstract.CallableSignature):
        return task.clone()
    return Signature.from_dict(task, app=app)


def _is_empty_chain(task: Any) -> bool:
    return is_chain(task) and not task.tasks


def _maybe_group(tasks: Any, app: Any) -> Any:
    """The tasks of whatever may stand for several: a group, a chain, a signature, dicts, a generator."""
    if isinstance(tasks, dict):
        tasks = signature(tasks, app=app)
    if is_group(tasks) or is_chain(tasks):
        return tasks.tasks
    if isinstance(tasks, abstract.CallableSignature):
        return [tasks]
    if isinstance(tasks, GeneratorType):
        return regen(signature(task, app=app) for task in tasks)
    return [signature(task, app=app) for task in tasks]


def stamp_lazily(
    tasks: Any, visitor: StampingVisitor | None, append_stamps: bool, headers: dict[str, Any]
) -> None:
    """Stamp the tasks of a lazy sequence, those still to come when they come."""
    tasks.map(partial(_stamped, visitor=visitor, append_stamps=append_stamps, **headers))


def _stamped(task: Any, visitor: Any, append_stamps: bool, **headers: Any) -> Any:
    task.stamp(visitor, append_stamps, **headers)
    return task
