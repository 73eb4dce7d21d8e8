"""Remote control commands: the panel on which they are registered, and Celery's own."""

from __future__ import annotations

import io
import tempfile
from collections import UserDict
from collections.abc import Callable, Iterable
from importlib import import_module
from typing import Any, ClassVar, NamedTuple, TypeVar

from kombu.utils.encoding import safe_repr

from celerylite.exceptions import WorkerShutdown
from celerylite.platforms import EX_OK
from celerylite.platforms import signals as _signals
from celerylite.utils import debug
from celerylite.utils.functional import maybe_list
from celerylite.utils.log import get_logger
from celerylite.utils.serialization import jsonify, strtobool
from celerylite.utils.time import rate
from celerylite.worker import state as worker_state

__all__ = ("Panel", "control_command", "inspect_command")

logger = get_logger(__name__)

#: Attributes of a task that `registered` shows.
DEFAULT_TASK_INFO_ITEMS = ("exchange", "routing_key", "rate_limit")

Command = Callable[..., Any]
_Fun = TypeVar("_Fun", bound=Command)


class controller_info_t(NamedTuple):
    """What is known of a command beside its function."""

    alias: str | None
    type: str
    visible: bool
    default_timeout: float
    help: str
    signature: str | None
    args: Any
    variadic: str | None


class Panel(UserDict[str, Command]):
    """The commands of this program, by name. One for all apps."""

    data: ClassVar[dict[str, Command]] = {}  # type: ignore[misc]
    meta: ClassVar[dict[str, controller_info_t]] = {}

    @classmethod
    def register(cls, *args: Command, **kwargs: Any) -> Any:
        """Register a function as a command; with options only, gives the decorator that does."""
        decorate = cls._register(**kwargs)
        return decorate(*args) if args else decorate

    @classmethod
    def _register(
        cls,
        name: str | None = None,
        alias: str | None = None,
        type: str = "control",
        visible: bool = True,
        default_timeout: float = 1.0,
        help: str | None = None,
        signature: str | None = None,
        args: Any = None,
        variadic: str | None = None,
    ) -> Callable[[Command], Command]:
        def decorate(fun: Command) -> Command:
            command = name or fun.__name__
            text = help or (fun.__doc__ or "").strip().split("\n")[0]
            cls.data[command] = fun
            cls.meta[command] = controller_info_t(
                alias, type, visible, default_timeout, text, signature, args, variadic
            )
            if alias:
                cls.data[alias] = fun
            return fun

        return decorate


def control_command(**kwargs: Any) -> Callable[[_Fun], _Fun]:
    """Register a command that changes something. Its first argument is the state of the process."""
    decorate: Callable[[_Fun], _Fun] = Panel.register(type="control", **kwargs)
    return decorate


def inspect_command(**kwargs: Any) -> Callable[[_Fun], _Fun]:
    """Register a command that tells something. Its first argument is the state of the process."""
    decorate: Callable[[_Fun], _Fun] = Panel.register(type="inspect", **kwargs)
    return decorate


def ok(value: Any) -> dict[str, Any]:
    """The reply that all went well."""
    return {"ok": value}


def nok(value: Any) -> dict[str, Any]:
    """The reply that it did not."""
    return {"error": value}


# -- the app -----------------------------------------------------------------------------------------


@inspect_command()
def report(state: Any) -> Any:
    """Information about Celery installation for bug reports."""
    return ok(state.app.bugreport())


@inspect_command(alias="dump_conf", signature="[include_defaults=False]", args=[("with_defaults", strtobool)])
def conf(state: Any, with_defaults: bool = False, **kwargs: Any) -> Any:
    """List configuration."""
    table = state.app.conf.table(with_defaults=with_defaults)
    return jsonify(table, keyfilter=_is_setting, unknown_type_filter=safe_repr)


def _is_setting(key: Any) -> bool:
    return isinstance(key, str) and not key.startswith("__")


# -- tasks -------------------------------------------------------------------------------------------


@inspect_command(variadic="ids", signature="[id1 [id2 [... [idN]]]]")
def query_task(state: Any, ids: Any, **kwargs: Any) -> Any:
    """Query for task information by id."""
    return state.consumer.find(maybe_list(ids) or [])


