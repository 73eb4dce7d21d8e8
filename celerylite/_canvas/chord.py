"""The chord: a header of parallel tasks and a body that is called with all their results."""

from __future__ import annotations

import warnings
from collections.abc import Iterable, MutableSequence
from typing import TYPE_CHECKING, Any

from kombu.utils.functional import maybe_list

from celerylite._canvas.group import _maybe_group, group, stamp_lazily
from celerylite._canvas.signature import Signature, is_chain, maybe_signature, maybe_unroll_group, new_chain
from celerylite._state import current_app
from celerylite.exceptions import CPendingDeprecationWarning
from celerylite.result import allow_join_result
from celerylite.utils._ids import uuid
from celerylite.utils.functional import _regen
from celerylite.utils.objects import getitem_property
from celerylite.utils.text import remove_repeating_from_task

if TYPE_CHECKING:
    from celerylite._canvas.stamping import StampingVisitor
    from celerylite.app.base import Celery

__all__ = ("_chord",)

#: Say when the header is to start; the body starts when the header is done.
_DELAYS: tuple[str, ...] = ("countdown", "eta")

#: What is written on a body for counting the parts, beside the keys of a signature.
_BODY_NOTES = frozenset({"chord_size", "chord_extra", "chord_run"})

#: Options that belong to the body.
_LINKS: tuple[str, ...] = ("link", "link_error")

#: Options of a chain that belong to one run of it, not to its first task.
_CHAIN_RUN_OPTIONS = frozenset(
    {"chord", "group_id", "group_index", "link", "link_error", "parent_id", "root_id", "task_id"}
)

_W_HEADER_ERRBACKS = (
    "task_allow_error_cb_on_chord_header=False is pending deprecation in "
    "a future release of Celery.\n"
    "Please test the new behavior by setting task_allow_error_cb_on_chord_header to True "
    "and report any concerns you might have in our issue tracker before we make a final decision "
    "regarding how errbacks should behave when used with chords."
)


