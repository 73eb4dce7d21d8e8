"""Remote control of the processes that run tasks, through the database that all of them share."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from kombu.matcher import match
from kombu.utils.functional import lazy
from kombu.utils.objects import cached_property

from celerylite.app import _broadcast
from celerylite.exceptions import DuplicateNodenameWarning, ImproperlyConfigured
from celerylite.utils.text import pluralize

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Control", "Inspect", "flatten_reply")

#: The signal that ends a task when `terminate` names none.
TERM_SIGNAME = "SIGTERM"

W_DUPNODE = """\
Received multiple replies from node {0}: {1}.
Please make sure you give each node a unique nodename using
the celery worker `-n` option.\
"""

Destination = Iterable[str] | str | None
Reply = Any


def flatten_reply(reply: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """One mapping of node names to replies, out of a list of such mappings; warns if a name comes twice."""
    nodes: dict[str, Any] = {}
    twice: set[str] = set()
    for item in reply:
        twice.update(name for name in item if name in nodes)
        nodes.update(item)
    if twice:
        text = W_DUPNODE.format(pluralize(len(twice), "name"), ", ".join(sorted(twice)))
        warnings.warn(DuplicateNodenameWarning(text), stacklevel=2)
    return nodes


class Inspect:
    """Asks processes what they do. Each method returns node names with their replies, or None for no reply.

    With `destination` as a single name, just that node's reply. `silent` names those that are alive and
    did not answer the last question in time.
    """

    app: Any = None

    def __init__(
        self,
        destination: Destination = None,
        timeout: float | None = 1.0,
        callback: Callable[[Any], Any] | None = None,
        connection: Any = None,
        app: Celery | None = None,
        limit: int | None = None,
        pattern: str | None = None,
        matcher: str | None = None,
    ) -> None:
        self.app = app or self.app
        self.destination = destination
        self.timeout = timeout
        self.callback = callback
        self.connection = connection
        self.limit = limit
        self.pattern = pattern
        self.matcher = matcher
        self.silent: tuple[str, ...] = ()

    def _prepare(self, reply: Any) -> Reply:
        if not reply:
            return None
        by_node = flatten_reply(reply)
        if self.destination and not isinstance(self.destination, list | tuple):
            return by_node.get(str(self.destination))
        if self.pattern:
            # kombu says bytes and means texts.
            pattern: Any = self.pattern
            matcher: Any = self.matcher
            return {node: one for node, one in by_node.items() if match(node, pattern, matcher)}  # type: ignore[arg-type]
        return by_node

    def _request(self, command: str, **kwargs: Any) -> Reply:
        replies = self.app.control.broadcast(
            command,
            arguments=kwargs,
            destination=self.destination,
            callback=self.callback,
            connection=self.connection,
            limit=self.limit,
            timeout=self.timeout,
            reply=True,
            pattern=self.pattern,
            matcher=self.matcher,
        )
        self.silent = getattr(replies, "silent", ())
        return self._prepare(replies)

    def report(self) -> Reply:
        """What a bug report needs: ``{'ok': text}``."""
        return self._request("report")

    def clock(self) -> Reply:
        """The logical clock: ``{'clock': number}``."""
        return self._request("clock")

    def active(self, safe: bool | None = None) -> Reply:
        """A description of each call that is being run; with `safe`, arguments as texts."""
        return self._request("active", safe=safe)

    def scheduled(self, safe: bool | None = None) -> Reply:
        """Each call that waits for its time: ``{'eta': text, 'priority': 6, 'request': description}``."""
        return self._request("scheduled")

    def reserved(self, safe: bool | None = None) -> Reply:
        """A description of each call that a process has claimed and not begun."""
        return self._request("reserved")

    def stats(self) -> Reply:
        """Numbers about the process: total, pid, clock, uptime, pool, broker, prefetch_count, rusage."""
        return self._request("stats")

    def revoked(self) -> Reply:
        """Ids that were revoked."""
        return self._request("revoked")

    def registered(self, *taskinfoitems: str) -> Reply:
        """Names of the tasks, each with those of the attributes that it has."""
        return self._request("registered", taskinfoitems=taskinfoitems)

    registered_tasks = registered

    def ping(self, destination: Destination = None) -> Reply:
        """Whether it is alive: ``{'ok': 'pong'}``."""
        if destination:
            self.destination = destination
        return self._request("ping")

    def active_queues(self) -> Reply:
        """Each queue that tasks are taken from, as a dictionary."""
        return self._request("active_queues")

    def query_task(self, *ids: Any) -> Reply:
        """State and description of those of the ids that it knows: ``{id: [state, description]}``."""
        if len(ids) == 1 and isinstance(ids[0], list | tuple):
            # As Celery: one list of ids is taken too.
            ids = ids[0]  # type: ignore[assignment]
        return self._request("query_task", ids=ids)

    def conf(self, with_defaults: bool = False) -> Reply:
        """Its settings, secrets left out."""
        return self._request("conf", with_defaults=with_defaults)

    def hello(self, from_node: str, revoked: Any = None) -> Reply:
        """What workers of Celery say to each other at start."""
        return self._request("hello", from_node=from_node, revoked=revoked)

    def memsample(self) -> Reply:
        """How much memory it uses; needs psutil."""
        return self._request("memsample")

    def memdump(self, samples: int = 10) -> Reply:
        """What `memsample` found before; needs psutil."""
        return self._request("memdump", samples=samples)

    def objgraph(self, type: str = "Request", n: int = 200, max_depth: int = 10) -> Reply:
        """A picture of who refers to objects of a type; needs objgraph."""
        return self._request("objgraph", num=n, max_depth=max_depth, type=type)


class Control:
    """``app.control``. What revokes, pauses and purges is durable; the rest reaches who is alive."""

    Mailbox = _broadcast.Mailbox

    def __init__(self, app: Any = None) -> None:
        self.app = app
        conf: Any = self.app.conf
        if conf.control_queue_durable and conf.control_queue_exclusive:
            # As Celery: the sentence users match.
            raise ImproperlyConfigured(
                "control_queue_durable and control_queue_exclusive cannot both be True "
                "(exclusive queues are automatically deleted and cannot be durable)."
            )
        mailbox: Any = self.Mailbox
        self.mailbox = mailbox(
            conf.control_exchange,
            type="fanout",
            accept=conf.accept_content,
            serializer=conf.task_serializer,
            producer_pool=lazy(lambda: self.app.amqp.producer_pool),
            queue_ttl=conf.control_queue_ttl,
            reply_queue_ttl=conf.control_queue_ttl,
            queue_expires=conf.control_queue_expires,
            queue_exclusive=conf.control_queue_exclusive,
            queue_durable=conf.control_queue_durable,
            reply_queue_expires=conf.control_queue_expires,
        )
        self.mailbox.app = self.app

    def _after_fork(self) -> None:
        del self.mailbox.producer_pool

    @cached_property
    def inspect(self) -> Any:
        """The class that asks processes what they do, for this app."""
        return self.app.subclass_with_self(Inspect, reverse="control.inspect")

    def purge(self, connection: Any = None) -> int:
        """Delete every call that waits, also those with an eta; the number deleted. May block."""
        purged: int = self.app.store.purge()
        return purged

    discard_all = purge

    def election(self, id: str, topic: str, action: Any = None, connection: Any = None) -> None:
        """Nothing is elected here: the database decides who does what."""
        self.broadcast(
            "election",
            connection=connection,
            destination=None,
            arguments={"id": id, "topic": topic, "action": action},
        )

    def revoke(
        self,
        task_id: str | Iterable[str],
        destination: Destination = None,
        terminate: bool = False,
        signal: Any = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Reply:
        """Keep calls from being run, in every process, also ones not sent yet. Returns when it is stored.

        With `terminate`, calls that run are ended as well: coroutines are cancelled, threads interrupted
        as far as Python can, child processes get `signal`, and the outcome is REVOKED. `destination` chooses
        who ends running ones; that the ids are revoked holds for all.
        """
        return self.broadcast(
            "revoke",
            destination=destination,
            arguments={"task_id": task_id, "terminate": terminate, "signal": signal},
            **kwargs,
        )

    def revoke_by_stamped_headers(
        self,
        headers: Mapping[str, Any],
        destination: Destination = None,
        terminate: bool = False,
        signal: Any = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Reply:
        """As `revoke`, for calls with one of these stamps: ``{header: value or values}``."""
        return self.broadcast(
            "revoke_by_stamped_headers",
            destination=destination,
            arguments={"headers": headers, "terminate": terminate, "signal": signal},
            **kwargs,
        )

    def terminate(
        self,
        task_id: str | Iterable[str],
        destination: Destination = None,
        signal: Any = TERM_SIGNAME,
        **kwargs: Any,
    ) -> Reply:
        """`revoke` with ``terminate=True``."""
        return self.revoke(task_id, destination=destination, terminate=True, signal=signal, **kwargs)

    def ping(self, destination: Destination = None, timeout: float | None = 1.0, **kwargs: Any) -> Reply:
        """Who is alive: a list of ``{node: {'ok': 'pong'}}``."""
        return self.broadcast(
            "ping", reply=True, arguments={}, destination=destination, timeout=timeout, **kwargs
        )

    def rate_limit(
        self, task_name: str, rate_limit: Any, destination: Destination = None, **kwargs: Any
    ) -> Reply:
        """Set how often a task may start in each process that lives now, such as ``'100/m'``."""
        return self.broadcast(
            "rate_limit",
            destination=destination,
            arguments={"task_name": task_name, "rate_limit": rate_limit},
            **kwargs,
        )

    def add_consumer(
        self,
        queue: str,
        exchange: Any = None,
        exchange_type: str = "direct",
        routing_key: str | None = None,
        options: Mapping[str, Any] | None = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Reply:
        """Have processes that live now take from `queue`; without `destination`, end a pause of it too."""
        arguments = {
            "queue": queue,
            "exchange": exchange,
            "exchange_type": exchange_type,
            "routing_key": routing_key,
            **(options or {}),
        }
        return self.broadcast("add_consumer", destination=destination, arguments=arguments, **kwargs)

    def cancel_consumer(self, queue: str, destination: Destination = None, **kwargs: Any) -> Reply:
        """Have processes that live now take no more from `queue`. See `pause_queue` for what lasts."""
        return self.broadcast(
            "cancel_consumer", destination=destination, arguments={"queue": queue}, **kwargs
        )

    def time_limit(
        self,
        task_name: str,
        soft: float | None = None,
        hard: float | None = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Reply:
        """Set the time limits of a task (seconds) in each process that lives now."""
        return self.broadcast(
            "time_limit",
            arguments={"task_name": task_name, "hard": hard, "soft": soft},
            destination=destination,
            **kwargs,
        )

    def enable_events(self, destination: Destination = None, **kwargs: Any) -> Reply:
        """Have processes that live now send events about tasks."""
        return self.broadcast("enable_events", arguments={}, destination=destination, **kwargs)

    def disable_events(self, destination: Destination = None, **kwargs: Any) -> Reply:
        """Have them stop that."""
        return self.broadcast("disable_events", arguments={}, destination=destination, **kwargs)

    def pool_grow(self, n: int = 1, destination: Destination = None, **kwargs: Any) -> Reply:
        """Have processes run `n` more plain functions at once."""
        return self.broadcast("pool_grow", arguments={"n": n}, destination=destination, **kwargs)

    def pool_shrink(self, n: int = 1, destination: Destination = None, **kwargs: Any) -> Reply:
        """Have processes run `n` fewer plain functions at once."""
        return self.broadcast("pool_shrink", arguments={"n": n}, destination=destination, **kwargs)

    def autoscale(self, max: int, min: int, destination: Destination = None, **kwargs: Any) -> Reply:
        """Change the bounds of workers that were started with ``--autoscale``."""
        return self.broadcast(
            "autoscale", arguments={"max": max, "min": min}, destination=destination, **kwargs
        )

    def shutdown(self, destination: Destination = None, **kwargs: Any) -> Reply:
        """Have workers end, and other programs stop running tasks, when what runs has ended."""
        return self.broadcast("shutdown", arguments={}, destination=destination, **kwargs)

    def pool_restart(
        self,
        modules: Any = None,
        reload: bool = False,
        reloader: Any = None,
        destination: Destination = None,
        **kwargs: Any,
    ) -> Reply:
        """Have workers import task modules anew, where the setting ``worker_pool_restarts`` is on."""
        return self.broadcast(
            "pool_restart",
            arguments={"modules": modules, "reload": reload, "reloader": reloader},
            destination=destination,
            **kwargs,
        )

    def heartbeat(self, destination: Destination = None, **kwargs: Any) -> Reply:
        """Have processes send a heartbeat event now."""
        return self.broadcast("heartbeat", arguments={}, destination=destination, **kwargs)

    def broadcast(
        self,
        command: str,
        arguments: Mapping[str, Any] | None = None,
        destination: Destination = None,
        connection: Any = None,
        reply: bool = False,
        timeout: float | None = 1.0,
        limit: int | None = None,
        callback: Callable[[Any], Any] | None = None,
        channel: Any = None,
        pattern: str | None = None,
        matcher: str | None = None,
        **extra_kwargs: Any,
    ) -> Reply:
        """Send a command to every process that runs tasks, or to those that `destination` or `pattern` mean.

        With `reply`, returns the list of ``{node: reply}`` as soon as every live process that is meant has
        answered, or `limit` of them, at the latest after `timeout` seconds; `callback` is called with each.
        A live process that did not answer is named in a warning, and in the list's attribute ``silent``.
        """
        given = {**(arguments or {}), **extra_kwargs}
        options = {"pattern": pattern, "matcher": matcher} if pattern and matcher else {}
        return self.mailbox(connection)._broadcast(
            command, given, destination, reply, timeout, limit, callback, channel=channel, **options
        )

    # -- ours ----------------------------------------------------------------------------------------

    def retry_task(self, task_id: str, timeout: float | None = 1.0) -> Any:
        """Send a call that has ended once more, with its own arguments and id; its AsyncResult.

        The history keeps the runs before. What followed the call follows it again. If the call was
        revoked it is not any more. Raises LookupError for a call of which the history (setting
        ``celerylite_history``) knows nothing, and ValueError for one that has not ended.
        """
        _broadcast.send_again(self.app, task_id, timeout)
        return self.app.AsyncResult(task_id)

    def pause_queue(self, queue: str, timeout: float | None = 1.0) -> None:
        """Have no process take from `queue` until `resume_queue`, also none that starts later. Durable.

        Returns when every live process has obeyed, at the latest after `timeout` seconds.
        """
        _broadcast.tell_of_pause(self.app, queue, paused=True)
        self.broadcast("cancel_consumer", {"queue": queue}, reply=True, timeout=timeout)

    def resume_queue(self, queue: str) -> None:
        """End a pause of `queue`. Durable."""
        _broadcast.tell_of_pause(self.app, queue, paused=False)

    def paused_queues(self) -> set[str]:
        """The queues that are paused for all processes."""
        return _broadcast.paused_queues(self.app)
