"""Stand-ins for messages, for unit tests of code that reads them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Any
from unittest.mock import Mock

from kombu.serialization import dumps

from celerylite.utils._ids import uuid

__all__ = ("ContextMock", "TaskMessage", "TaskMessage1", "task_message_from_sig")


def TaskMessage(
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    shadow: str | None = None,
    utc: bool | None = None,
    **options: Any,
) -> Any:
    """A message of protocol 2 that calls the task `name`; `options` are further headers."""
    message = _message(id)
    message.headers = {"id": message.task_id, "task": name, "shadow": shadow, **options}
    embed = {"callbacks": callbacks, "errbacks": errbacks, "chain": chain}
    message.payload = (args, kwargs or {}, embed)
    message.content_type, message.content_encoding, message.body = dumps(message.payload, serializer="json")
    return message


def TaskMessage1(
    name: str,
    id: str | None = None,
    args: Sequence[Any] = (),
    kwargs: Mapping[str, Any] | None = None,
    callbacks: Sequence[Any] | None = None,
    errbacks: Sequence[Any] | None = None,
    chain: Sequence[Any] | None = None,
    **options: Any,
) -> Any:
    """A message of protocol 1, which has everything in its body; `options` are further fields."""
    message = _message(id)
    message.headers = {}
    message.payload = {
        "task": name,
        "id": message.task_id,
        "args": args,
        "kwargs": kwargs or {},
        "callbacks": callbacks,
        "errbacks": errbacks,
        **options,
    }
    message.content_type, message.content_encoding, message.body = dumps(message.payload)
    return message


def _message(task_id: str | None) -> Any:
    task_id = task_id or uuid()
    message = Mock(name=f"TaskMessage-{task_id}")
    message.task_id = task_id
    return message


def task_message_from_sig(
    app: Any, sig: Any, utc: bool = True, TaskMessage: Callable[..., Any] = TaskMessage
) -> Any:
    """The message that sending `sig` would make. Takes its times and links out of the signature's options."""
    sig.freeze()
    options = sig.options
    links = {
        header: [dict(link) for link in options.pop(option, None) or ()] or None
        for header, option in (("callbacks", "link"), ("errbacks", "link_error"))
    }
    countdown, eta = options.pop("countdown", None), options.pop("eta", None)
    return TaskMessage(
        sig.task,
        id=sig.id,
        args=sig.args,
        kwargs=sig.kwargs,
        **links,
        eta=_timestamp(app, countdown or eta),
        expires=_timestamp(app, options.pop("expires", None)),
        utc=utc,
        **options,
    )


def _timestamp(app: Any, when: Any) -> Any:
    """ISO 8601 for a time, or for a number of seconds from now."""
    if isinstance(when, int | float) and when:
        when = app.now() + timedelta(seconds=when)
    return when.isoformat() if isinstance(when, datetime) else when


class _ContextMock(Mock):
    """A mock for `with`, which asks the class and not the object for these two."""

    def __enter__(self) -> Any:
        return self

    def __exit__(self, *exc_info: object) -> None:
        pass


def ContextMock(*args: Any, **kwargs: Any) -> Any:
    """A mock that can be used in a `with` statement, which gives the mock itself."""
    mock = _ContextMock(*args, **kwargs)
    mock.attach_mock(_ContextMock(return_value=mock), "__enter__")
    # Must be None: anything true would swallow the exceptions of the block.
    mock.attach_mock(_ContextMock(return_value=None), "__exit__")
    return mock
