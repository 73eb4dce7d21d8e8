"""A Redis server that only one contender uses, with its defaults: it snapshots now and then."""

from __future__ import annotations

import socket
import time
from contextlib import suppress

from compat_tests.bench.processes import Program

__all__ = ("RedisServer",)

_DEADLINE_S = 20


class RedisServer:
    """Listens on a free port and keeps its files in the working directory."""

    def __init__(self) -> None:
        began = time.monotonic()
        self._port = free_port()
        self.program = Program(["redis-server", "--port", str(self._port), "--bind", "127.0.0.1"])
        _wait_until_up(self._port)
        #: Seconds that it took to be there.
        self.took_s = time.monotonic() - began

    def url(self, database: int = 0) -> str:
        """Where one of its databases is."""
        return f"redis://127.0.0.1:{self._port}/{database}"

    def stop(self) -> None:
        """End it; its data goes with the directory."""
        self.program.stop()


def free_port() -> int:
    """A port that nobody listens on now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_up(port: int) -> None:
    deadline = time.monotonic() + _DEADLINE_S
    while time.monotonic() < deadline:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as connection:
            connection.sendall(b"PING\r\n")
            if connection.recv(100).startswith(b"+PONG"):
                return
    raise TimeoutError(f"expected redis-server to answer on port {port} within {_DEADLINE_S} s")