@control_command(variadic="task_id", signature="[id1 [id2 [... [idN]]]]")
def revoke(state: Any, task_id: Any, terminate: bool = False, signal: Any = None, **kwargs: Any) -> Any:
    """Revoke task by task id (or list of ids)."""
    ids = {str(one) for one in maybe_list(task_id) or []}
    worker_state.revoked.update(ids)
    state.consumer.revoke(ids)
    if not terminate:
        logger.info("Tasks flagged as revoked: %s", ", ".join(sorted(ids)))
        return ok(f"tasks {ids} flagged as revoked")
    try:
        signum = _signals.signum(signal or "TERM")
    except (AttributeError, TypeError):
        return nok(f"terminate: expected the name of a signal such as TERM, got {signal!r}")
    ended = state.consumer.terminate(lambda request: request.id in ids, signum)
    if not ended:
        return ok("terminate: tasks unknown")
    return ok(f"terminate: {', '.join(request.id for request in ended)}")


@control_command(variadic="headers", signature="[key1=value1 [key2=value2 [... [keyN=valueN]]]]")
def revoke_by_stamped_headers(
    state: Any, headers: Any, terminate: bool = False, signal: Any = None, **kwargs: Any
) -> Any:
    """Revoke task by header (or list of headers)."""
    if isinstance(headers, list | tuple):
        headers = dict(header.split("=")[:2] for header in headers)
    state.consumer.revoke_stamps(headers)
    if not terminate:
        return ok(f"headers {headers} flagged as revoked, but not terminated")
    hit: dict[str, set[Any]] = {}

    def is_meant(request: Any) -> bool:
        found = False
        for header, values in headers.items():
            same = set(maybe_list((request.stamps or {}).get(header)) or []) & set(maybe_list(values) or [])
            if same:
                hit.setdefault(header, set()).update(same)
                found = True
        return found

    state.consumer.terminate(is_meant, _signals.signum(signal or "TERM"))
    return ok(f"headers {hit} revoked") if hit else ok(f"headers {headers} were not terminated")


@control_command(variadic="task_id", args=[("signal", str)], signature="<signal> [id1 [id2 [... [idN]]]]")
def terminate(state: Any, signal: Any, task_id: Any, **kwargs: Any) -> Any:
    """Terminate task by task id (or list of ids)."""
    return revoke(state, task_id, terminate=True, signal=signal)


@control_command(visible=False)
def retry_task(state: Any, task_id: str, **kwargs: Any) -> Any:
    """Forget that a task was revoked: it is about to be sent again."""
    worker_state.revoked.discard(task_id)
    state.consumer.forget_revoked(task_id)
    return ok("forgotten")


@control_command(
    args=[("task_name", str), ("rate_limit", str)],
    signature="<task_name> <rate_limit (e.g., 5/s | 5/m | 5/h)>",
)
def rate_limit(state: Any, task_name: str, rate_limit: Any, **kwargs: Any) -> Any:
    """Tell worker(s) to modify the rate limit for a task by type."""
    try:
        rate(rate_limit)
    except (KeyError, ValueError) as exc:
        return nok(f"Invalid rate limit string: {exc!r}")
    task = _task(state, task_name, "Rate limit attempt for unknown task %s")
    if task is None:
        return nok("unknown task")
    task.rate_limit = rate_limit
    state.consumer.reset_rate_limits()
    if not rate_limit:
        logger.info("Rate limits disabled for tasks of type %s", task_name)
        return ok("rate limit disabled successfully")
    logger.info("New rate limit for tasks of type %s: %s.", task_name, rate_limit)
    return ok("new rate limit set successfully")


@control_command(
    args=[("task_name", str), ("soft", float), ("hard", float)],
    signature="<task_name> <soft_secs> [hard_secs]",
)
def time_limit(
    state: Any, task_name: str = "", hard: float | None = None, soft: float | None = None, **kwargs: Any
) -> Any:
    """Tell worker(s) to modify the time limit for task by type."""
    task = _task(state, task_name, "Change time limit attempt for unknown task %s")
    if task is None:
        return nok("unknown task")
    task.soft_time_limit, task.time_limit = soft, hard
    logger.info("New time limits for tasks of type %s: soft=%s hard=%s", task_name, soft, hard)
    return ok("time limits set successfully")


def _task(state: Any, name: str, complaint: str) -> Any:
    try:
        return state.app.tasks[name]
    except KeyError:
        logger.error(complaint, name)
        return None


# -- events ------------------------------------------------------------------------------------------


@inspect_command()
def clock(state: Any, **kwargs: Any) -> Any:
    """Get current logical clock value."""
    return {"clock": state.app.clock.value}


