"""The queues an app knows: which exist, and which of them a worker consumes from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any
from weakref import WeakValueDictionary

from kombu import Exchange, Queue

from celerylite.utils.functional import maybe_list
from celerylite.utils.text import indent as textindent

__all__ = ("Queues",)

_QUEUE_TYPES = ("classic", "quorum")


class Queues(dict[str, Any]):
    """Queue names mapped to kombu queues; an unknown name makes one unless `create_missing` is off.

    Without it an unknown name raises KeyError. Exchanges, bindings and queue arguments are kept as
    declared: they decide by which queue a message goes, no broker sees them.
    """

    __module__ = "celerylite.app.amqp"

    _consume_from: dict[str, Any] | None = None

    def __init__(
        self,
        queues: Any = None,
        default_exchange: Exchange | None = None,
        create_missing: bool = True,
        create_missing_queue_type: str | None = None,
        create_missing_queue_exchange_type: str | None = None,
        autoexchange: Callable[[str], Any] | None = None,
        max_priority: int | None = None,
        default_routing_key: str | None = None,
    ) -> None:
        super().__init__()
        self.aliases: WeakValueDictionary[str, Any] = WeakValueDictionary()
        self.default_exchange = default_exchange
        self.default_routing_key = default_routing_key
        self.create_missing = create_missing
        self.create_missing_queue_type = create_missing_queue_type
        self.create_missing_queue_exchange_type = create_missing_queue_exchange_type
        self.autoexchange: Callable[[str], Any] = autoexchange or Exchange
        self.max_priority = max_priority
        named: Mapping[str, Any] = (
            queues if isinstance(queues, Mapping) else {queue.name: queue for queue in queues or ()}
        )
        for name, queue in named.items():
            if isinstance(queue, Queue):
                self.add(queue)
            else:
                self.add_compat(name, **queue)
        self._default_consume_from = dict(self)

    def __getitem__(self, name: str) -> Any:
        alias = self.aliases.get(name)
        return super().__getitem__(name) if alias is None else alias

    def __setitem__(self, name: str, queue: Any) -> None:
        if self.default_exchange and not queue.exchange:
            queue.exchange = self.default_exchange
        if not queue.routing_key:
            queue.routing_key = self.default_routing_key
        if self.max_priority is not None:
            queue.queue_arguments = {"x-max-priority": self.max_priority, **(queue.queue_arguments or {})}
        super().__setitem__(name, queue)
        if queue.alias:
            self.aliases[queue.alias] = queue

    def __missing__(self, name: str) -> Any:
        if not self.create_missing:
            raise KeyError(name)
        return self.add(self.new_missing(name))

    def add(self, queue: Any, **kwargs: Any) -> Any:
        """Add a kombu queue, or one made from a name and the options of its declaration."""
        if not isinstance(queue, Queue):
            return self.add_compat(queue, **kwargs)
        return self._add(queue)

    def add_compat(self, name: str, **options: Any) -> Any:
        """Add a queue described by plain options; the routing key defaults to the name."""
        key = options.get("routing_key") or options.get("binding_key") or name
        return self._add(Queue.from_dict(name, **{**options, "routing_key": key}))

    def _add(self, queue: Any) -> Any:
        if self.default_exchange and (queue.exchange is None or queue.exchange.name == ""):
            queue.exchange = self.default_exchange
        self[queue.name] = queue
        return queue

    def format(self, indent: int = 0, indent_first: bool = True) -> str:
        """The queues consumed from, one per line, for the start banner."""
        rows = [
            f".> {q.name:<16} exchange={q.exchange.name}({q.exchange.type}) key={q.routing_key}"
            for _, q in sorted(self.consume_from.items())
        ]
        if not rows:
            return ""
        if indent_first:
            return textindent("\n".join(rows), indent)
        return "\n".join([rows[0], textindent("\n".join(rows[1:]), indent)])

    def select_add(self, queue: Any, **kwargs: Any) -> Any:
        """Add a queue and consume from it, also when only a subset was selected."""
        added = self.add(queue, **kwargs)
        self.consume_from[added.name] = added
        return added

    def select(self, include: Any) -> None:
        """Consume only from the queues named in `include`."""
        if include:
            chosen = (self[name] for name in maybe_list(include) or [])
            self._consume_from = {queue.name: queue for queue in chosen}

    def deselect(self, exclude: Any) -> None:
        """Do not consume from the queues named in `exclude`."""
        for name in maybe_list(exclude) or []:
            alias = self.aliases.get(name)
            self.consume_from.pop(name if alias is None else alias.name, None)

    def new_missing(self, name: str) -> Any:
        """The declaration of a queue that is only known by its name."""
        kind = self.create_missing_queue_type
        if kind and kind not in _QUEUE_TYPES:
            raise ValueError(f"Invalid queue type '{kind}'. Valid types are 'classic' and 'quorum'.")
        arguments = {"x-queue-type": kind} if kind == "quorum" else None
        if self.create_missing_queue_exchange_type:
            exchange = Exchange(name, self.create_missing_queue_exchange_type)
        else:
            exchange = self.autoexchange(name)
        return Queue(name, exchange, name, queue_arguments=arguments)

    @property
    def consume_from(self) -> dict[str, Any]:
        """The queues a worker of this app takes messages from."""
        return self._default_consume_from if self._consume_from is None else self._consume_from
