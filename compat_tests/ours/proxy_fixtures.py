"""A proxy between an app and its database server: it can be stopped, started, and cut in mid-sentence."""

from __future__ import annotations

import selectors
import socket
import threading
from contextlib import suppress

__all__ = ("Proxy",)

_DEADLINE_S = 10.0


class Proxy:
    """Forwards connections of one local port to a server, in one thread, until it is closed."""

    def __init__(self, host: str, port: int) -> None:
        self._target = (host, port)
        self._mutex = threading.Lock()
        self._peers: dict[socket.socket, socket.socket] = {}
        self._word: bytes | None = None
        self._stops = False
        #: Clients whose next answer is swallowed together with their connection.
        self._doomed: set[socket.socket] = set()
        #: Set when an answer was swallowed.
        self.swallowed = threading.Event()
        self._selector = selectors.DefaultSelector()
        self._bell, self._rope = socket.socketpair()
        self._selector.register(self._bell, selectors.EVENT_READ)
        self._listener: socket.socket | None = None
        self._wanted = True
        self._closing = False
        self._done = threading.Event()
        self._asked: list[threading.Event] = []
        self.port = self._listen(0)
        self._thread = threading.Thread(target=self._run, name="proxy")
        self._thread.start()

    # -- for tests -------------------------------------------------------------------------------------

    def stop(self) -> None:
        """Close every connection and refuse new ones, as a server that is down does."""
        self._ask(wanted=False)

    def start(self) -> None:
        """Accept connections again."""
        self._ask(wanted=True)

    def cut(self) -> None:
        """Close every connection; new ones are accepted."""
        self.stop()
        self.start()

    def swallow_answer_to(self, word: bytes, then_stop: bool = False) -> None:
        """The server does the next statement with this word, but its answer and the connection get lost.

        With `then_stop` the proxy stops there, until it is started again.
        """
        self.swallowed.clear()
        with self._mutex:
            self._word, self._stops = word, then_stop

    def close(self) -> None:
        """End it."""
        self._closing = True
        self._rope.send(b"x")
        self._thread.join(_DEADLINE_S)
        self._selector.close()
        self._bell.close()
        self._rope.close()

    def _ask(self, wanted: bool) -> None:
        done = threading.Event()
        with self._mutex:
            self._wanted = wanted
            self._asked.append(done)
        self._rope.send(b"x")
        assert done.wait(_DEADLINE_S), "expected the proxy to obey"

    # -- the thread ------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._closing:
            for key, _ in self._selector.select():
                if key.fileobj is self._bell:
                    self._obey()
                elif key.fileobj is self._listener:
                    self._accept()
                elif isinstance(key.fileobj, socket.socket) and key.fileobj in self._peers:
                    self._forward(key.fileobj)
        self._disconnect_all()

    def _obey(self) -> None:
        self._bell.recv(100)
        with self._mutex:
            asked, self._asked = self._asked, []
            wanted = self._wanted
        if not wanted:
            self._disconnect_all()
        elif self._listener is None:
            self._listen(self.port)
        for done in asked:
            done.set()

    def _listen(self, port: int) -> int:
        listener = socket.socket()
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", port))
        listener.listen(100)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        return int(listener.getsockname()[1])

    def _accept(self) -> None:
        assert self._listener is not None
        client, _ = self._listener.accept()
        server = socket.create_connection(self._target)
        for one, other in ((client, server), (server, client)):
            one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._peers[one] = other
            self._selector.register(one, selectors.EVENT_READ)

    def _forward(self, source: socket.socket) -> None:
        target = self._peers[source]
        try:
            data = source.recv(65536)
        except OSError:
            data = b""
        if not data:
            self._drop(source)
        elif target in self._doomed:
            # This is the answer: the server has done it.
            self._drop(source)
            if self._stops:
                self._disconnect_all()
            self.swallowed.set()
        else:
            self._listen_for_word(source, data)
            with suppress(OSError):
                target.sendall(data)

    def _listen_for_word(self, source: socket.socket, data: bytes) -> None:
        with self._mutex:
            if self._word is not None and self._word in data:
                self._word = None
                self._doomed.add(source)

    def _drop(self, one: socket.socket) -> None:
        for end in (one, self._peers[one]):
            self._selector.unregister(end)
            self._doomed.discard(end)
            del self._peers[end]
            # A reset, not a farewell: what is on its way is gone.
            with suppress(OSError):
                end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            end.close()

    def _disconnect_all(self) -> None:
        if self._listener is not None:
            self._selector.unregister(self._listener)
            self._listener.close()
            self._listener = None
        while self._peers:
            self._drop(next(iter(self._peers)))
