"""The result backend in a cache: memcached through pymemcache, or a dictionary of this process."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import cached_property
from importlib import import_module
from types import NoneType
from typing import Any

from kombu.utils.encoding import bytes_to_str, ensure_bytes

from celerylite.backends.base import KeyValueStoreBackend
from celerylite.exceptions import ImproperlyConfigured
from celerylite.utils import deprecated
from celerylite.utils.functional import LRUCache

__all__ = ("CacheBackend", "DummyClient", "get_best_memcache", "get_memcache_client", "import_best_memcache")

#: What a client is made with unless `cache_backend_options` says otherwise: a write that fails raises, and a
#: server that does not answer is given up (seconds).
DEFAULT_CLIENT_OPTIONS: dict[str, Any] = {"default_noreply": False, "connect_timeout": 5.0, "timeout": 5.0}

#: Options of another client library, which are warned about and dropped.
PYLIBMC_ONLY_OPTIONS = ("behaviors", "binary")

REQUIRES_BACKEND = (
    "The Memcached backend requires the 'pymemcache' library. "
    "The 'pylibmc' and 'python-memcached' libraries are no longer used."
)
UNKNOWN_BACKEND = "The cache backend {0!r} is unknown,\nPlease use one of the following backends instead: {1}"

_RETRY_OPTIONS = {
    "retry_attempts": "attempts",
    "retry_delay": "retry_delay",
    "retry_for": "retry_for",
    "do_not_retry_for": "do_not_retry_for",
}

# One for the process: every thread has a client of its own and must see the others' values.
_DUMMY_CLIENT_CACHE = LRUCache(limit=5000)


class DummyClient:
    """A client that keeps up to 5000 values in this process, shared by all of its kind. Thread-safe."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.cache: Any = _DUMMY_CLIENT_CACHE

    def get(self, key: Any, *args: Any, **kwargs: Any) -> Any:
        """The value under `key`, or None."""
        return self.cache.get(key)

    def get_multi(self, keys: Iterable[Any]) -> dict[Any, Any]:
        """The values there are, by key."""
        return {key: self.cache[key] for key in keys if key in self.cache}

    def set(self, key: Any, value: Any, *args: Any, **kwargs: Any) -> None:
        """Put `value` under `key`."""
        self.cache[key] = value

    def delete(self, key: Any, *args: Any, **kwargs: Any) -> None:
        """Remove `key`."""
        self.cache.pop(key, None)

    def incr(self, key: Any, delta: int = 1) -> Any:
        """Count up under `key`."""
        return self.cache.incr(key, delta)

    def touch(self, key: Any, expire: Any) -> None:
        """Nothing expires here."""


def _memory_client() -> tuple[type[DummyClient], Callable[..., Any]]:
    return DummyClient, ensure_bytes


def get_memcache_client() -> tuple[Callable[..., Any], Callable[..., Any]]:
    """A factory of memcached clients, and what makes a key of a string.

    Raises ImproperlyConfigured without pymemcache.
    """
    _pymemcache("pymemcache")
    return _make_client, bytes_to_str


def _pymemcache(name: str) -> Any:
    try:
        return import_module(name)
    except ImportError as exc:
        raise ImproperlyConfigured(REQUIRES_BACKEND) from exc


def _make_client(servers: Any = None, **options: Any) -> Any:
    for option in PYLIBMC_ONLY_OPTIONS:
        if option in options:
            options.pop(option)
            deprecated.warn(
                description=f"The {option!r} cache backend option",
                removal="6.0",
                alternative="It is only supported by pylibmc and is ignored.",
                stacklevel=3,
            )
    options = {**DEFAULT_CLIENT_OPTIONS, **options}
    given = {name: options.pop(name, None) for name in _RETRY_OPTIONS}
    client = _client_of(_addresses(servers), options)
    if given["retry_attempts"] is None:
        return client
    retrying = {_RETRY_OPTIONS[name]: value for name, value in given.items() if value is not None}
    return _pymemcache("pymemcache.client.retrying").RetryingClient(client, **retrying)


