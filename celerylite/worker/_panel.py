"""What remote control commands find as ``state``: one runtime under the names of Celery's worker."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from kombu.exceptions import ContentDisallowed, DecodeError

from celerylite import _clock
from celerylite._message import decode_body
from celerylite._store import Delivery, MessageState
from celerylite._store.processes import is_gone
from celerylite.exceptions import InvalidTaskError
from celerylite.utils.collections import AttributeDict
from celerylite.utils.saferepr import saferepr
from celerylite.worker import state as worker_state
from celerylite.worker._execution import Execution, request_of
from celerylite.worker.request import Request

if sys.platform != "win32":
    import resource

if TYPE_CHECKING:
    from celerylite.worker import Runtime

__all__ = ("Autoscaler", "Consumer", "make_state", "stats_of")

#: How many of the waiting messages are looked at for those that wait for their time.
_LOOKED_AT = 10_000


def make_state(runtime: Runtime) -> Any:
    """The first argument of every command that `runtime` runs."""
    return AttributeDict(
        app=runtime.app, hostname=runtime.hostname, consumer=Consumer(runtime), tset=set, runtime=runtime
    )


class Consumer:
    """``state.consumer``: what the process takes and runs."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.app = runtime.app
        self.controller = _Controller(runtime)
        self.pool = _Pool(runtime)

    @property
    def hostname(self) -> str:
        return self._runtime.hostname

    @property
    def event_dispatcher(self) -> Any:
        """What sends this runtime's events; None when there is nothing that could."""
        return self._runtime.events.dispatcher

    @property
    def task_consumer(self) -> Any:
        """Its `queues` are those that are taken from."""
        return AttributeDict(queues=self._queues())

    def call_soon(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `fun`, at once."""
        return fun(*args, **kwargs)

    # -- requests ----------------------------------------------------------------------------------

    def active(self) -> list[Request]:
        """The calls whose task runs."""
        return [Request(x) for x in self._runtime.running() if x.started_at]

    def reserved(self) -> list[Request]:
        """The calls that this process has claimed and not begun."""
        begun = [x for x in self._runtime.running() if not x.started_at]
        return [*(self._waiting_request(delivery) for delivery in self._runtime.held()), *map(Request, begun)]

    def scheduled(self) -> list[Request]:
        """The calls that wait for their time. Of all processes that could run one, the first shows it."""
        return [
            self._waiting_request(Delivery(row=one.row, token="", message=one.message))
            for one in self._runtime.store.waiting(_LOOKED_AT)
            if one.state is MessageState.SCHEDULED and self._looks_after(one.message.queue)
        ]

    def _looks_after(self, queue: str) -> bool:
        runtime = self._runtime
        if not runtime.takes_from(queue):
            return False
        others = (each for each in runtime.store.workers() if each.queues is None or queue in each.queues)
        return (
            min((each.owner for each in others if not is_gone(each)), default=runtime.owner) == runtime.owner
        )

    def _waiting_request(self, delivery: Delivery) -> Request:
        context = request_of(delivery, self.hostname)
        message = delivery.message
        try:
            body = decode_body(message, self.app.amqp.accept_content)
            args: Any = body.args
            kwargs: Any = body.kwargs
        except (ContentDisallowed, DecodeError, InvalidTaskError) as exc:
            args = kwargs = saferepr(exc)
        x = Execution(
            app=self.app,
            site=self._runtime,
            id=message.id,
            name=message.name,
            request=context,
            delivery=delivery,
            task=self.app._tasks.get(message.name),
            args=args,
            kwargs=kwargs,
        )
        return Request(x)

    def find(self, ids: Iterable[str]) -> dict[str, tuple[str, dict[str, Any]]]:
        """State and description of those of the ids that this process knows."""
        wanted = set(ids)
        found: dict[str, tuple[str, dict[str, Any]]] = {}
        for state, requests in self._by_state():
            for request in requests():
                if request.id in wanted:
                    found.setdefault(request.id, (state, request.info()))
            if len(found) == len(wanted):
                break
        return found

    def _by_state(self) -> Iterator[tuple[str, Callable[[], list[Request]]]]:
        yield "active", self.active
        yield "reserved", self.reserved
        yield "scheduled", self.scheduled

    # -- what changes things -------------------------------------------------------------------------

    def revoke(self, ids: Iterable[str]) -> None:
        """These calls were revoked."""
        self._runtime.note_revoked(ids)

    def forget_revoked(self, task_id: str) -> None:
        """This call is not revoked any more."""
        self._runtime.forget_revoked(task_id)

    def revoke_stamps(self, headers: dict[str, Any]) -> None:
        """Calls with these stamps were revoked."""
        self._runtime.note_revoked_stamps(headers)

    def revoked(self) -> set[str]:
        """The ids that the database knows as revoked."""
        return self._runtime.revoked_ids()

    def terminate(self, is_meant: Callable[[Request], bool], signum: int) -> list[Request]:
        """End running calls; those that were meant."""
        meant = [request for request in self.active() if is_meant(request)]
        for request in meant:
            request.terminate(self.pool, signum)
        return meant

    def reset_rate_limits(self) -> None:
        """A rate limit was changed: who waits for one looks again."""
        self._runtime.look_at_limits()

    def add_task_queue(
        self,
        queue: str,
        exchange: str | None = None,
        exchange_type: str | None = None,
        routing_key: str | None = None,
        **options: Any,
    ) -> None:
        """Take from `queue` too, from now on."""
        queues = self.app.amqp.queues
        if queue not in queues:
            name = queue if exchange is None else exchange
            queues.add(
                queue, exchange=name, exchange_type=exchange_type, routing_key=routing_key or queue, **options
            )
        self._runtime.add_queue(queue)

    def cancel_task_queue(self, queue: str) -> None:
        """Take no more from `queue`, and give back what is claimed of it and has not begun."""
        self._runtime.pause(queue)

    def _queues(self) -> list[Any]:
        queues, runtime = self.app.amqp.queues, self._runtime
        names = list(queues) if runtime.queues is None else sorted(runtime.queues)
        return [queues[name] for name in names if runtime.takes_from(name)]


def stats_of(runtime: Runtime) -> dict[str, Any]:
    """What `inspect.stats()` answers for a runtime."""
    return _Controller(runtime).stats()


class _Pool:
    """``state.consumer.pool``."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @property
    def num_processes(self) -> int:
        """How many plain functions may run at once."""
        return self._runtime.places

    def grow(self, n: int = 1) -> None:
        """Run `n` more at once."""
        self._runtime.resize(self._runtime.places + int(n))

    def shrink(self, n: int = 1) -> None:
        """Run `n` fewer at once; what runs goes on. One stays."""
        self._runtime.resize(max(1, self._runtime.places - int(n)))

    @property
    def info(self) -> dict[str, Any]:
        """What `stats` tells of the pool."""
        conf = self._runtime.app.conf
        limits = (conf.task_soft_time_limit or 0, conf.task_time_limit or 0)
        return {
            "implementation": f"{type(self._runtime).__module__}:{type(self._runtime).__name__}",
            "max-concurrency": self.num_processes,
            "processes": self._runtime.process_ids(),
            "max-tasks-per-child": conf.worker_max_tasks_per_child or "N/A",
            "put-guarded-by-semaphore": False,
            "timeouts": list(limits),
        }


class Autoscaler:
    """The bounds of a pool that was started with ``--autoscale``.

    Threads begin when there is work for them: the upper bound is what counts.
    """

    def __init__(self, pool: _Pool, most: int, least: int) -> None:
        self._pool = pool
        self.max_concurrency, self.min_concurrency = most, least

    @classmethod
    def of(cls, runtime: Runtime, bounds: tuple[int, int]) -> Autoscaler:
        """The autoscaler of a runtime, for `(most, least)`."""
        return cls(_Pool(runtime), *bounds)

    def update(self, max: int | None = None, min: int | None = None) -> tuple[int, int]:
        """Change the bounds, and tell what they are now."""
        if max is not None:
            self.max_concurrency = int(max)
        if min is not None:
            self.min_concurrency = int(min)
        self._pool.grow(self.max_concurrency - self._pool.num_processes)
        return self.max_concurrency, self.min_concurrency


class _Controller:
    """``state.consumer.controller``: the worker as a program, or the runtime of any other program."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self.app = runtime.app
        self._startup = _clock.utcnow()

    @property
    def hostname(self) -> str:
        return self._runtime.hostname

    @property
    def autoscaler(self) -> Any:
        """None unless the worker was started with ``--autoscale``."""
        return getattr(self.app._worker, "autoscaler", None)

    def reload(self, modules: Any = None, reload: bool = False, reloader: Any = None) -> None:
        """Import task modules that are new; see `WorkController.reload`."""
        # A worker does nothing else to its pool: threads need no restart to see a module.
        self.app.WorkController.reload(self, modules, reload, reloader)

    def stats(self) -> dict[str, Any]:
        """What `inspect.stats()` answers."""
        app = self.app
        return {
            "total": dict(Counter(worker_state.total_count)),
            "pid": os.getpid(),
            "clock": str(app.clock.value),
            "uptime": round((_clock.utcnow() - self._startup).total_seconds()),
            "pool": _Pool(self._runtime).info,
            "broker": _broker_info(app),
            "prefetch_count": self._runtime.room,
            "rusage": _rusage(),
        }


def _broker_info(app: Any) -> dict[str, Any]:
    """Where messages wait, in the shape in which Celery describes a broker."""
    database = app.shown_database
    scheme, _, rest = database.partition("://")
    return {
        "hostname": rest,
        "userid": None,
        "virtual_host": None,
        "port": None,
        "insist": False,
        "ssl": False,
        "transport": scheme,
        "connect_timeout": app.conf.broker_connection_timeout,
        "transport_options": {},
        "login_method": None,
        "uri_prefix": None,
        "heartbeat": 0,
        "failover_strategy": None,
        "alternates": [],
    }


def _rusage() -> Any:
    if sys.platform == "win32":
        return "N/A"
    usage = resource.getrusage(resource.RUSAGE_SELF)
    names = [name for name in dir(usage) if name.startswith("ru_")]
    per_unit = 1024 if sys.platform == "darwin" else 1
    values = {name.removeprefix("ru_"): getattr(usage, name) for name in names}
    values["maxrss"] //= per_unit
    return values