@Signature.register_type(name="chord")
class _chord(Signature[Any]):
    """``chord(header)(body)``: run the tasks of `header`, then `body` with the list of their results.

    Its result is the body's, whose parent is the header's `GroupResult`. If a task of the header
    fails the body is not called, and its result is a `ChordError`.
    """

    tasks = getitem_property("kwargs.header", "Tasks in chord header.")
    body = getitem_property("kwargs.body", "Body task of chord.")

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Celery | None = None) -> _chord:
        # A chord that is itself the body of one brings along what that one noted on it.
        fields = {key: value for key, value in d.items() if key not in _BODY_NOTES}
        args, fields["kwargs"] = cls._unpack_args(**fields["kwargs"])
        return cls(*args, app=app, **fields)

    @staticmethod
    def _unpack_args(
        header: Any = None, body: Any = None, **kwargs: Any
    ) -> tuple[tuple[Any, Any], dict[str, Any]]:
        return (header, body), kwargs

    def __init__(
        self,
        header: Any,
        body: Any = None,
        task: str = "celery.chord",
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        app: Celery | None = None,
        **options: Any,
    ) -> None:
        super().__init__(
            task,
            args or (),
            {
                **(kwargs or {"kwargs": {}}),
                "header": _maybe_group(header, app),
                "body": maybe_signature(body, app=app),
            },
            app=app,
            **options,
        )
        self.subtask_type = "chord"

    def header_group(self) -> Any:
        """The header as a group, which from now on it is."""
        if not isinstance(self.tasks, group):
            self.tasks = group(self.tasks, app=self._app)
        return self.tasks

    # -- calling

    def __call__(self, body: Any = None, **options: Any) -> Any:
        return self.apply_async((), {"body": body} if body else {}, **options)

    def apply_async(  # type: ignore[override]
        self,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        publisher: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        **options: Any,
    ) -> Any:
        """Send the header, and return the result of the body."""
        given = dict(kwargs or {})
        body = given.pop("body", None) or self.kwargs["body"]
        header_args = (*args, *self.args) if args and not self.immutable else self.args
        header_kwargs = {**self.kwargs["kwargs"], **given}
        delay = {key: options.pop(key) for key in _DELAYS if options.get(key) is not None}
        callbacks = {key: options.pop(key) for key in _LINKS if key in options}
        body = body.clone(**self._body_options(options))
        app = self._get_app(body)
        header = self._header_to_send(app)
        if app.conf.task_always_eager:
            body = self._add_body_callbacks(body, {**self.options, **callbacks})
            with allow_join_result():
                return self.apply(header_args, header_kwargs, body=body, task_id=task_id, **options)
        run_options = {**self.options, **options, **callbacks}
        for key in _DELAYS:
            run_options.pop(key, None)
        own_id = run_options.pop("task_id", None)
        if delay:
            run_options["header_delay"] = delay
        body_id = own_id if task_id is None else task_id
        return self.run(header, body, header_args, task_id=body_id, kwargs=header_kwargs, **run_options)

    def _header_to_send(self, app: Any) -> Any:
        tasks = self.tasks
        if isinstance(tasks, group):
            return tasks.clone()
        if isinstance(tasks, MutableSequence) and not isinstance(tasks, _regen):
            tasks = tasks[:]
        return group(tasks, app=app, task_id=self.options.get("task_id") or uuid())

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        propagate: bool = True,
        body: Any = None,
        **options: Any,
    ) -> Any:
        """Run header and body in this process, one task after the other."""
        body = self.body if body is None else body
        header = self.tasks.clone() if isinstance(self.tasks, group) else group(self.tasks, app=self.app)
        values = header.apply(args or (), kwargs or {}).get(propagate=propagate)
        return body.apply(args=(values,))

    def run(
        self,
        header: Any,
        body: Any,
        partial_args: Iterable[Any],
        app: Any = None,
        interval: float | None = None,
        countdown: float = 1,
        max_retries: int | None = None,
        eager: bool = False,
        task_id: str | None = None,
        kwargs: dict[str, Any] | None = None,
        header_delay: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Send the group `header` so that `body` follows it; returns the result of `body`.

        With an empty header the body is sent at once. `interval`, `countdown` and `max_retries` are
        for backends that wait for the header by asking.
        """
        app = app or self._get_app(body)
        group_id = header.options.get("task_id") or uuid()
        root_id = body.options.get("root_id")
        options = {**self.options, **options}
        delay = _take_delay(options, header_delay)
        if options:
            options.pop("task_id", None)
            body = self._add_body_callbacks(body, options)
            body.options.update(self._body_options(options))
        if is_chain(body):
            body._unroll_chords(app)
        if "task_id" in body.options:
            # Frozen before, so that the same ids may be sent again: each time is a count of its own.
            body["chord_run"] = f"{group_id}/{uuid()[:8]}"
        body_result = body.freeze(task_id or uuid(), group_id=group_id, root_id=root_id)
        _strip_chord_header_links(body)
        # What the chord is itself part of follows its body, not its header.
        for key in ("chain", "chord", "task_id"):
            options.pop(key, None)
        header.options["task_id"] = group_id
        header_results = header._freeze_group_tasks(group_id=group_id, chord=body, root_id=root_id)
        if header.tasks:
            if not isinstance(header.tasks, _regen):
                # With the size in each message the parts can be counted without looking it up.
                body["chord_size"] = sum(self._descend(task) for task in header.tasks)
            app.backend.apply_chord(
                header_results, body, interval=interval, countdown=countdown, max_retries=max_retries
            )
            parent = header.apply_async(partial_args, kwargs, task_id=group_id, **{**options, **delay})
        else:
            body.delay([])
            parent = self.app.GroupResult(*header_results)
        body_result.parent = parent
        return body_result

    @staticmethod
    def _body_options(options: dict[str, Any]) -> dict[str, Any]:
        # The body's parent is the last task of the header, not the sender of the chord.
        return {key: value for key, value in options.items() if key != "parent_id"}

    @staticmethod
    def _add_body_callbacks(body: Any, options: dict[str, Any]) -> Any:
        """Move callbacks and errbacks of the chord (taken out of `options`) to a copy of its body."""
        callbacks = maybe_list(options.pop("link", None)) or []
        errbacks = maybe_list(options.pop("link_error", None)) or []
        if callbacks or errbacks:
            body = _clone_with_members(body)
        for callback in callbacks:
            linked = _clone_with_members(maybe_signature(callback, app=body._app))
            if isinstance(body, group) and not body.tasks:
                body.append_to_list_option("link", linked)
            else:
                body.link(linked)
        for errback in errbacks:
            if isinstance(body, group):
                _link_error_to_body_tasks(body, maybe_signature(errback, app=body._app))
            else:
                body.append_to_list_option("link_error", errback)
        return body

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
        """Fix the ids of header and body; returns the result of the body, None if there is none."""
        if not isinstance(self.tasks, group):
            self.tasks = group(self.tasks, app=self.app)
        header_result = self.tasks.freeze(parent_id=parent_id, root_id=root_id, chord=self.body)
        self.id = self.tasks.id
        if self.body is None:
            return None
        body_result = self.body.freeze(
            _id, root_id=root_id, chord=chord, group_id=group_id, group_index=group_index
        )
        _oldest(body_result).parent = header_result
        return body_result

    def clone(self, *args: Any, **kwargs: Any) -> Any:
        copied = super().clone(*args, **kwargs)
        copied.kwargs["body"] = maybe_signature(copied.kwargs.get("body"), clone=True)
        return copied

    def _unroll_body(self) -> list[Any]:
        """This chord with the first task of its body chain for a body, and the rest of that chain."""
        first = self.clone()
        steps = first.body.unchain_tasks()
        inherited = {k: v for k, v in first.body.options.items() if k not in _CHAIN_RUN_OPTIONS}
        first.body = steps[0].clone(**inherited)
        return [first, *steps[1:]]

    @classmethod
    def _descend(cls, sig_obj: Any) -> int:
        """How many results `sig_obj` contributes as one member of a header."""
        if isinstance(sig_obj, dict) and not isinstance(sig_obj, Signature):
            sig_obj = Signature.from_dict(sig_obj)
        if isinstance(sig_obj, group):
            members = getattr(sig_obj.tasks, "tasks", sig_obj.tasks)
            return sum(cls._descend(task) for task in members)
        if is_chain(sig_obj):
            # The last step that contributes anything reports for the chain.
            sizes = (cls._descend(task) for task in sig_obj.tasks[-1::-1])
            return next((size for size in sizes if size > 0), 0)
        if isinstance(sig_obj, _chord):
            return cls._descend(sig_obj.body)
        return 1 if isinstance(sig_obj, Signature) else len(sig_obj)

    def __length_hint__(self) -> int:
        members = getattr(self.tasks, "tasks", self.tasks)
        return sum(self._descend(task) for task in members)

    def set_immutable(self, immutable: bool) -> None:
        for task in self.tasks:
            task.set_immutable(immutable)

    # -- links and stamps

    def link(self, callback: Any) -> Any:
        """Call `callback` with the result of the body."""
        self.body.link(callback)
        return callback

    def link_error(self, errback: Any) -> Any:
        """Call `errback` when the body fails, or is not reached.

        With ``task_allow_error_cb_on_chord_header`` also for each task of the header that fails.
        """
        errback = maybe_signature(errback)
        members = maybe_list(self.tasks) or []
        if self.app.conf.task_allow_error_cb_on_chord_header:
            for task in members:
                task.link_error(errback.clone(immutable=True))
        else:
            warnings.warn(_W_HEADER_ERRBACKS, CPendingDeprecationWarning, stacklevel=2)
        for task in members:
            if isinstance(task, _chord):
                task.link_error(errback)
        self.body.link_error(errback)
        return errback

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> None:
        tasks = self.tasks.tasks if isinstance(self.tasks, group) else self.tasks
        answer = None if visitor is None else visitor.on_chord_header_start(self, **headers) or {}
        headers = self._stamp_headers(answer, append_stamps, **headers)
        self.stamp_links(visitor, append_stamps, **headers)
        if isinstance(tasks, _regen):
            stamp_lazily(tasks, visitor, append_stamps, headers)
        else:
            for task in tasks:
                task.stamp(visitor, append_stamps, **headers)
        if visitor is None:
            return  # As Celery: stamps given without a visitor stay in the header.
        visitor.on_chord_header_end(self, **headers)
        if self.body is not None:
            answer = visitor.on_chord_body(self, **headers) or {}
            headers = self._stamp_headers(answer, append_stamps, **headers)
            self.body.stamp(visitor, append_stamps, **headers)

    # -- composing and looking

    def __or__(self, other: Any) -> Any:
        if isinstance(other, group) and len(other.tasks) == 1:
            other = maybe_unroll_group(other)
        elif not isinstance(other, Signature) or isinstance(other, group) or is_chain(other):
            return super().__or__(other)
        copied = self.clone()
        copied.body = copied.body | other
        return copied

    def __repr__(self) -> str:
        if not self.body:
            return f"<chord without body: {self.tasks!r}>"
        text: str
        if is_chain(self.body):
            first = self.body.tasks[0]
            rest = new_chain(self.body.tasks[1:], app=self._app)
            text = remove_repeating_from_task(first["task"], f"%({first.reprcall(self.tasks)} | {rest!r})")
            return text
        text = remove_repeating_from_task(self.body["task"], self.body.reprcall(self.tasks))
        return f"%{text}"

    @property
    def app(self) -> Any:
        return self._get_app(self.body)

    @app.setter
    def app(self, app: Celery | None) -> None:
        self._app = app

    def _get_app(self, body: Any = None) -> Any:
        """The chord's own app, else that of its first task, of `body`, else the current one."""
        app = self._app
        if app is None:
            tasks = getattr(self.tasks, "tasks", self.tasks)
            app = self._app_of(tasks[0]) if tasks else None
            if app is None and body is not None:
                app = self._app_of(body)
        return app if app is not None else current_app

    @staticmethod
    def _app_of(task: Any) -> Any:
        if task._app is not None:
            return task._app
        app = getattr(task, "app", None)
        return None if app is current_app else app


_chord.__module__ = "celerylite.canvas"


def _take_delay(options: dict[str, Any], header_delay: dict[str, Any] | None) -> dict[str, Any]:
    """The delays among `options`, which lose them, under those of `header_delay`."""
    delay = dict(header_delay or {})
    for key in _DELAYS:
        value = options.pop(key, None)
        if value is not None:
            delay.setdefault(key, value)
    return delay


def _oldest(result: Any) -> Any:
    """The first ancestor of `result` that has no parent, or itself."""
    seen = set()
    while result.parent is not None:
        seen.add(result.id)
        result = result.parent
        if result.id in seen:
            raise RuntimeError("Recursive result parents")
    return result


def _clear_chord_option(sig: Any) -> None:
    sig.options.pop("chord", None)
    if isinstance(sig, group):
        for task in sig.tasks:
            _clear_chord_option(task)
    elif is_chain(sig) and sig.tasks:
        _clear_chord_option(sig.tasks[-1])
    elif isinstance(sig, _chord) and sig.body is not None:
        _clear_chord_option(sig.body)


def _strip_chord_header_links(sig: Any) -> None:
    """Take the copies of the body out of the frozen header tasks of every chord inside `sig`.

    They are put in again when the chord is sent. Without this a message of nested chords grows
    exponentially.
    """
    if isinstance(sig, _chord):
        _clear_chord_option(sig.tasks)
        _strip_chord_header_links(sig.tasks)
        if sig.body is not None:
            _strip_chord_header_links(sig.body)
    elif isinstance(sig, group) or is_chain(sig):
        for task in sig.tasks:
            _strip_chord_header_links(task)


def _is_chain_led_by_task(body: Any) -> bool:
    return is_chain(body) and bool(body.tasks) and not isinstance(body.tasks[0], group)


def _clone_with_members(sig: Any) -> Any:
    """A clone whose tasks (of a group) or body (of a chord) are clones too."""
    copied = maybe_signature(sig, clone=True)
    if isinstance(copied, group):
        copied.tasks = [_clone_with_members(task) for task in copied.tasks]
    elif isinstance(copied, _chord):
        copied.body = _clone_with_members(copied.body)
    return copied


def _link_error_to_body_tasks(sig: Any, errback: Any, runs_as_group: bool = True) -> None:
    """Link `errback` to the tasks that give a body its results, so that it is called once for each."""
    if isinstance(sig, _chord):
        _link_error_to_body_tasks(sig.body, errback)
    elif not isinstance(sig, group):
        sig.link_error(errback.clone())
    elif runs_as_group and sig.options.get("link_error") is not None:
        sig.append_to_list_option("link_error", errback.clone())
    else:
        for task in sig.tasks:
            _link_error_to_body_tasks(task, errback, runs_as_group=False)
