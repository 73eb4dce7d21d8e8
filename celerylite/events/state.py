"""A picture of workers and tasks, as far as their events tell."""

from __future__ import annotations

import bisect
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping
from datetime import datetime
from decimal import Decimal
from itertools import islice
from typing import Any, ClassVar
from weakref import WeakSet, ref

from kombu.clocks import timetuple
from kombu.utils.objects import cached_property

from celerylite import _clock, states
from celerylite.utils.functional import LRUCache, memoize, pass1
from celerylite.utils.log import get_logger

__all__ = ("State", "Task", "Worker", "heartbeat_expires")

logger = get_logger(__name__)
warn = logger.warning

#: Per cent of the heartbeat's interval after which a worker that is silent counts as offline.
HEARTBEAT_EXPIRE_WINDOW = 200
#: Seconds between an event's time and its reception from which clocks are taken to differ.
HEARTBEAT_DRIFT_MAX = 16

DRIFT_WARNING = (
    "Substantial drift from %s may mean clocks are out of sync.  Current drift is "
    "%s seconds.  [orig: %s recv: %s]"
)

R_STATE = "<State: events={0.event_count} tasks={0.task_count}>"
R_WORKER = "<Worker: {0.hostname} ({0.status_string} clock:{0.clock})"
R_TASK = "<Task: {0.name}({0.uuid}) {0.state} clock:{0.clock}>"

#: What an event makes of a task's state.
TASK_EVENT_TO_STATE = {
    "sent": states.PENDING,
    "received": states.RECEIVED,
    "started": states.STARTED,
    "failed": states.FAILURE,
    "retried": states.RETRY,
    "succeeded": states.SUCCESS,
    "revoked": states.REVOKED,
    "rejected": states.REJECTED,
}

Event = dict[str, Any]


class CallableDefaultdict(defaultdict[Any, Any]):
    """An index that can be called too, for code from the time when it was a method."""

    def __init__(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        self.fun = fun
        super().__init__(*args, **kwargs)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self.fun(*args, **kwargs)


@memoize(maxsize=1000, keyfun=lambda a, _: a[0])  # type: ignore[untyped-decorator]
def _warn_drift(hostname: str, drift: float, local_received: float, timestamp: float) -> None:
    # Remembered: once for each host.
    warn(
        DRIFT_WARNING,
        hostname,
        drift,
        datetime.fromtimestamp(local_received),  # noqa: DTZ006 - shown in the reader's own time
        datetime.fromtimestamp(timestamp),  # noqa: DTZ006
    )


def heartbeat_expires(
    timestamp: float | Decimal, freq: float | Decimal = 60, expire_window: float = HEARTBEAT_EXPIRE_WINDOW
) -> float:
    """The moment from which a worker with that last heartbeat counts as offline (epoch seconds)."""
    return float(timestamp) + float(freq) * (expire_window / 100)


class Worker:
    """What is known of a worker."""

    heartbeat_max = 4
    expire_window = HEARTBEAT_EXPIRE_WINDOW

    _fields = (
        "hostname",
        "pid",
        "freq",
        "heartbeats",
        "clock",
        "active",
        "processed",
        "loadavg",
        "sw_ident",
        "sw_ver",
        "sw_sys",
    )

    def __init__(
        self,
        hostname: str | None = None,
        pid: int | None = None,
        freq: float = 60,
        heartbeats: list[float] | None = None,
        clock: int = 0,
        active: int | None = None,
        processed: int | None = None,
        loadavg: Any = None,
        sw_ident: str | None = None,
        sw_ver: str | None = None,
        sw_sys: str | None = None,
    ) -> None:
        self.hostname = hostname
        self.pid = pid
        self.freq = freq
        self.heartbeats = [] if heartbeats is None else heartbeats
        self.clock = clock or 0
        self.active = active
        self.processed = processed
        self.loadavg = loadavg
        self.sw_ident = sw_ident
        self.sw_ver = sw_ver
        self.sw_sys = sw_sys

    def event(
        self,
        type_: str | None,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Mapping[str, Any] | None = None,
        max_drift: float = HEARTBEAT_DRIFT_MAX,
    ) -> None:
        """Take over what an event tells; any but ``offline`` is a sign of life."""
        self.update(fields or {})
        if type_ == "offline":
            self.heartbeats.clear()
            return
        if not local_received or not timestamp:
            return  # Nobody knows when it was.
        drift = abs(int(local_received) - int(timestamp))
        if drift > max_drift:
            _warn_drift(str(self.hostname), drift, local_received, timestamp)
        if len(self.heartbeats) >= self.heartbeat_max:
            del self.heartbeats[0]
        bisect.insort(self.heartbeats, local_received)

    def update(self, f: Mapping[str, Any], **kw: Any) -> None:
        """Set fields."""
        for name, value in {**f, **kw}.items():
            setattr(self, name, value)

    def __eq__(self, other: object) -> bool:
        return self.hostname == other.hostname if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.hostname)

    def __repr__(self) -> str:
        return R_WORKER.format(self)

    def __reduce__(self) -> Any:
        return self.__class__, tuple(getattr(self, name) for name in self._fields)

    @property
    def status_string(self) -> str:
        """ONLINE or OFFLINE."""
        return "ONLINE" if self.alive else "OFFLINE"

    @property
    def heartbeat_expires(self) -> float:
        """When it counts as offline if nothing is heard of it (epoch seconds)."""
        return heartbeat_expires(self.heartbeats[-1], self.freq, self.expire_window)

    @property
    def alive(self) -> bool:
        """Whether it was heard of lately."""
        return bool(self.heartbeats) and _clock.time() < self.heartbeat_expires

    @property
    def id(self) -> str:
        """Name and process."""
        return f"{self.hostname}.{self.pid}"


