"""The signature: one call of a task, described but not yet made, as a dict that travels in messages."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, MutableSequence
from copy import deepcopy
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any, ClassVar, Generic, Self, TypeGuard

from kombu.utils.functional import maybe_list, reprcall

from celerylite._canvas import stamping
from celerylite._state import current_app
from celerylite.utils import abstract
from celerylite.utils._ids import uuid
from celerylite.utils.functional import seq_concat_seq
from celerylite.utils.objects import getitem_property

if TYPE_CHECKING:
    from typing_extensions import TypeVar

    from celerylite._canvas.chain import _chain
    from celerylite._canvas.chord import _chord
    from celerylite._canvas.group import group
    from celerylite._canvas.stamping import StampingVisitor
    from celerylite.app.base import Celery
    from celerylite.app.task import Task
    from celerylite.result import AsyncResult, EagerResult

    # With a default, so that plain `Signature` is a complete type.
    R = TypeVar("R", default=Any)
else:
    from typing import TypeVar

    R = TypeVar("R")

__all__ = ("Signature", "signature", "subtask", "maybe_signature", "maybe_subtask")

S = TypeVar("S", bound="type[Signature[Any]]")


@abstract.CallableSignature.register
class Signature(dict[str, Any], Generic[R]):
    """A task's name with the arguments and options of one call of it.

    It is a dict with the keys ``task``, ``args``, ``kwargs``, ``options``, ``subtask_type`` and
    ``immutable``, and reads back from any serializer as such (`from_dict`, `maybe_signature`).
    Arguments given when it is called go in front of its own, unless it is immutable.
    """

    #: Class by ``subtask_type``: how a plain dict finds its way back to a chain, group or chord.
    TYPES: ClassVar[dict[str, type[Signature[Any]]]] = {}

    _app: Celery | None = None
    _type: Task[..., Any] | None = None

    #: Options that, once set, are not overridden by those of a call.
    _IMMUTABLE_OPTIONS: ClassVar[set[str]] = {"group_id", "stamped_headers"}

    id = getitem_property("options.task_id", "Id of the task.")
    parent_id = getitem_property("options.parent_id", "Id of the task that sent it.")
    root_id = getitem_property("options.root_id", "Id of the first task of the workflow.")
    task = getitem_property("task", "Name of the task.")
    args = getitem_property("args", "Positional arguments.")
    kwargs = getitem_property("kwargs", "Keyword arguments.")
    options = getitem_property("options", "Options of apply_async.")
    subtask_type = getitem_property("subtask_type", "Key into TYPES, or None.")
    immutable = getitem_property("immutable", "True if arguments of a call are ignored.")

    @classmethod
    def register_type(cls, name: str | None = None) -> Callable[[S], S]:
        """Class decorator: dicts whose ``subtask_type`` is `name` become the decorated class."""

        def register(subclass: S) -> S:
            cls.TYPES[name or subclass.__name__] = subclass
            return subclass

        return register

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Celery | None = None) -> Signature[Any]:
        """The signature that the dict `d` describes, in the class of its ``subtask_type``."""
        kind = d.get("subtask_type")
        target = cls.TYPES[kind] if kind else cls
        if target is not cls:
            return target.from_dict(d, app=app)
        return Signature(d, app=app)

    def __init__(
        self,
        task: Any = None,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        type: Any = None,
        subtask_type: str | None = None,
        immutable: bool = False,
        app: Celery | None = None,
        **ex: Any,
    ) -> None:
        self._app = app
        if isinstance(task, dict):
            super().__init__(task)
            return
        name = getattr(task, "name", None)
        if name is None:
            name = task
        else:
            self._type = task
        super().__init__(
            task=name,
            args=tuple(args or ()),
            kwargs=kwargs or {},
            options={**(options or {}), **ex},
            subtask_type=subtask_type,
            immutable=immutable,
        )

    # -- calling

    def __call__(self, *partial_args: Any, **partial_kwargs: Any) -> R:
        """Run the task here and now as a plain function."""
        args, kwargs, _ = self._merge(partial_args, partial_kwargs, None)
        value: R = self.type(*args, **kwargs)
        return value

    def delay(self, *partial_args: Any, **partial_kwargs: Any) -> AsyncResult[R]:
        """`apply_async` with the arguments written as in a call."""
        return self.apply_async(partial_args, partial_kwargs)

    def apply(
        self, args: Iterable[Any] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> EagerResult[R]:
        """Run the task in this process and return an `EagerResult`."""
        given = {key: value for key, value in options.items() if value is not None}
        merged_args, merged_kwargs, merged_options = self._merge(args, kwargs, given)
        result: EagerResult[R] = self.type.apply(merged_args, merged_kwargs, **merged_options)
        return result

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        route_name: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Send the task, and return the result to come."""
        given = {key: value for key, value in options.items() if value is not None}
        call = (self.args, self.kwargs, self.options)
        if args or kwargs or given:
            call = self._merge(args, kwargs, given)
        result: AsyncResult[R] = self._apply_async(call[0], call[1], **call[2])
        return result

    def __invert__(self) -> R:
        """``~sig`` sends the task and waits for its result."""
        return self.apply_async().get()

    def _merge(
        self,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
        force: bool = False,
    ) -> tuple[Any, dict[str, Any], dict[str, Any]]:
        """Arguments, keywords and options of a call: what is given now over what is here.

        With `force` an immutable signature takes arguments too.
        """
        merged_options = self.options if options is None else self._merge_options(options)
        if self.immutable and not force:
            return self.args, self.kwargs, merged_options
        return (
            (*args, *self.args) if args else self.args,
            {**self.kwargs, **kwargs} if kwargs else self.kwargs,
            merged_options,
        )

    def _merge_options(self, options: dict[str, Any]) -> dict[str, Any]:
        kept = self._IMMUTABLE_OPTIONS
        if "stamped_headers" in self.options:
            kept = kept.union(self.options.get("stamped_headers", []))
        taken = {key: value for key, value in options.items() if key not in kept or key not in self.options}
        return {**self.options, **taken}

    # -- copying

    def clone(
        self, args: Iterable[Any] | None = None, kwargs: dict[str, Any] | None = None, **opts: Any
    ) -> Any:
        """A copy that can be changed without changing this one; arguments and options are merged in."""
        new_args, new_kwargs, new_options = self.args, self.kwargs, self.options
        if args or kwargs or opts:
            new_args, new_kwargs, new_options = self._merge(args, kwargs, opts)
        copied = Signature.from_dict(
            {
                "task": self.task,
                "args": tuple(new_args),
                "kwargs": dict(new_kwargs) if new_kwargs is self.kwargs else new_kwargs,
                "options": deepcopy(new_options),
                "subtask_type": self.subtask_type,
                "immutable": self.immutable,
            },
            app=self._app,
        )
        copied._type = self._type
        return copied

    partial = clone

    def replace(
        self,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        options: dict[str, Any] | None = None,
    ) -> Any:
        """A copy with arguments, keywords or options exchanged for those given."""
        copied = self.clone()
        for key, value in (("args", args), ("kwargs", kwargs), ("options", options)):
            if value is not None:
                copied[key] = value
        return copied

    def __deepcopy__(self, memo: dict[int, Any]) -> dict[str, Any]:
        # As Celery: a deep copy is a plain dict whose options alone are copied deeply.
        copied = dict(self)
        memo[id(self)] = copied
        copied["options"] = deepcopy(self.options, memo)
        return copied

    def __reduce__(self) -> tuple[Any, ...]:
        return signature, (dict(self),)

    def __json__(self) -> dict[str, Any]:
        return dict(self)

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
        """Fix the id, and the place in a workflow, of the call to come; returns its result.

        An id that was fixed before stays.
        """
        opts = self.options
        if "task_id" not in opts:
            opts["task_id"] = _id or uuid()
        if "reply_to" not in opts:
            opts["reply_to"] = self.app.thread_oid
        if group_id and "group_id" not in opts:
            opts["group_id"] = group_id
        if group_index is not None:
            opts["group_index"] = group_index
        for key, value in (("root_id", root_id), ("parent_id", parent_id), ("chord", chord)):
            if value:
                opts[key] = value
        return self.AsyncResult(opts["task_id"])

    _freeze = freeze

    def set(self, immutable: bool | None = None, **options: Any) -> Self:
        """Set options of the call, and whether it takes further arguments; returns itself."""
        if immutable is not None:
            self.set_immutable(immutable)
        self.options.update(options)
        return self

    def set_immutable(self, immutable: bool) -> None:
        self.immutable = immutable

    # -- links

    def _with_list_option(self, key: str) -> Any:
        items = self.options.setdefault(key, [])
        if not isinstance(items, MutableSequence):
            items = self.options[key] = [items]
        return items

    def append_to_list_option(self, key: str, value: Any) -> Any:
        """Add `value` to the list in option `key` unless it is there; returns `value`."""
        items = self._with_list_option(key)
        if value not in items:
            items.append(value)
        return value

    def extend_list_option(self, key: str, value: Any) -> None:
        """Add the item or items `value` to the list in option `key`."""
        self._with_list_option(key).extend(maybe_list(value))

    def link(self, callback: Any) -> Any:
        """Call `callback` with the result of this task when it succeeds; returns `callback`."""
        return self.append_to_list_option("link", callback)

    def link_error(self, errback: Any) -> Any:
        """Call `errback` when this task fails; returns `errback`."""
        return self.append_to_list_option("link_error", errback)

    def on_error(self, errback: Any) -> Self:
        """`link_error` that returns the signature itself, for ``task.s().on_error(...).delay()``."""
        self.link_error(errback)
        return self

    def flatten_links(self) -> list[Any]:
        """This signature, its callbacks, their callbacks, and so on."""
        links = maybe_list(self.options.get("link")) or []
        return [self, *itertools.chain.from_iterable(link.flatten_links() for link in links)]

    # -- stamping

    def _stamp_headers(
        self,
        visitor_headers: dict[str, Any] | None = None,
        append_stamps: bool = False,
        self_headers: bool = True,
        **headers: Any,
    ) -> dict[str, Any]:
        return stamping.stamps_for(
            self.options if self_headers else None, visitor_headers, append_stamps, headers
        )

    def stamp(
        self, visitor: StampingVisitor | None = None, append_stamps: bool = False, **headers: Any
    ) -> Any:
        """Put stamps (extra headers, listed in ``stamped_headers``) on the call and its links."""
        self.stamp_links(visitor, append_stamps, **headers)
        answer = None if visitor is None else visitor.on_signature(self, **headers) or {}
        return self.set(**self._stamp_headers(answer, append_stamps, **headers))

    def stamp_links(
        self, visitor: StampingVisitor | None, append_stamps: bool = False, **headers: Any
    ) -> None:
        """Stamp the callbacks and errbacks."""
        self._stamp_linked("link", visitor, append_stamps, headers)
        self._stamp_linked("link_error", visitor, append_stamps, headers)

    def _stamp_linked(
        self, option: str, visitor: StampingVisitor | None, append_stamps: bool, headers: dict[str, Any]
    ) -> None:
        # As Celery: the stamps of one link are handed on to the next one of the same kind.
        passed_on = deepcopy(headers)
        for link in maybe_list(self.options.get(option)) or []:
            linked = maybe_signature(link, app=self.app)
            answer = None
            if visitor is not None:
                ask = visitor.on_callback if option == "link" else visitor.on_errback
                answer = ask(linked, **passed_on) or {}
            passed_on = self._stamp_headers(answer, append_stamps, False, **passed_on)
            linked.stamp(visitor, append_stamps, **passed_on)

    # -- composing

    def __or__(self, other: Any) -> Any:
        if is_chain(other):
            return new_chain(seq_concat_seq((self,), other.unchain_tasks()), app=self._app)
        if is_group(other):
            return new_chain(self, maybe_unroll_group(other), app=self.app)
        if isinstance(other, Signature):
            return new_chain(self, other, app=self._app)
        return NotImplemented

    def __ior__(self, other: Any) -> Any:
        # A dict would update itself in place here.
        return self.__or__(other)

    def election(self) -> Any:
        """Let one of the workers be chosen to run the task; returns its result."""
        task_type = self.type
        app = task_type.app
        task_id = self.options.get("task_id") or uuid()
        with app.producer_or_acquire(None) as producer:
            props = task_type.backend.on_task_call(producer, task_id)
            elected = self.clone(task_id=task_id, **props)
            app.control.election(task_id, "task", elected, connection=producer.connection)
            return task_type.AsyncResult(task_id)

    # -- looking

    def reprcall(self, *args: Any, **kwargs: Any) -> str:
        """The call as one would write it, with `args` in front."""
        merged_args, merged_kwargs, _ = self._merge(args, kwargs, {}, force=True)
        text: str = reprcall(self["task"], merged_args, merged_kwargs)
        return text

    def __repr__(self) -> str:
        return self.reprcall()

    def items(self) -> Iterator[tuple[str, Any]]:  # type: ignore[override]
        # Some serializers give keys back as bytes.
        key: Any
        for key, value in super().items():
            yield (key.decode() if isinstance(key, bytes) else key), value

    @property
    def name(self) -> Any:
        return self.task

    @cached_property
    def type(self) -> Any:
        """The task itself; `NotRegistered` if the app does not know it."""
        return self._type or self.app.tasks[self["task"]]

    @property
    def app(self) -> Any:
        return self._app or current_app

    @app.setter
    def app(self, app: Celery | None) -> None:
        self._app = app

    @cached_property
    def AsyncResult(self) -> Callable[..., AsyncResult[Any]]:
        try:
            found: Callable[..., AsyncResult[Any]] = self.type.AsyncResult
        except KeyError:  # the task may live in another process only
            found = self.app.AsyncResult
        return found

    @cached_property
    def _apply_async(self) -> Callable[..., Any]:
        try:
            found: Callable[..., Any] = self.type.apply_async
        except KeyError:
            found = partial(self.app.send_task, self["task"])
        return found


