"""The request context: what a running task knows about the call it is executing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ("DELIVERY_OF_EXECUTION", "Context", "actual_ignore_result")

#: Where the request of a running call keeps the delivery that it runs.
DELIVERY_OF_EXECUTION = "_celerylite_delivery"

#: Headers that describe the delivery itself and are no custom headers of a user.
_PROTOCOL_HEADERS = frozenset({"lang", "task", "argsrepr", "kwargsrepr", "compression"})

#: Broker bookkeeping that must not travel into a retry.
_DEAD_LETTER_HEADERS = frozenset(
    {
        "x-death",
        "x-first-death-exchange",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-last-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
    }
)


class Context:
    """``Task.request``: the fields of the call, with Celery's defaults for what the call did not say.

    Plain attributes: code may hang its own on it and read them in a later hook.
    """

    __module__ = "celerylite.app.task"

    _children: list[Any] | None = None
    _protected = 0
    args: Any = None
    callbacks: Any = None
    called_directly = True
    chain: Any = None
    chord: Any = None
    correlation_id: str | None = None
    delivery_info: dict[str, Any] | None = None
    errbacks: Any = None
    eta: str | None = None
    expires: Any = None
    group: str | None = None
    group_index: int | None = None
    headers: dict[str, Any] | None = None
    hostname: str | None = None
    id: str | None = None
    ignore_result: bool | None = False
    is_eager = False
    kwargs: Any = None
    logfile: str | None = None
    loglevel: int | None = None
    origin: str | None = None
    parent_id: str | None = None
    properties: dict[str, Any] | None = None
    retries = 0
    reply_to: str | None = None
    replaced_task_nesting = 0
    root_id: str | None = None
    shadow: str | None = None
    taskset: str | None = None
    timelimit: Any = None
    time_limit: float | None = None
    soft_time_limit: float | None = None
    utc: bool | None = None
    stamped_headers: list[str] | None = None
    stamps: dict[str, Any] | None = None

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.update(*args, **kwargs)
        if self.headers is None:
            self.headers = self._custom_headers()

    def _custom_headers(self) -> dict[str, Any] | None:
        return {key: value for key, value in self.__dict__.items() if key not in _OWN_NAMES} or None

    def update(self, *args: Any, **kwargs: Any) -> None:
        """Set fields as `dict.update` takes them; ``timelimit`` also sets both limits by name."""
        before = self.__dict__.get("timelimit", _UNSET)
        self.__dict__.update(*args, **kwargs)
        limits = self.__dict__.get("timelimit", _UNSET)
        if limits is before:
            return  # No new limits came with this update.
        if isinstance(limits, list | tuple) and len(limits) > 1:
            self.time_limit, self.soft_time_limit = limits[0], limits[1]
        else:
            self.time_limit = self.soft_time_limit = None

    def clear(self) -> None:
        """Forget every field that was set."""
        self.__dict__.clear()

    def get(self, key: str, default: Any = None) -> Any:
        """The field `key`, or `default` when the call does not carry it."""
        return getattr(self, key, default)

    def __repr__(self) -> str:
        return f"<Context: {vars(self)!r}>"

    def __getattr__(self, name: str) -> Any:
        # Only reached for what is missing; typed so that custom headers may be read as attributes.
        raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")

    def as_execution_options(self) -> dict[str, Any]:
        """The options with which the same call is sent again."""
        hard, soft = self.timelimit or (None, None)
        headers = {k: v for k, v in (self.headers or {}).items() if k not in _DEAD_LETTER_HEADERS}
        options = {
            "task_id": self.id,
            "root_id": self.root_id,
            "parent_id": self.parent_id,
            "group_id": self.group,
            "group_index": self.group_index,
            "shadow": self.shadow,
            "chord": self.chord,
            "chain": self.chain,
            "link": self.callbacks,
            "link_error": self.errbacks,
            "expires": self.expires,
            "soft_time_limit": soft,
            "time_limit": hard,
            "headers": headers,
            "retries": self.retries,
            "reply_to": self.reply_to,
            "replaced_task_nesting": self.replaced_task_nesting,
            "origin": self.origin,
        }
        if self.stamps is not None and self.stamped_headers is not None:
            options["stamped_headers"] = self.stamped_headers
            options.update({k: v for k, v in self.stamps.items() if k in self.stamped_headers})
        return options

    @property
    def children(self) -> list[Any]:
        """Results of the tasks launched while this one ran."""
        if self._children is None:
            self._children = []
        return self._children


_UNSET: Any = object()
_OWN_NAMES = frozenset(vars(Context)) | frozenset(Context.__annotations__) | _PROTOCOL_HEADERS


def actual_ignore_result(task: Any, request: Context | Mapping[str, Any] | None) -> bool | None:
    """Whether the result of this call is to be thrown away: the call's own word, else the task's."""
    # Read from the instance: the class default would look like an explicit False.
    said = vars(request).get("ignore_result") if isinstance(request, Context) else None
    ignored: bool | None = said if said is not None else task.ignore_result
    return ignored