def _make_task(cls: type[Task], fields: dict[str, Any]) -> Task:
    return cls(**fields)


class Task:
    """What is known of a call."""

    name: Any = None
    worker: Any = None
    client: Any = None
    root_id: Any = None
    parent_id: Any = None
    received = sent = started = succeeded = failed = retried = revoked = rejected = None
    args = kwargs = eta = expires = retries = exchange = routing_key = None
    result = exception = timestamp = runtime = traceback = None
    state: Any = states.PENDING
    clock = 0

    _fields = (
        "uuid",
        "name",
        "state",
        "received",
        "sent",
        "started",
        "rejected",
        "succeeded",
        "failed",
        "retried",
        "revoked",
        "args",
        "kwargs",
        "eta",
        "expires",
        "retries",
        "worker",
        "result",
        "exception",
        "timestamp",
        "runtime",
        "traceback",
        "exchange",
        "routing_key",
        "clock",
        "client",
        "root",
        "root_id",
        "parent",
        "parent_id",
        "children",
    )

    #: Events may come in another order than they happened. Of one that comes late, only these fields count.
    merge_rules: ClassVar[dict[str, tuple[str, ...]]] = {
        states.RECEIVED: (
            "name",
            "args",
            "kwargs",
            "parent_id",
            "root_id",
            "retries",
            "eta",
            "expires",
        ),
    }

    #: What `info` shows.
    _info_fields = (
        "args",
        "kwargs",
        "retries",
        "result",
        "eta",
        "runtime",
        "expires",
        "exception",
        "exchange",
        "routing_key",
        "root_id",
        "parent_id",
    )

    def __init__(
        self,
        uuid: str | None = None,
        cluster_state: State | None = None,
        children: Iterable[str] | None = None,
        **kwargs: Any,
    ) -> None:
        self.uuid = uuid
        self.cluster_state = cluster_state
        known = cluster_state.tasks if cluster_state is not None else {}
        self.children: WeakSet[Task] = WeakSet(known[one] for one in children or () if one in known)
        self._serializer_handlers = {
            "children": lambda _: [task.id for task in self.children],
            "root": lambda _: self.root_id,
            "parent": lambda _: self.parent_id,
        }
        self.__dict__.update(kwargs)

    def event(
        self,
        type_: str,
        timestamp: float | None = None,
        local_received: float | None = None,
        fields: Event | None = None,
    ) -> None:
        """Take over what an event tells; one that comes late does not turn the state back."""
        fields = {} if fields is None else fields
        state = TASK_EVENT_TO_STATE.get(type_)
        if state is None:
            state = type_.upper()
        else:
            setattr(self, type_, timestamp)
        if self._is_late(state):
            keep = self.merge_rules.get(state)
            if keep is not None:
                fields = {name: value for name, value in fields.items() if name in keep}
        else:
            fields.update(state=state, timestamp=timestamp)
        self.__dict__.update(fields)

    def _is_late(self, state: str) -> bool:
        if states.RETRY in (state, self.state):
            return False  # After a retry everything happens again.
        # A higher precedence is an earlier state.
        return states.precedence(state) > states.precedence(self.state)

    def info(self, fields: Iterable[str] | None = None, extra: Iterable[str] | None = None) -> dict[str, Any]:
        """Those of the fields that have a value."""
        names = [*(self._info_fields if fields is None else fields), *(extra or ())]
        values = {name: getattr(self, name, None) for name in names}
        return {name: value for name, value in values.items() if value is not None}

    def as_dict(self) -> dict[str, Any]:
        """All fields; other tasks by their ids."""
        return {
            name: self._serializer_handlers.get(name, pass1)(getattr(self, name)) for name in self._fields
        }

    def __eq__(self, other: object) -> bool:
        return self.uuid == other.uuid if isinstance(other, type(self)) else NotImplemented

    def __hash__(self) -> int:
        return hash(self.uuid)

    def __repr__(self) -> str:
        return R_TASK.format(self)

    def __reduce__(self) -> Any:
        return _make_task, (self.__class__, self.as_dict())

    @property
    def id(self) -> str | None:
        """The id, under its other name."""
        return self.uuid

    @property
    def origin(self) -> Any:
        """The worker that has it, or the client that sent it."""
        return self.client if self.worker is None else self.worker.id

    @property
    def ready(self) -> bool:
        """Whether it is over."""
        return self.state in states.READY_STATES

    @cached_property
    def parent(self) -> Any:
        """The task that sent it, if that is known."""
        return self._known(self.parent_id)

    @cached_property
    def root(self) -> Any:
        """The first task of the workflow, if that is known."""
        return self._known(self.root_id)

    def _known(self, task_id: str | None) -> Any:
        # `data`: a look must not count as a use of the cache.
        if not task_id or self.cluster_state is None:
            return task_id and None
        return self.cluster_state.tasks.data.get(task_id)