@control_command()
def election(state: Any, id: str, topic: str, action: Any = None, **kwargs: Any) -> None:
    """Hold election."""
    # No gossip here: the database decides who does what.
    logger.debug("election %s about %s: nothing to elect", id, topic)


@control_command()
def enable_events(state: Any) -> Any:
    """Tell worker(s) to send task-related events."""
    dispatcher = state.consumer.event_dispatcher
    if dispatcher is None:
        return nok("event dispatcher unavailable")
    if dispatcher.groups and "task" not in dispatcher.groups:
        dispatcher.groups.add("task")
        logger.info("Events of group {task} enabled by remote.")
        return ok("task events enabled")
    return ok("task events already enabled")


@control_command()
def disable_events(state: Any) -> Any:
    """Tell worker(s) to stop sending task-related events."""
    dispatcher = state.consumer.event_dispatcher
    if dispatcher is None:
        return nok("event dispatcher unavailable")
    if "task" in dispatcher.groups:
        dispatcher.groups.discard("task")
        logger.info("Events of group {task} disabled by remote.")
        return ok("task events disabled")
    return ok("task events already disabled")


@control_command()
def heartbeat(state: Any) -> None:
    """Tell worker(s) to send event heartbeat immediately."""
    logger.debug("Heartbeat requested by remote.")
    dispatcher = state.consumer.event_dispatcher
    if dispatcher:
        dispatcher.send("worker-heartbeat", freq=5, **worker_state.SOFTWARE_INFO)


# -- the worker --------------------------------------------------------------------------------------


@inspect_command(visible=False)
def hello(state: Any, from_node: str, revoked: Any = None, **kwargs: Any) -> Any:
    """Request mingle sync-data."""
    if from_node == state.hostname:
        return None  # We greet ourselves.
    logger.info("sync with %s", from_node)
    worker_state.merge_revoked(revoked)
    worker_state.revoked.purge()
    return {"revoked": list(worker_state.revoked), "clock": state.app.clock.forward()}


@inspect_command(default_timeout=0.2)
def ping(state: Any, **kwargs: Any) -> Any:
    """Ping worker(s)."""
    return ok("pong")


@inspect_command()
def stats(state: Any, **kwargs: Any) -> Any:
    """Request worker statistics/information."""
    return state.consumer.controller.stats()


@inspect_command(alias="dump_schedule")
def scheduled(state: Any, **kwargs: Any) -> Any:
    """List of currently scheduled ETA/countdown tasks."""
    return [
        # As Celery: 6 is the priority of its timer's entries, whatever the call's is.
        {"eta": request.eta.isoformat() if request.eta else None, "priority": 6, "request": request.info()}
        for request in state.consumer.scheduled()
    ]


@inspect_command(alias="dump_reserved")
def reserved(state: Any, **kwargs: Any) -> Any:
    """List of currently reserved tasks, not including scheduled/active."""
    return [request.info() for request in state.consumer.reserved()]


@inspect_command(alias="dump_active")
def active(state: Any, safe: bool = False, **kwargs: Any) -> Any:
    """List of tasks currently being executed."""
    return [request.info(safe=safe) for request in state.consumer.active()]


@inspect_command(alias="dump_revoked")
def revoked(state: Any, **kwargs: Any) -> Any:
    """List of revoked task-ids."""
    return list(dict.fromkeys([*worker_state.revoked, *state.consumer.revoked()]))


@inspect_command(alias="dump_tasks", variadic="taskinfoitems", signature="[attr1 [attr2 [... [attrN]]]]")
def registered(state: Any, taskinfoitems: Any = None, builtins: bool = False, **kwargs: Any) -> Any:
    """List of registered tasks."""
    tasks = state.app.tasks
    items = [
        item
        for item in taskinfoitems or DEFAULT_TASK_INFO_ITEMS
        if isinstance(item, str) and not item.startswith("_")
    ]
    names = sorted(name for name in tasks if builtins or not name.startswith("celery."))
    return [_with_attributes(tasks[name], items) for name in names]


def _with_attributes(task: Any, items: Iterable[str]) -> str:
    values = ((item, getattr(task, item, None)) for item in items)
    shown = " ".join(f"{item}={value}" for item, value in values if value is not None)
    return f"{task.name} [{shown}]" if shown else str(task.name)


# -- looking for leaks -------------------------------------------------------------------------------