# The compound classes are built of each other. They find each other through `Signature.TYPES`,
# as dicts do, so that their modules need not import one another in a circle.


def is_chain(sig: object) -> TypeGuard[_chain]:
    return isinstance(sig, Signature.TYPES["chain"])


def is_group(sig: object) -> TypeGuard[group]:
    return isinstance(sig, Signature.TYPES["group"])


def is_chord(sig: object) -> TypeGuard[_chord]:
    return isinstance(sig, Signature.TYPES["chord"])


def new_chain(*tasks: Any, **options: Any) -> Any:
    return Signature.TYPES["chain"](*tasks, **options)


def new_chord(*args: Any, **options: Any) -> Any:
    return Signature.TYPES["chord"](*args, **options)


def is_empty_group(sig: object) -> bool:
    """Whether `sig` is a group without tasks. Starts the generator of a lazy one."""
    return is_group(sig) and isinstance(sig.tasks, (list, tuple)) and not sig.tasks


def maybe_unroll_group(group: Any) -> Any:
    """The only task of a group of one, else the group, without consuming a lazy one needlessly."""
    tasks = group.tasks
    try:
        return tasks[0] if len(tasks) == 1 else group
    except TypeError:
        pass
    try:
        size = tasks.__length_hint__()
    except (AttributeError, TypeError):
        return group
    return next(iter(list(tasks))) if size == 1 else group


def signature(varies: Any, *args: Any, **kwargs: Any) -> Any:
    """A signature of a task, of its name, or of a dict; a copy if given a signature."""
    if isinstance(varies, dict):
        if isinstance(varies, abstract.CallableSignature):
            return varies.clone()
        return Signature.from_dict(varies, app=kwargs.get("app"))
    return Signature(varies, *args, **kwargs)


def maybe_signature(d: Any, app: Celery | None = None, clone: bool = False) -> Any:
    """`d` as a signature if it is a dict, untouched (or cloned) if it is one, None if None."""
    if d is None:
        return None
    if isinstance(d, abstract.CallableSignature):
        d = d.clone() if clone else d
    elif isinstance(d, dict):
        d = signature(d)
    if app is not None:
        d._app = app
    return d


subtask = signature
maybe_subtask = maybe_signature

for _public in (Signature, signature, maybe_signature):
    _public.__module__ = "celerylite.canvas"
