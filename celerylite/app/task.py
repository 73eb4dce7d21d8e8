"""A task: a function with a name and options, and the ways to call it."""

from __future__ import annotations

import sys
import types
from collections.abc import Awaitable, Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar, cast

from kombu.exceptions import OperationalError
from kombu.serialization import dumps, loads

from celerylite import _state
from celerylite._lazy import lazy_module
from celerylite._outbox import Outbox
from celerylite._request import Context
from celerylite._request import actual_ignore_result as get_actual_ignore_result
from celerylite.app import _task_options
from celerylite.app._replace import prepare_replacement
from celerylite.app._task_options import extract_exec_options
from celerylite.app.annotations import resolve_all as resolve_all_annotations
from celerylite.app.autoretry import merged_arguments
from celerylite.app.registry import _unpickle_task_v2
from celerylite.app.utils import appstr
from celerylite.canvas import signature
from celerylite.exceptions import Ignore, MaxRetriesExceededError, Reject, Retry
from celerylite.result import AsyncResult, denied_join_result
from celerylite.utils import abstract, uuid
from celerylite.utils.functional import maybe_list
from celerylite.utils.serialization import raise_with_context
from celerylite.utils.threads import LocalStack

if TYPE_CHECKING:
    from typing import Generic as _Parametrised

    from typing_extensions import ParamSpec, TypeVar

    from celerylite.app.base import Celery
    from celerylite.canvas import Signature, chunks, xmap, xstarmap
    from celerylite.worker import _execute

    # With defaults, so that plain `Task`, which is what code for Celery says, is a complete type.
    P = ParamSpec("P", default=...)
    R = TypeVar("R", default=Any)
else:
    from typing import ParamSpec, TypeVar

    # Only what runs a task needs it, not what declares one.
    _execute = lazy_module("celerylite.worker._execute")

    P = ParamSpec("P")
    R = TypeVar("R")

    class _Parametrised:
        """Stands for Generic at run time, and leaves no trace: code looks at the bases of tasks."""

        def __class_getitem__(cls, item: Any) -> type:
            return object


__all__ = ("Context", "Task", "TaskType", "extract_exec_options", "get_actual_ignore_result")

#: Celery's name for the metaclass that tasks once had.
TaskType = type


class _AppOfClass:
    """``Task.app``: the app a task class is bound to, found (and bound) at first use."""

    def __get__(self, instance: Any, owner: type[Task[..., Any]]) -> Celery:
        return owner._get_app()

    def __set__(self, instance: Task[..., Any], app: Celery) -> None:
        type(instance).bind(app)