@inspect_command(
    default_timeout=60.0,
    args=[("type", str), ("num", int), ("max_depth", int)],
    signature="[object_type=Request] [num=200 [max_depth=10]]",
)
def objgraph(state: Any, num: int = 200, max_depth: int = 10, type: str = "Request") -> Any:
    """Create graph of uncollected objects (memory-leak debugging)."""
    try:
        # Here: an optional package that nothing else needs.
        graphs = import_module("objgraph")
    except ImportError:
        raise ImportError("Requires the objgraph library") from None
    logger.info("Dumping graph for type %r", type)
    with tempfile.NamedTemporaryFile(prefix="cobjg", suffix=".png", delete=False) as file:
        objects = graphs.by_type(type)[:num]
        graphs.show_backrefs(
            objects, max_depth=max_depth, highlight=lambda value: value in objects, filename=file.name
        )
        return {"filename": file.name}


@inspect_command()
def memsample(state: Any, **kwargs: Any) -> Any:
    """Sample current RSS memory usage."""
    return debug.sample_mem()


@inspect_command(args=[("samples", int)], signature="[n_samples=10]")
def memdump(state: Any, samples: int = 10, **kwargs: Any) -> Any:
    """Dump statistics of previous memsample requests."""
    out = io.StringIO()
    debug.memdump(samples, file=out)
    return out.getvalue()


# -- the pool ----------------------------------------------------------------------------------------


@control_command(args=[("n", int)], signature="[N=1]")
def pool_grow(state: Any, n: int = 1, **kwargs: Any) -> Any:
    """Grow pool by n processes/threads."""
    if state.consumer.controller.autoscaler:
        return nok("pool_grow is not supported with autoscale. Adjust autoscale range instead.")
    state.consumer.pool.grow(n)
    return ok("pool will grow")


@control_command(args=[("n", int)], signature="[N=1]")
def pool_shrink(state: Any, n: int = 1, **kwargs: Any) -> Any:
    """Shrink pool by n processes/threads."""
    if state.consumer.controller.autoscaler:
        return nok("pool_shrink is not supported with autoscale. Adjust autoscale range instead.")
    state.consumer.pool.shrink(n)
    return ok("pool will shrink")


@control_command()
def pool_restart(
    state: Any, modules: Any = None, reload: bool = False, reloader: Any = None, **_: Any
) -> Any:
    """Restart execution pool."""
    if not state.app.conf.worker_pool_restarts:
        # As Celery: the reply shows an exception.
        return nok(repr(ValueError("Pool restarts not enabled")))
    state.consumer.controller.reload(modules, reload, reloader=reloader)
    return ok("reload started")


@control_command(args=[("max", int), ("min", int)], signature="[max [min]]")
def autoscale(state: Any, max: int | None = None, min: int | None = None) -> Any:
    """Modify autoscale settings."""
    autoscaler = state.consumer.controller.autoscaler
    if not autoscaler:
        # As Celery: the reply shows an exception.
        return nok(repr(ValueError("Autoscale not enabled")))
    most, least = autoscaler.update(max, min)
    return ok(f"autoscale now max={most} min={least}")


@control_command()
def shutdown(state: Any, msg: str = "Got shutdown from remote", **kwargs: Any) -> None:
    """Shutdown worker(s)."""
    logger.warning(msg)
    raise WorkerShutdown(EX_OK)


# -- queues ------------------------------------------------------------------------------------------


@control_command(
    args=[("queue", str), ("exchange", str), ("exchange_type", str), ("routing_key", str)],
    signature="<queue> [exchange [type [routing_key]]]",
)
def add_consumer(
    state: Any,
    queue: str,
    exchange: str | None = None,
    exchange_type: str | None = None,
    routing_key: str | None = None,
    **options: Any,
) -> Any:
    """Tell worker(s) to consume from task queue by name."""
    state.consumer.add_task_queue(queue, exchange, exchange_type or "direct", routing_key, **options)
    return ok(f"add consumer {queue}")


@control_command(args=[("queue", str)], signature="<queue>")
def cancel_consumer(state: Any, queue: str, **kwargs: Any) -> Any:
    """Tell worker(s) to stop consuming from task queue by name."""
    state.consumer.cancel_task_queue(queue)
    return ok(f"no longer consuming from {queue}")


@inspect_command()
def active_queues(state: Any) -> Any:
    """List the task queues a worker is currently consuming from."""
    return [dict(queue.as_dict(recurse=True)) for queue in state.consumer.task_consumer.queues]
