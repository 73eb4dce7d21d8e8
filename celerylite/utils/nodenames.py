"""Names of workers: `name@host`."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from functools import lru_cache, partial
from typing import Any

from kombu.entity import Exchange, Queue

from .log import current_process_index
from .text import simple_format

__all__ = (
    "worker_direct",
    "gethostname",
    "nodename",
    "anon_nodename",
    "nodesplit",
    "default_nodename",
    "node_format",
    "host_format",
)

#: Between the name and the host.
NODENAME_SEP = "@"
#: The name of a worker that was given none.
NODENAME_DEFAULT = "celery"
#: Exchange and queue name by which one worker is addressed.
WORKER_DIRECT_EXCHANGE = Exchange("C.dq2")
WORKER_DIRECT_QUEUE_FORMAT = "{hostname}.dq2"


@lru_cache(maxsize=1)
def gethostname() -> str:
    """The name of this host, asked once."""
    return socket.gethostname()


def worker_direct(hostname: Any) -> Queue:
    """The queue of one worker alone, by its full name; a queue as it is."""
    if isinstance(hostname, Queue):
        return hostname
    return Queue(WORKER_DIRECT_QUEUE_FORMAT.format(hostname=hostname), WORKER_DIRECT_EXCHANGE, hostname)


def nodename(name: str, hostname: str) -> str:
    """`name@hostname`."""
    return f"{name}{NODENAME_SEP}{hostname}"


def anon_nodename(hostname: str | None = None, prefix: str = "gen") -> str:
    """The name of a process that is no worker; the origin of the messages that it sends."""
    return nodename(f"{prefix}{os.getpid()}", hostname or gethostname())


def nodesplit(name: str) -> tuple[str | None, str]:
    """`(name, host)`; the name is None where there is only a host."""
    left, found, right = name.partition(NODENAME_SEP)
    return (left, right) if found else (None, left)


def default_nodename(hostname: str | None, default_name: str = NODENAME_DEFAULT) -> str:
    """A full name from what was given, which may be either part of it or nothing."""
    name, host = nodesplit(hostname or "")
    return nodename(name or default_name, host or gethostname())


def node_format(s: str, name: str, **extra: Any) -> str:
    """`s` filled in for the worker `name`: `%n` name, `%h` host, `%d` domain, `%p` all, `%i` process."""
    shortname, host = nodesplit(name)
    return host_format(s, host, shortname or NODENAME_DEFAULT, p=name, **extra)


def host_format(s: str, host: str | None = None, name: str | None = None, **extra: Any) -> str:
    """`s` filled in for a host: `%h` host, `%n` name, `%d` domain, `%i` and `%I` process number."""
    host = host or gethostname()
    short, _, domain = host.partition(".")
    keys: dict[str, str | Callable[[], Any]] = {
        "h": host,
        "n": name or short,
        "d": domain,
        "i": _fmt_process_index,
        "I": partial(_fmt_process_index, "-", ""),
        **extra,
    }
    return simple_format(s, keys)


def _fmt_process_index(prefix: str = "", default: str = "0") -> str:
    index = current_process_index()
    return f"{prefix}{index}" if index else default