@abstract.CallableTask.register
class Task(_Parametrised[P, R]):
    """The base of all tasks; ``@app.task`` makes a subclass of it from a function.

    Subclass it to share options and handlers, and override ``run`` or ``__call__``. Attributes not set
    by the task take the value of the setting named in `from_config` when the task is bound to its app.
    """

    __trace__ = None
    __v2_compat__ = False

    MaxRetriesExceededError = MaxRetriesExceededError
    OperationalError = OperationalError

    #: Accepted for subclasses that name one; requests are always `celerylite.worker.request.Request`.
    Strategy = "celery.worker.strategy:default"
    Request = "celery.worker.request:Request"

    _app: ClassVar[Celery | None] = None
    app: Any = _AppOfClass()

    #: Name under which the task is registered and called.
    name: str = cast("str", None)
    #: Check arguments against the signature when called. Default: the app's ``strict_typing``.
    typing: bool | None = None
    #: Retries before giving up; None retries for ever.
    max_retries: int | None = 3
    #: Seconds before a retry that names no time of its own.
    default_retry_delay: float = 3 * 60
    #: At most this often, per runtime: ``'10/s'``, ``'100/m'``, ``'5/h'``, a number per second, or None.
    rate_limit: str | float | None = None
    #: Do not store state and result.
    ignore_result: bool | None = None
    #: Remember the results launched while the task runs as its ``children``.
    trail = True
    #: Send monitoring events about this task.
    send_events = True
    #: Store failures although results are ignored.
    store_errors_even_if_ignored: bool | None = None
    #: Store results of eager calls too.
    store_eager_result: bool | None = None
    #: Serializer of the arguments, a name known to kombu.
    serializer: str | None = None
    #: Seconds after which the task is ended, and after which it is told so by an exception.
    time_limit: float | None = None
    soft_time_limit: float | None = None
    #: Report STARTED.
    track_started: bool | None = None
    #: Keep the message until the task has run: it runs again after a crash.
    acks_late: bool | None = None
    acks_on_failure_or_timeout: bool | None = None
    acks_on_failure: bool | None = None
    acks_on_timeout: bool | None = None
    #: With `acks_late`: deliver again when the process running it died.
    reject_on_worker_lost: bool | None = None
    #: Retry, within `max_retries`, when the process running it died.
    retry_on_worker_lost: bool | None = None
    #: Exceptions that are an expected outcome: logged without a traceback, at INFO.
    throws: Any = ()
    #: Seconds or moment after which a waiting call is not run any more.
    expires: Any = None
    #: 0 to 9, higher first.
    priority: int | None = None
    #: Longest representation of a result in logs and events, in characters.
    resultrepr_maxsize = 1024
    #: Where the task runs: None for the runtime's own way.
    pool: str | None = None
    #: Send no call that waits or runs already: True goes by its arguments, a function of args and kwargs by
    #: the text it returns.
    unique: Any = None
    #: Names of the arguments that count for ``unique=True``; None: all.
    unique_on: Any = None
    #: Seconds from the call for which its key holds; None: until the task has ended.
    unique_for: Any = None
    raise_on_duplicate = False
    #: At most so many calls run at once, over all processes; with `concurrency_key`, so many for each key.
    concurrency_limit: int | None = None
    concurrency_key: Any = None

    #: Requests being executed, innermost last; per context.
    request_stack: LocalStack[Context] = cast("LocalStack[Context]", None)
    _default_request: Context | None = None

    #: A base for other tasks, not registered itself.
    abstract = True
    _exec_options: dict[str, Any] | None = None
    _dump_pydantic_arguments: Callable[[Any, Any], tuple[Any, Any]] | None = None
    __bound__ = False
    _backend: Any = None
    #: Set by `retry(max_retries=...)` for the retries that follow by themselves.
    override_max_retries: int | None

    from_config = _task_options.FROM_CONFIG

    __class_getitem__: ClassVar[Any] = classmethod(types.GenericAlias)

    # -- binding to an app ---------------------------------------------------------------------------

    @classmethod
    def bind(cls, app: Celery) -> Celery:
        """Take the app's settings for what the task left open, and its annotations. Repeatable."""
        was_bound, cls.__bound__ = cls.__bound__, True
        cls._app = app
        cls._exec_options = None
        if cls.typing is None:
            cls.typing = app.strict_typing
        if not was_bound:
            _task_options.warn_of_routing(cls)
        _task_options.fill_in(cls, app.conf)
        if not was_bound:
            cls.annotate()
            cls.request_stack = LocalStack()
        _task_options.check(cls)
        cls.on_bound(app)
        return app

    @classmethod
    def on_bound(cls, app: Celery) -> None:
        """Called when the class is bound to `app`; for subclasses."""

    @classmethod
    def _get_app(cls) -> Celery:
        if cls._app is None:
            cls._app = _state.get_current_app()
        if not cls.__bound__:
            cls.bind(cls._app)
        return cls._app

    @classmethod
    def annotate(cls) -> None:
        """Apply the setting ``task_annotations``; keys that begin with @ wrap a method."""
        for changes in resolve_all_annotations(cls._get_app().annotations, cls):
            for name, value in changes.items():
                if name.startswith("@"):
                    cls.add_around(name[1:], value)
                else:
                    setattr(cls, name, value)

    @classmethod
    def add_around(cls, attr: str, around: Callable[[Any], Any]) -> None:
        """Replace method `attr` by what `around` makes of it."""
        original = getattr(cls, attr)
        original = getattr(original, "__wrapped__", None) or original
        method = around(original)
        method.__wrapped__ = original
        setattr(cls, attr, method)

    # -- running it ----------------------------------------------------------------------------------

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        if self._is_top_of_execution():
            # A subclass's __call__ that calls super(): the request of the execution stays on top.
            self.request._protected = 1
            return cast("R", self.run(*args, **kwargs))
        _state._task_stack.push(self)
        self.push_request(args=args, kwargs=kwargs)
        try:
            return cast("R", self.run(*args, **kwargs))
        finally:
            self.pop_request()
            _state._task_stack.pop()

    def _is_top_of_execution(self) -> bool:
        top = self.request_stack.top
        return bool(top and not top._protected and not top.called_directly and len(self.request_stack) == 1)

    def run(self, *args: Any, **kwargs: Any) -> Any:
        """The work itself; every task defines it."""
        raise NotImplementedError("Tasks must define the run method.")

    def __reduce__(self) -> Any:
        module = type(self).__module__
        return _unpickle_task_v2, (self.name, module if module in sys.modules else None), None

    # -- calling it ----------------------------------------------------------------------------------

    def delay(self, *args: P.args, **kwargs: P.kwargs) -> AsyncResult[R]:
        """Call the task in the background; `apply_async` with plain arguments. Durable on return."""
        return self.apply_async(args, kwargs)

    def apply_async(
        self,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        task_id: str | None = None,
        producer: Any = None,
        link: Any = None,
        link_error: Any = None,
        shadow: str | None = None,
        **options: Any,
    ) -> AsyncResult[R]:
        """Call the task in the background. Returns when the message is committed.

        Options, with their units: ``countdown`` (seconds) or ``eta`` (moment), ``expires`` (seconds or
        moment), ``queue``, ``routing_key``, ``exchange``, ``priority`` (0-9, higher first),
        ``serializer``, ``compression``, ``time_limit`` and ``soft_time_limit`` (seconds), ``headers``,
        ``ignore_result``, ``add_to_parent``, ``unique_key`` with ``unique_for`` (seconds) and
        ``raise_on_duplicate``, ``connection``: a SQLAlchemy Connection or Session whose
        transaction the message joins. Broker options (``retry``, ``retry_policy``, ``producer``,
        ``delivery_mode``...) are accepted without effect.

        Raises TypeError when the arguments do not fit the task (see `typing`), ValueError when the soft
        limit is above the hard one, kombu's EncodeError for arguments that cannot be serialised and its
        OperationalError when the database cannot be reached. AlreadyQueued for a duplicate that wants it.
        """
        if self.soft_time_limit and self.time_limit and self.soft_time_limit > self.time_limit:
            raise ValueError("soft_time_limit must be less than or equal to time_limit")
        if self.typing:
            self._check_arguments(args, kwargs)
        shadow = shadow or self.shadow_name(args, kwargs, options)
        options = {**self._get_exec_options(), **options}
        if self._dump_pydantic_arguments is not None and options.get("serializer") != "pickle":
            args, kwargs = self._dump_pydantic_arguments(args, kwargs)
        options.setdefault("ignore_result", self.ignore_result)
        app = self._get_app()
        if app.conf.task_always_eager:
            return self._apply_eagerly(app, args, kwargs, task_id, link, link_error, options)
        return cast(
            "AsyncResult[R]",
            app.send_task(
                self.name,
                args,
                kwargs,
                task_id=task_id,
                producer=producer,
                link=link,
                link_error=link_error,
                result_cls=self.AsyncResult,
                shadow=shadow,
                task_type=self,
                **options,
            ),
        )

    async def aapply_async(
        self, args: Iterable[Any] | None = None, kwargs: dict[str, Any] | None = None, **options: Any
    ) -> AsyncResult[R]:
        """`apply_async` for coroutines: waits for the commit without blocking the caller's loop."""
        with Outbox() as box:
            result = self.apply_async(args, kwargs, **options)
        duplicates = await self._get_app()._publish_soon(box.messages)
        if duplicates:
            result.id = duplicates.get(result.id, result.id)
        return result

    def adelay(self, *args: P.args, **kwargs: P.kwargs) -> Awaitable[AsyncResult[R]]:
        """`delay` for coroutines: waits for the commit without blocking the caller's loop."""
        return self.aapply_async(args, kwargs)

    def _check_arguments(self, args: Any, kwargs: Any) -> None:
        check = getattr(self, "__header__", None)  # Absent on class-based tasks.
        if check is not None:
            check(*(args or ()), **(kwargs or {}))

    def _apply_eagerly(
        self, app: Celery, args: Any, kwargs: Any, task_id: Any, link: Any, link_error: Any, options: Any
    ) -> AsyncResult[R]:
        # Through the serializer although nothing leaves the process: the task sees what a worker's would.
        serializer = options.get("serializer") or app.conf.task_serializer
        content_type, encoding, data = dumps((args, kwargs), serializer=serializer)
        args, kwargs = loads(data, content_type, encoding, accept=[content_type])
        with denied_join_result():
            return cast(
                "AsyncResult[R]",
                self.apply(
                    args, kwargs, task_id=task_id or uuid(), link=link, link_error=link_error, **options
                ),
            )

    def shadow_name(self, args: Any, kwargs: Any, options: Any) -> str | None:
        """Another name for this call in logs; for subclasses and the option ``shadow_name``."""
        return None

    def apply(
        self,
        args: Iterable[Any] | None = None,
        kwargs: dict[str, Any] | None = None,
        link: Any = None,
        link_error: Any = None,
        task_id: str | None = None,
        retries: int | None = None,
        throw: bool | None = None,
        logfile: str | None = None,
        loglevel: int | None = None,
        headers: dict[str, Any] | None = None,
        **options: Any,
    ) -> Any:
        """Run the task here and now and return an EagerResult.

        `throw` raises the task's exception instead of returning it; default is the setting
        ``task_eager_propagates``. Blocks until the task is done.
        """
        app = self._get_app()
        call = _execute.EagerCall(
            app=app,
            task=app._tasks[self.name],
            task_id=task_id or uuid(),
            args=tuple(args or ()),
            kwargs=dict(kwargs or {}),
            link=maybe_list(link),
            link_error=maybe_list(link_error),
            retries=retries or 0,
            throw=app.conf.task_eager_propagates if throw is None else throw,
            logfile=logfile,
            loglevel=loglevel or 0,
            headers=headers,
            options=options,
        )
        return _execute.run_eagerly(call)

    # -- trying again --------------------------------------------------------------------------------

    def retry(
        self,
        args: Any = None,
        kwargs: Any = None,
        exc: BaseException | None = None,
        throw: bool = True,
        eta: Any = None,
        countdown: float | None = None,
        max_retries: int | None = None,
        **options: Any,
    ) -> Retry:
        """Run the same call again later: ``raise self.retry(exc=exc, countdown=60)``.

        The next try is published in the transaction that settles this one. Raises Retry always (unless
        `throw` is false, then it is returned); beyond `max_retries` raises `exc`, or
        MaxRetriesExceededError when none is given. Called outside of an execution it raises `exc`.
        """
        request = self.request
        retries = request.retries + 1
        if max_retries is not None:
            self.override_max_retries = max_retries
        limit = self.max_retries if max_retries is None else max_retries
        if request.called_directly:
            raise_with_context(exc or Retry("Task can be retried", None))
        if not eta and countdown is None:
            countdown = self.default_retry_delay
        args, kwargs = merged_arguments(self.run, request, args, kwargs)
        again = self.signature_from_request(
            request, args, kwargs, countdown=countdown, eta=eta, retries=retries, **options
        )
        if limit is not None and retries > limit:
            self._give_up(again, exc)
        signal = Retry(exc=exc, when=eta or countdown, is_eager=request.is_eager, sig=again)
        if not request.is_eager:
            self._send_retry(again)
        if throw:
            raise signal
        return signal

    def _give_up(self, again: Signature[Any], exc: BaseException | None) -> None:
        if exc:
            raise_with_context(exc)
        raise self.MaxRetriesExceededError(
            f"Can't retry {self.name}[{self.request.id}] args:{again.args} kwargs:{again.kwargs}",
            task_args=again.args,
            task_kwargs=again.kwargs,
        )

    def _send_retry(self, again: Signature[Any]) -> None:
        try:
            with _execute.sent_with_outcome():
                again.apply_async()
        except Exception as exc:
            raise Reject(exc, requeue=False) from exc

    def signature_from_request(
        self,
        request: Context | None = None,
        args: Any = None,
        kwargs: Any = None,
        queue: str | None = None,
        **extra_options: Any,
    ) -> Signature[Any]:
        """The call described by `request` (default: the current one) as a signature."""
        request = self.request if request is None else request
        options = {
            **request.as_execution_options(),
            "ignore_result": get_actual_ignore_result(self, request),
            **extra_options,
        }
        delivery = request.delivery_info or {}
        if delivery.get("priority") is not None:
            options["priority"] = delivery["priority"]
        if queue:
            options["queue"] = queue
        elif delivery.get("exchange") == "" and delivery.get("routing_key"):
            options["queue"] = delivery["routing_key"]
        else:
            options.update(delivery)
        return self.signature(
            request.args if args is None else args,
            request.kwargs if kwargs is None else kwargs,
            options,
            type=self,
            **extra_options,
        )

    subtask_from_request = signature_from_request

    # -- describing it -------------------------------------------------------------------------------

    def AsyncResult(self, task_id: str, **kwargs: Any) -> AsyncResult[R]:
        """The result of the call with id `task_id`, in this task's backend."""
        return cast(
            "AsyncResult[R]",
            self._get_app().AsyncResult(task_id, backend=self.backend, task_name=self.name, **kwargs),
        )

    def signature(self, args: Any = None, *starargs: Any, **starkwargs: Any) -> Signature[Any]:
        """A description of one call, to be applied, linked and combined."""
        starkwargs.setdefault("app", self.app)
        return cast("Signature[Any]", signature(self, args, *starargs, **starkwargs))

    subtask = signature

    def s(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """Shortcut: ``.s(*a, **k) -> .signature(a, k)``."""
        return self.signature(args, kwargs)

    def si(self, *args: Any, **kwargs: Any) -> Signature[Any]:
        """Shortcut: ``.si(*a, **k) -> .signature(a, k, immutable=True)``."""
        return self.signature(args, kwargs, immutable=True)

    def chunks(self, it: Iterable[Any], n: int) -> chunks:
        """Split the argument lists `it` into calls that each work through `n` of them."""
        return cast("chunks", self.app._canvas.chunks(self.s(), it, n, app=self.app))

    def map(self, it: Iterable[Any]) -> xmap:
        """One call that applies the task to each item of `it`."""
        return cast("xmap", self.app._canvas.xmap(self.s(), it, app=self.app))

    def starmap(self, it: Iterable[Any]) -> xstarmap:
        """One call that applies the task to each argument list of `it`."""
        return cast("xstarmap", self.app._canvas.xstarmap(self.s(), it, app=self.app))

    # -- for use inside a running task -----------------------------------------------------------------

    def send_event(self, type_: str, retry: bool = True, retry_policy: Any = None, **fields: Any) -> Any:
        """Send a monitoring event about the current call."""
        request = self.request
        with self.app.events.default_dispatcher(hostname=request.hostname) as dispatcher:
            return dispatcher.send(type_, uuid=request.id, retry=retry, retry_policy=retry_policy, **fields)

    def replace(self, sig: Signature[Any]) -> Any:
        """Let `sig` take the place of this call: it gets the id, and what follows the call follows it.

        Ends the task (raises Ignore); in eager mode returns the value of `sig`. Raises
        ImproperlyConfigured for a part of a chord or an empty chain.
        """
        return self.on_replace(prepare_replacement(self, sig))

    def on_replace(self, sig: Signature[Any]) -> Any:
        """What `replace` does once `sig` is ready; overriding methods return super's."""
        if self.request.is_eager:
            return sig.apply().get()
        with _execute.sent_with_outcome():
            sig.delay()
        raise Ignore("Replaced by new task")

    def add_to_chord(self, sig: Signature[Any], lazy: bool = False) -> Any:
        """Add `sig` to the header of the chord the current task is a member of; ValueError if it is none."""
        if not self.request.chord:
            raise ValueError("Current task is not member of any chord")
        sig.set(
            group_id=self.request.group,
            group_index=self.request.group_index,
            # Marked, so that it is not taken for one of those that the chord began with.
            chord={**self.request.chord, "chord_extra": True},
            root_id=self.request.root_id,
        )
        result = sig.freeze()
        self.backend.add_to_chord(self.request.group, result)
        return sig.delay() if not lazy else sig

    def update_state(
        self, task_id: str | None = None, state: str | None = None, meta: Any = None, **kwargs: Any
    ) -> None:
        """Store `state` and `meta` as the state and result of the current (or given) call. May block."""
        if task_id is None:
            task_id = self.request.id
        self.backend.store_result(task_id, meta, state, request=self.request, **kwargs)

    def add_trail(self, result: Any) -> Any:
        """Remember `result` as a child of the current call."""
        if self.trail:
            self.request.children.append(result)
        return result

    # -- handlers for subclasses ---------------------------------------------------------------------

    def before_start(self, task_id: str, args: Any, kwargs: Any) -> None:
        """Called before the task runs; what it raises fails the task."""

    def on_success(self, retval: Any, task_id: str, args: Any, kwargs: Any) -> None:
        """Called after the task succeeded and its result was stored."""

    def on_retry(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after the next try was stored."""

    def on_failure(self, exc: Any, task_id: str, args: Any, kwargs: Any, einfo: Any) -> None:
        """Called after the task failed and that was stored."""

    def after_return(
        self, status: str, retval: Any, task_id: str, args: Any, kwargs: Any, einfo: Any
    ) -> None:
        """Called last, for success and failure."""

    # -- the current request -------------------------------------------------------------------------

    def push_request(self, *args: Any, **kwargs: Any) -> None:
        """Put a request on top that inherits the fields of the current one."""
        self.request_stack.push(Context(*args, **{**vars(self.request), **kwargs}))

    def pop_request(self) -> None:
        """Take the top request away."""
        self.request_stack.pop()

    @property
    def request(self) -> Context:
        """The call being executed in this context; an empty one outside of any."""
        top = self.request_stack.top
        if top is not None:
            return top
        if self._default_request is None:
            self._default_request = Context()
        return self._default_request

    def _get_exec_options(self) -> dict[str, Any]:
        if self._exec_options is None:
            self._exec_options = extract_exec_options(self)
        return self._exec_options

    @property
    def backend(self) -> Any:
        """Where results of this task are kept; the app's unless set."""
        return self.app.backend if self._backend is None else self._backend

    @backend.setter
    def backend(self, value: Any) -> None:
        self._backend = value

    @property
    def __name__(self) -> str:
        cls: Any = type(self)
        return str(cls.__name__)

    def __repr__(self) -> str:
        flag = " (v2 compatible)" if self.__v2_compat__ else ""
        return f"<@task: {self.name} of {appstr(self._app) if self._app else None}{flag}>"


# Workers go straight to `run` past this method; one that a subclass or a tracing library put in its place
# is called.
setattr(Task.__call__, "runs_the_body", True)  # noqa: B010  (functions have no such attribute to the type checker)
# And nobody waits for a handler that was not written.
setattr(Task.on_success, "does_nothing", True)  # noqa: B010
setattr(Task.after_return, "does_nothing", True)  # noqa: B010

BaseTask = Task
