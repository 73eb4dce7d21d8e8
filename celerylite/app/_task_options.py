"""The options of a task: which of them its calls inherit, and what the settings say where it says nothing."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from celerylite._call_keys import check_limit
from celerylite.utils import deprecated

__all__ = ("FROM_CONFIG", "check", "extract_exec_options", "fill_in", "warn_of_routing")

#: Options of a task that are options of each of its calls too.
_CALL_OPTIONS = (
    "queue",
    "routing_key",
    "exchange",
    "priority",
    "expires",
    "serializer",
    "delivery_mode",
    "compression",
    "time_limit",
    "soft_time_limit",
    "immediate",
    "mandatory",
)

#: Attributes that say where calls go. As Celery: they count, with a warning that routes are meant for this.
_ROUTING = ("queue", "exchange", "exchange_type", "routing_key", "delivery_mode", "priority")

#: Attributes that take the value of a setting while they are None.
FROM_CONFIG = (
    ("serializer", "task_serializer"),
    ("rate_limit", "task_default_rate_limit"),
    ("priority", "task_default_priority"),
    ("time_limit", "task_time_limit"),
    ("soft_time_limit", "task_soft_time_limit"),
    ("track_started", "task_track_started"),
    ("acks_late", "task_acks_late"),
    ("acks_on_failure_or_timeout", "task_acks_on_failure_or_timeout"),
    ("acks_on_failure", "task_acks_on_failure"),
    ("acks_on_timeout", "task_acks_on_timeout"),
    ("reject_on_worker_lost", "task_reject_on_worker_lost"),
    ("retry_on_worker_lost", "task_retry_on_worker_lost"),
    ("ignore_result", "task_ignore_result"),
    ("store_eager_result", "task_store_eager_result"),
    ("store_errors_even_if_ignored", "task_store_errors_even_if_ignored"),
)


def extract_exec_options(task: Any) -> dict[str, Any]:
    """The calling options that `task` sets for every call."""
    found = ((name, getattr(task, name, None)) for name in _CALL_OPTIONS)
    return {name: value for name, value in found if value is not None}


def warn_of_routing(cls: type[Any]) -> None:
    """Warn of each routing attribute that this very class has."""
    for name in _ROUTING:
        if name in vars(cls):
            deprecated.warn(
                description=f"The {name!r} task attribute",
                removal="6.0",
                alternative="Use the task_routes setting instead.",
            )


def check(cls: type[Any]) -> None:
    """Raise ValueError for an option that no call could be made with."""
    limit = cls.concurrency_limit
    # A property has its say at the call.
    if limit is not None and not hasattr(type(limit), "__get__"):
        check_limit(cls.name, limit)


def fill_in(cls: type[Any], conf: Mapping[str, Any]) -> None:
    """Give the attributes that are None the values of their settings."""
    for name, setting in cls.from_config:
        if getattr(cls, name, None) is None:
            setattr(cls, name, conf[setting])
    on_either = cls.acks_on_failure_or_timeout
    for name in ("acks_on_failure", "acks_on_timeout"):
        if getattr(cls, name) is None:
            setattr(cls, name, True if on_either is None else on_either)
