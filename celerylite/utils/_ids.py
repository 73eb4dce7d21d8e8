"""Random ids, cheaper than asking the kernel for each: a call of `os.urandom` also gives up the GIL."""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Iterator
from uuid import UUID

__all__ = ("fast_uuid4", "uuid")

#: Bytes fetched at once; 16 make an id.
_FETCH = 4096
#: The digit that starts the fourth part, by a random one.
_VARIANT = {digit: "89ab"[int(digit, 16) % 4] for digit in "0123456789abcdef"}


class _Stock(threading.local):
    """Random bytes of one thread that are not used yet."""

    pid = 0
    left: Iterator[str] = iter(())


_stock = _Stock()


def _random_hex() -> str:
    # A child process must not hand out what its parent still has in stock.
    if _stock.pid != os.getpid():
        _refill()
    found = next(_stock.left, None)
    if found is None:
        _refill()
        found = next(_stock.left)
    return found


def _refill() -> None:
    text = os.urandom(_FETCH).hex()
    _stock.pid, _stock.left = os.getpid(), iter([text[i : i + 32] for i in range(0, len(text), 32)])


def fast_uuid4() -> UUID:
    """A random UUID (version 4) from the kernel's generator, fetched for many at a time. Thread-safe."""
    return UUID(uuid())


def uuid(_uuid: Callable[[], UUID] | None = None) -> str:
    """A unique id as text, in the form of a UUID4 (RFC 9562, section 5.4); of `_uuid` if given."""
    if _uuid is not None:
        return str(_uuid())
    x = _random_hex()
    # The version is 4; the two highest bits of the variant are 10.
    return f"{x[:8]}-{x[8:12]}-4{x[13:16]}-{_VARIANT[x[16]]}{x[17:20]}-{x[20:]}"