def _addresses(servers: Any) -> list[Any]:
    if isinstance(servers, str) or _is_address(servers):
        servers = [servers]
    if not isinstance(servers, list | tuple | NoneType):
        raise ImproperlyConfigured(
            f"Memcache servers must be a sequence of server addresses, got {type(servers)}: {servers!r}"
        )
    found = [server for server in servers or () if server]
    if not found:
        raise ImproperlyConfigured("No memcache servers provided")
    return found


def _is_address(servers: Any) -> bool:
    match servers:
        case (str(), int()):
            return isinstance(servers, tuple)
        case _:
            return False


def _client_of(servers: list[Any], options: dict[str, Any]) -> Any:
    if len(servers) > 1:
        return _pymemcache("pymemcache.client.hash").HashClient(servers, **options)
    [server] = servers
    if not isinstance(server, str | tuple):
        raise ImproperlyConfigured(
            f"Memcache server address must be a string or tuple, got {type(server)}: {server!r}"
        )
    return _pymemcache("pymemcache.client.base").Client(server, **options)


def import_best_memcache() -> tuple[bool, Any, Callable[..., Any]]:
    """Deprecated: `get_memcache_client` has what is needed."""
    deprecated.warn(
        description="import_best_memcache()",
        removal="6.0",
        alternative="Use get_memcache_client() instead.",
    )
    return False, _pymemcache("pymemcache"), bytes_to_str


def get_best_memcache(*args: Any, **kwargs: Any) -> tuple[Callable[..., Any], Callable[..., Any]]:
    """Deprecated: another name of `get_memcache_client`."""
    deprecated.warn(
        description="get_best_memcache()", removal="6.0", alternative="Use get_memcache_client() instead."
    )
    return get_memcache_client()


#: By the scheme of the URL: what gives a client and a key type.
backends: dict[str | None, Callable[[], tuple[Callable[..., Any], Callable[..., Any]]]] = {
    "memcache": get_memcache_client,
    "memcached": get_memcache_client,
    "pylibmc": get_memcache_client,
    "pymemcache": get_memcache_client,
    "memory": _memory_client,
}


class CacheBackend(KeyValueStoreBackend):
    """Results in memcached (``memcache://host:port;host:port/``) or in this process (``memory://``)."""

    servers: list[str] | None = None
    supports_autoexpire = True
    supports_native_join = True
    implements_incr = True

    def __init__(
        self,
        app: Any,
        expires: Any = None,
        backend: str | None = None,
        options: dict[str, Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.backend: Any = url or backend or app.conf.cache_backend
        if self.backend:
            self.backend, _, servers = self.backend.partition("://")
            self.servers = servers.rstrip("/").split(";")
        try:
            found = backends[self.backend]
        except KeyError as exc:
            known = ", ".join(str(name) for name in backends)
            raise ImproperlyConfigured(UNKNOWN_BACKEND.format(self.backend, known)) from exc
        self.Client, self.key_t = found()
        super().__init__(app, **kwargs)
        self.url = url
        self.options: dict[str, Any] = {**app.conf.cache_backend_options, **(options or {})}
        self.expires = self.prepare_expires(expires, type=int)

    @cached_property
    def client(self) -> Any:
        """The client of this thread's backend, made at first use."""
        return self.Client(self.servers, **self.options)

    def get(self, key: Any) -> Any:
        return self.client.get(key)

    def mget(self, keys: Any) -> Any:
        return self.client.get_multi(keys)

    def set(self, key: Any, value: Any) -> Any:
        return self.client.set(key, value, self.expires or 0)

    def delete(self, key: Any) -> Any:
        return self.client.delete(key)

    def incr(self, key: Any) -> Any:
        return self.client.incr(key, 1)

    def expire(self, key: Any, value: Any) -> Any:
        return self.client.touch(key, value or 0)

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        """The URL, of one server or several."""
        return f"{self.backend}://{';'.join(self.servers or ())}/"

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        own = {"backend": self.as_uri(), "expires": self.expires, "options": self.options}
        return super().__reduce__(args, {**(kwargs or {}), **own})