# Within the class these names are its attributes.
_OneWorker = Worker
_OneTask = Task


class State:
    """Follows a cluster by its events: call `event` with each. Thread-safe.

    The least lately used of too many workers and tasks are forgotten.
    """

    Worker = Worker
    Task = Task
    event_count = 0
    task_count = 0
    #: Events that the order by time remembers, per task.
    heap_multiplier = 4

    def __init__(
        self,
        callback: Callable[[State, Event], Any] | None = None,
        workers: Any = None,
        tasks: Any = None,
        taskheap: list[Any] | None = None,
        max_workers_in_memory: int = 5000,
        max_tasks_in_memory: int = 10000,
        on_node_join: Callable[[_OneWorker], Any] | None = None,
        on_node_leave: Callable[[_OneWorker], Any] | None = None,
        tasks_by_type: Mapping[str, Iterable[str]] | None = None,
        tasks_by_worker: Mapping[str, Iterable[str]] | None = None,
    ) -> None:
        self.event_callback = callback
        self.workers: Any = LRUCache(max_workers_in_memory) if workers is None else workers
        self.tasks: Any = LRUCache(max_tasks_in_memory) if tasks is None else tasks
        self._taskheap: list[Any] = [] if taskheap is None else taskheap
        self.max_workers_in_memory = max_workers_in_memory
        self.max_tasks_in_memory = max_tasks_in_memory
        self.on_node_join, self.on_node_leave = on_node_join, on_node_leave
        self._mutex = threading.Lock()
        #: Functions for events of other groups: called with what follows the group, and the event.
        self.handlers: dict[str, Callable[[str, Event], Any]] = {}
        self._seen_types: set[str] = set()
        self._tasks_to_resolve: Any = LRUCache(max_tasks_in_memory)
        self.rebuild_taskheap()
        self.tasks_by_type = CallableDefaultdict(self._tasks_by_type, WeakSet)
        self.tasks_by_type.update(_with_tasks(tasks_by_type, self.tasks))
        self.tasks_by_worker = CallableDefaultdict(self._tasks_by_worker, WeakSet)
        self.tasks_by_worker.update(_with_tasks(tasks_by_worker, self.tasks))

    # -- taking events in ----------------------------------------------------------------------------

    def event(self, event: Event) -> Any:
        """Take an event in: ``((worker or task, whether it is new), what happened)``."""
        with self._mutex:
            return self._event(event)

    def task_event(self, type_: str, fields: Event) -> Any:
        """Deprecated: use `event`."""
        return self._event(dict(fields, type=f"task-{type_}"))[0]

    def worker_event(self, type_: str, fields: Event) -> Any:
        """Deprecated: use `event`."""
        return self._event(dict(fields, type=f"worker-{type_}"))[0]

    def _event(self, event: Event) -> Any:
        self.event_count += 1
        if self.event_callback:
            self.event_callback(self, event)
        group, _, subject = event["type"].partition("-")
        if group in self.handlers:
            return self.handlers[group](subject, event), subject
        if group == "worker":
            return self._worker_event(subject, event)
        if group == "task":
            return self._task_event(subject, event)
        return None

    def _worker_event(self, subject: str, event: Event) -> Any:
        try:
            hostname, timestamp, received = event["hostname"], event["timestamp"], event["local_received"]
        except KeyError:
            return None  # Nobody knows whose it is.
        is_offline = subject == "offline"
        worker = self.workers.data.get(hostname)
        created = worker is None and not is_offline
        if worker is None:
            worker = self.Worker(hostname)
            if not is_offline:
                self.workers[hostname] = worker
        worker.event(subject, timestamp, received, event)
        if self.on_node_join and (created or subject == "online"):
            self.on_node_join(worker)
        if self.on_node_leave and is_offline:
            self.on_node_leave(worker)
            self.workers.pop(hostname, None)
        return (worker, created), subject

    def _task_event(self, subject: str, event: Event) -> Any:
        uuid, hostname, timestamp = event["uuid"], event["hostname"], event["timestamp"]
        received, clock = event["local_received"], event["clock"]
        task = self.tasks.data.get(uuid)
        created = task is None
        if task is None:
            task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        if subject == "sent":
            # The only one that comes from a client.
            task.client = origin = hostname
        else:
            origin = self._worker_of(task, hostname, timestamp, received).id
        self._remember(timetuple(clock, timestamp, origin, ref(task)))
        if subject == "received":
            self.task_count += 1
        task.event(subject, timestamp, received, event)
        self._index(task, hostname, created)
        return (task, created), subject

    def _worker_of(self, task: _OneTask, hostname: str, timestamp: float, received: float) -> _OneWorker:
        worker: _OneWorker | None = self.workers.data.get(hostname)
        if worker is None:
            worker = self.workers[hostname] = self.Worker(hostname)
        task.worker = worker
        if received:
            # As Celery: the two times are swapped here, so the worker is alive by its own clock.
            worker.event(None, received, timestamp)
        return worker

    def _remember(self, when: Any) -> None:
        heap = self._taskheap
        if len(heap) + 1 > self.max_tasks_in_memory * self.heap_multiplier:
            del heap[0]
        bisect.insort(heap, when)

    def _index(self, task: _OneTask, hostname: str, created: bool) -> None:
        if task.name is not None:
            self._seen_types.add(task.name)
            if created:
                self.tasks_by_type[task.name].add(task)
                self.tasks_by_worker[hostname].add(task)
        if task.parent_id:
            parent = self.tasks.data.get(task.parent_id)
            if parent is None:
                self._add_pending_task_child(task)
            else:
                parent.children.add(task)
        waiting = self._tasks_to_resolve.pop(task.uuid, None)
        if waiting is not None:
            task.children.update(waiting)

    def _add_pending_task_child(self, task: _OneTask) -> None:
        """The parent's own events have not come yet."""
        if task.parent_id not in self._tasks_to_resolve:
            self._tasks_to_resolve[task.parent_id] = WeakSet()
        self._tasks_to_resolve[task.parent_id].add(task)

    # -- the picture ---------------------------------------------------------------------------------

    def freeze_while(self, fun: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Call `fun` while no event comes in; with ``clear_after=True`` everything is forgotten then."""
        clear_after = kwargs.pop("clear_after", False)
        with self._mutex:
            try:
                return fun(*args, **kwargs)
            finally:
                if clear_after:
                    self._clear()

    def clear_tasks(self, ready: bool = True) -> None:
        """Forget the tasks; with `ready` those that are over."""
        with self._mutex:
            self._clear_tasks(ready)

    def _clear_tasks(self, ready: bool = True) -> None:
        left = {uuid: task for uuid, task in self.itertasks() if ready and not task.ready}
        self.tasks.clear()
        self.tasks.update(left)
        self._taskheap.clear()

    def clear(self, ready: bool = True) -> None:
        """Forget the workers, and the tasks as `clear_tasks` does."""
        with self._mutex:
            self._clear(ready)

    def _clear(self, ready: bool = True) -> None:
        self.workers.clear()
        self._clear_tasks(ready)
        self.event_count = self.task_count = 0

    def get_or_create_worker(self, hostname: str, **kwargs: Any) -> tuple[_OneWorker, bool]:
        """The worker of that name, and whether it is new."""
        if hostname in self.workers:
            worker = self.workers[hostname]
            worker.update(kwargs)
            return worker, False
        worker = self.workers[hostname] = self.Worker(hostname, **kwargs)
        return worker, True

    def get_or_create_task(self, uuid: str) -> tuple[_OneTask, bool]:
        """The task of that id, and whether it is new."""
        if uuid in self.tasks:
            return self.tasks[uuid], False
        task = self.tasks[uuid] = self.Task(uuid, cluster_state=self)
        return task, True

    def rebuild_taskheap(self) -> None:
        """Order the tasks by time again."""
        tasks = self.tasks.values()
        self._taskheap[:] = sorted(timetuple(t.clock, t.timestamp, t.origin, ref(t)) for t in tasks)

    def itertasks(self, limit: int | None = None) -> Iterator[tuple[str, _OneTask]]:
        """Ids and tasks, at most `limit`."""
        return islice(self.tasks.items(), limit or None)

    def tasks_by_time(self, limit: int | None = None, reverse: bool = True) -> Iterator[tuple[str, _OneTask]]:
        """Ids and tasks in the order of their last `limit` events, the latest first unless not `reverse`."""
        heap = reversed(self._taskheap) if reverse else self._taskheap
        seen: set[str | None] = set()
        for when in islice(heap, 0, limit):
            task = when[3]()
            if task is not None and task.uuid not in seen:
                seen.add(task.uuid)
                yield task.uuid, task

    tasks_by_timestamp = tasks_by_time

    def _tasks_by_type(
        self, name: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, _OneTask]]:
        ordered = self.tasks_by_time(reverse=reverse)
        return islice(((uuid, task) for uuid, task in ordered if task.name == name), 0, limit)

    def _tasks_by_worker(
        self, hostname: str, limit: int | None = None, reverse: bool = True
    ) -> Iterator[tuple[str, _OneTask]]:
        ordered = self.tasks_by_time(reverse=reverse)
        return islice(((uuid, task) for uuid, task in ordered if task.worker.hostname == hostname), 0, limit)

    def task_types(self) -> list[str]:
        """Names of the tasks of which something was heard."""
        return sorted(self._seen_types)

    def alive_workers(self) -> Iterator[_OneWorker]:
        """The workers that were heard of lately."""
        return (worker for worker in self.workers.values() if worker.alive)

    def __repr__(self) -> str:
        return R_STATE.format(self)

    def __reduce__(self) -> Any:
        return self.__class__, (
            self.event_callback,
            self.workers,
            self.tasks,
            None,
            self.max_workers_in_memory,
            self.max_tasks_in_memory,
            self.on_node_join,
            self.on_node_leave,
            _with_ids(self.tasks_by_type),
            _with_ids(self.tasks_by_worker),
        )


def _with_ids(index: Mapping[str, Iterable[_OneTask]]) -> dict[str, list[Any]]:
    return {name: [task.id for task in tasks] for name, tasks in index.items()}


def _with_tasks(index: Mapping[str, Iterable[str]] | None, tasks: Any) -> dict[str, WeakSet[_OneTask]]:
    return {name: WeakSet(tasks[one] for one in ids if one in tasks) for name, ids in (index or {}).items()}
