"""How a call becomes a message: protocol headers, queues and routes, publish signals."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from kombu import Connection, Consumer, Exchange, Producer, Queue
from kombu.serialization import prepare_accept_content

from celerylite import _message, signals
from celerylite._message import Message
from celerylite._once import computed_once
from celerylite.app import routes as _routes
from celerylite.app._queues import Queues
from celerylite.utils.nodenames import anon_nodename
from celerylite.utils.saferepr import plainrepr, saferepr
from celerylite.utils.time import maybe_make_aware

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("AMQP", "Queues", "task_message")

#: Shortest sensible number of seconds, as Celery's brokers take it.
_INT_MIN = -2147483648


class task_message(NamedTuple):
    """The parts of a message before it is serialised."""

    headers: dict[str, Any]
    properties: dict[str, Any]
    body: Any
    sent_event: dict[str, Any] | None


class AMQP:
    """``app.amqp``: makes messages, knows queues and routes. Named as in Celery; no broker is behind it."""

    Connection = Connection
    Consumer = Consumer
    Producer = Producer
    BrokerConnection = Connection
    queues_cls = Queues

    #: Makes the exchange of a queue that is only known by name.
    autoexchange: Any = None
    #: Longest representation of arguments in logs and events, in characters.
    argsrepr_maxsize = 1024
    kwargsrepr_maxsize = 1024

    _rtable: Any = None
    #: The setting ``accept_content`` and what kombu makes of it.
    _accept: tuple[Any, Any] = (None, None)

    def __init__(self, app: Celery) -> None:
        self.app = app
        self.task_protocols = {1: self.as_task_v2, 2: self.as_task_v2}
        app._conf.bind_to(self._handle_conf_update)

    # -- queues and routes ---------------------------------------------------------------------------

    def Queues(
        self,
        queues: Any,
        create_missing: bool | None = None,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Any = None,
        max_priority: int | None = None,
    ) -> Any:
        """The table of `queues`; what is not given comes from the configuration."""
        conf = self.app.conf
        if not queues and conf.task_default_queue:
            quorum = conf.task_default_queue_type == "quorum"
            queues = (
                Queue(
                    conf.task_default_queue,
                    exchange=self.default_exchange,
                    routing_key=conf.task_default_routing_key,
                    queue_arguments={"x-queue-type": "quorum"} if quorum else None,
                ),
            )
        return self.queues_cls(
            queues,
            default_exchange=self.default_exchange,
            create_missing=_first(create_missing, conf.task_create_missing_queues),
            create_missing_queue_type=_first(create_missing_queue_type, conf.task_create_missing_queue_type),
            create_missing_queue_exchange_type=_first(
                create_missing_queue_exchange_type, conf.task_create_missing_queue_exchange_type
            ),
            autoexchange=_first(autoexchange, self.autoexchange),
            max_priority=_first(max_priority, conf.task_queue_max_priority),
            default_routing_key=conf.task_default_routing_key,
        )

    def Router(self, queues: Any = None, create_missing: bool | None = None) -> _routes.Router:
        """A router over the configured routes."""
        return _routes.Router(
            self.routes,
            queues or self.queues,
            self.app.either("task_create_missing_queues", create_missing),
            app=self.app,
        )

    def flush_routes(self) -> None:
        """Read the setting ``task_routes`` again."""
        self._rtable = _routes.prepare(self.app.conf.task_routes)

    @computed_once
    def queues(self) -> Any:
        """The queues of this app by name."""
        return self.Queues(self.app.conf.task_queues)

    @property
    def routes(self) -> Any:
        """The routing table."""
        if self._rtable is None:
            self.flush_routes()
        return self._rtable

    @computed_once
    def router(self) -> _routes.Router:
        """The router that calls go through unless they bring their own."""
        return self.Router()

    @computed_once
    def default_queue(self) -> Any:
        """Where calls without a route go."""
        return self.queues[self.app.conf.task_default_queue]

    @computed_once
    def default_exchange(self) -> Exchange:
        """The exchange of queues that name none."""
        return Exchange(self.app.conf.task_default_exchange, self.app.conf.task_default_exchange_type)

    @property
    def accept_content(self) -> Any:
        """The content types that bodies of messages may have, from the setting of that name."""
        wanted = tuple(self.app.conf.accept_content)
        if self._accept[0] != wanted:
            self._accept = (wanted, prepare_accept_content(wanted))
        return self._accept[1]

    @computed_once
    def utc(self) -> bool:
        """Whether dates in messages are in UTC."""
        return bool(self.app.conf.enable_utc)

    def _handle_conf_update(self, *args: Any, **kwargs: Any) -> None:
        keys = self.app.conf._to_keys("task_routes")
        if any(key in kwargs or (args and key in args[0]) for key in keys):
            self.flush_routes()
            self.router = self.Router()

    # -- making a message ----------------------------------------------------------------------------

    @computed_once
    def create_task_message(self) -> Any:
        """`as_task_v2`; protocol 1 is written as protocol 2 too, both are understood by any reader here."""
        return self.task_protocols[self.app.conf.task_protocol]

    def as_task_v2(
        self,
        task_id: str,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: Any = None,
        group_id: str | None = None,
        group_index: int | None = None,
        expires: Any = None,
        retries: int = 0,
        chord: Any = None,
        callbacks: Any = None,
        errbacks: Any = None,
        reply_to: str | None = None,
        time_limit: float | None = None,
        soft_time_limit: float | None = None,
        create_sent_event: bool = False,
        root_id: str | None = None,
        parent_id: str | None = None,
        shadow: str | None = None,
        chain: Any = None,
        now: datetime | None = None,
        timezone: Any = None,
        origin: str | None = None,
        ignore_result: bool | None = False,
        argsrepr: str | None = None,
        kwargsrepr: str | None = None,
        stamped_headers: Any = None,
        replaced_task_nesting: int = 0,
        **options: Any,
    ) -> task_message:
        """The message of one call in Celery's protocol 2.

        Raises TypeError for arguments that are no list or mapping, ValueError for times out of range.
        """
        args, kwargs = _checked_arguments(args, kwargs)
        if countdown:
            eta = self._moment_after(countdown, "countdown", now, timezone)
        if isinstance(expires, int | float):
            expires = self._moment_after(expires, "expires", now, timezone)
        eta, expires = _iso(eta), _iso(expires)
        if argsrepr is None:
            argsrepr = self._shown(args, self.argsrepr_maxsize)
        if kwargsrepr is None:
            kwargsrepr = self._shown(kwargs, self.kwargsrepr_maxsize)
        root_id = root_id or task_id
        headers = {
            "lang": "py",
            "task": name,
            "id": task_id,
            "shadow": shadow,
            "eta": eta,
            "expires": expires,
            "group": group_id,
            "group_index": group_index,
            "retries": retries,
            "timelimit": [time_limit, soft_time_limit],
            "root_id": root_id,
            "parent_id": parent_id,
            "argsrepr": argsrepr,
            "kwargsrepr": kwargsrepr,
            "origin": origin or anon_nodename(),
            "ignore_result": ignore_result,
            "replaced_task_nesting": replaced_task_nesting,
            "stamped_headers": stamped_headers,
            "stamps": {header: options[header] for header in stamped_headers or []},
        }
        sent_event = _sent_event(headers) if create_sent_event else None
        embed = {"callbacks": callbacks, "errbacks": errbacks, "chain": chain, "chord": chord}
        properties = {"correlation_id": task_id, "reply_to": reply_to or ""}
        return task_message(headers, properties, (args, kwargs, embed), sent_event)

    def _shown(self, value: Any, maxlen: int) -> str:
        plain = plainrepr(value, maxlen)
        return plain or saferepr(value, maxlen, maxlevels=self.app.conf.task_repr_maxlevels)

    def _moment_after(self, seconds: float, what: str, now: datetime | None, zone: Any) -> datetime:
        if seconds < _INT_MIN:
            raise ValueError(f"{what} is out of range: {seconds!r}")
        moment = (now or self.app.now()) + timedelta(seconds=seconds)
        aware: datetime = maybe_make_aware(moment, tz=zone or self.app.timezone)
        return aware

    # -- sending it ----------------------------------------------------------------------------------

    def send_task_message(
        self,
        producer: Any,
        name: str,
        message: task_message,
        exchange: Any = None,
        routing_key: str | None = None,
        queue: Any = None,
        event_dispatcher: Any = None,
        retry: bool | None = None,
        retry_policy: Mapping[str, Any] | None = None,
        serializer: str | None = None,
        delivery_mode: Any = None,
        compression: str | None = None,
        declare: Any = None,
        headers: Mapping[str, Any] | None = None,
        exchange_type: str | None = None,
        timeout: float | None = None,
        confirm_timeout: float | None = None,
        connection: Any = None,
        **properties: Any,
    ) -> str | None:
        """Publish `message`, between the two publish signals. Returns when it is committed.

        A duplicate is not published: returns the id of the task that holds its key.

        Handlers of ``before_task_publish`` may change headers and properties in place: what they leave
        is what is sent. Raises kombu's EncodeError and OperationalError.
        """
        conf = self.app.conf
        message.headers.update(headers or {})
        message.properties.update(properties)
        qname, queue = self._resolve_queue(queue, exchange)
        exchange, routing_key = self._resolve_address(exchange, routing_key, queue, qname, exchange_type)
        if signals.before_task_publish.receivers:
            signals.before_task_publish.send(
                sender=name,
                body=message.body,
                exchange=exchange,
                routing_key=routing_key,
                declare=declare if declare is not None or not queue else [queue],
                headers=message.headers,
                properties=message.properties,
                retry_policy={**conf.task_publish_retry_policy, **(retry_policy or {})},
            )
        record = self._record(
            message,
            name,
            queue_name=qname or self._queue_bound_to(exchange, routing_key),
            address=(exchange, routing_key),
            serializer=serializer or conf.task_serializer,
            compression=compression or conf.task_compression,
        )
        holder = self.app._publish(record, connection)
        if holder is None:
            self._announce_sent(name, message, record, exchange, routing_key)
        return holder

    def _resolve_queue(self, queue: Any, exchange: Any) -> tuple[str | None, Any]:
        if queue is None and exchange is None:
            queue = self.default_queue
        if queue is None:
            return None, None
        if isinstance(queue, str):
            return queue, self.queues[queue]
        return queue.name, queue

    def _resolve_address(
        self, exchange: Any, routing_key: str | None, queue: Any, qname: str | None, exchange_type: str | None
    ) -> tuple[str, str]:
        kind = exchange_type or getattr(getattr(queue, "exchange", None), "type", None) or "direct"
        if qname is not None and (not exchange or not routing_key) and kind == "direct":
            return "", qname
        if exchange is None:
            exchange = queue.exchange.name or self.default_exchange.name
            routing_key = routing_key or queue.routing_key or self.app.conf.task_default_routing_key
        name = exchange.name if isinstance(exchange, Exchange) else exchange
        return name, routing_key or self.app.conf.task_default_routing_key

    def _queue_bound_to(self, exchange: str, routing_key: str) -> str:
        """The queue in which a message sent to an exchange lands: the one bound so, else the key itself."""
        for queue in self.queues.values():
            if queue.exchange and queue.exchange.name == exchange and queue.routing_key == routing_key:
                return str(queue.name)
        return routing_key

    def _record(
        self,
        message: task_message,
        name: str,
        *,
        queue_name: str,
        address: tuple[str, str],
        serializer: str,
        compression: str | None,
    ) -> Message:
        headers, properties = message.headers, message.properties
        content_type, encoding, data, packed = _message.encode_body(message.body, serializer, compression)
        if packed:
            headers["compression"] = packed
        priority = properties.get("priority")
        properties["priority"] = priority = 0 if priority is None else int(priority)
        properties["delivery_info"] = {"exchange": address[0], "routing_key": address[1]}
        zone = self.app.timezone
        return Message(
            id=headers["id"],
            name=name,
            queue=queue_name,
            headers=headers,
            properties=properties,
            body=data,
            content_type=content_type,
            content_encoding=encoding,
            priority=priority,
            due_at=_message.epoch(headers.get("eta"), zone, "eta"),
            expires_at=_message.epoch(headers.get("expires"), zone, "expires"),
        )

    def _announce_sent(
        self, name: str, message: task_message, record: Message, exchange: str, routing_key: str
    ) -> None:
        if signals.after_task_publish.receivers:
            signals.after_task_publish.send(
                sender=name,
                body=message.body,
                headers=message.headers,
                exchange=exchange,
                routing_key=routing_key,
            )
        if message.sent_event is not None:
            message.sent_event.update(queue=record.queue, exchange=exchange, routing_key=routing_key)
            self.app.events.announce("task-sent", message.sent_event)


def _first(*values: Any) -> Any:
    return next((value for value in values if value is not None), None)


def _iso(moment: Any) -> str | None:
    # A retried call brings dates that are text already.
    return moment if moment is None or isinstance(moment, str) else moment.isoformat()


def _checked_arguments(args: Any, kwargs: Any) -> tuple[Iterable[Any], Mapping[str, Any]]:
    args, kwargs = args or (), kwargs or {}
    if not isinstance(args, list | tuple):
        raise TypeError("task args must be a list or tuple")
    if not isinstance(kwargs, Mapping):
        raise TypeError("task keyword arguments must be a mapping")
    return args, kwargs


def _sent_event(headers: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "uuid": headers["id"],
        "root_id": headers["root_id"],
        "parent_id": headers["parent_id"],
        "name": headers["task"],
        "args": headers["argsrepr"],
        "kwargs": headers["kwargsrepr"],
        "retries": headers["retries"],
        "eta": headers["eta"],
        "expires": headers["expires"],
    }
