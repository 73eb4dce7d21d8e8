"""Where messages wait that must leave together with the outcome of the task that sends them."""

from __future__ import annotations

from contextvars import ContextVar, Token
from types import TracebackType

from celerylite._message import Message

__all__ = ("Outbox", "current_outbox")

_current: ContextVar[Outbox | None] = ContextVar("celerylite_outbox", default=None)


class Outbox:
    """Collects what is published inside its ``with`` block instead of letting it be committed.

    Whoever opened the block publishes `messages`, in one transaction with whatever they belong to.
    Belongs to one context (thread or coroutine); blocks may be nested, the inner one collects.
    """

    __slots__ = ("_tokens", "messages")

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self._tokens: list[Token[Outbox | None]] = []

    def __enter__(self) -> Outbox:
        self._tokens.append(_current.set(self))
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        _current.reset(self._tokens.pop())

    def put(self, message: Message) -> None:
        """Keep `message` until the owner of the block publishes it."""
        self.messages.append(message)


def current_outbox() -> Outbox | None:
    """The outbox that collects in this context, or None when messages go out at once."""
    return _current.get()
