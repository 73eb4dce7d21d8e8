"""Two hosts on one PostgreSQL: network namespaces, of which one only publishes, and a worker that dies."""

from __future__ import annotations

import os
import selectors
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest
import sqlalchemy as sa

from compat_tests.ours.proxy_fixtures import Proxy
from compat_tests.ours.runtime_fixtures import ROOT, Program
from compat_tests.ours.store_fixtures import make_url

_PROJECT = """
import os, threading
from pathlib import Path
from celerylite import Celery
app = Celery("proj")
app.conf.update(celerylite_beat="off", celerylite_lease=2.0)
if os.environ.get("ROLE") == "web":
    app.conf.celerylite_runtime = False

@app.task
def host():
    return os.environ["HOST"]

@app.task
def hang():
    os.write(1, b"hangs\\n")
    threading.Event().wait()

@app.task(acks_late=True)
def linger():
    os.write(1, b"lingers\\n")
    while not Path("go").exists():
        threading.Event().wait(0.05)
    return os.environ["HOST"]
"""

#: Each line of input is evaluated; the answer is printed.
_WEB = """
import sys
from proj import app, hang, host, linger
print("ready", flush=True)
for line in sys.stdin:
    print("=", eval(line), flush=True)
"""

Start = Callable[..., Program]


class _HostProxy(Proxy):
    """Listens where the other end of a host's cable is."""

    def __init__(self, address: str, host: str, port: int) -> None:
        self._address = address
        super().__init__(host, port)

    def _listen(self, port: int) -> int:
        listener = socket.create_server((self._address, port), backlog=100)
        self._listener = listener
        self._selector.register(listener, selectors.EVENT_READ)
        return int(listener.getsockname()[1])


def _ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True, capture_output=True, text=True)


def _make_host(stack: ExitStack, letter: str, net: str) -> str:
    """A namespace with a cable to here; its name."""
    name = f"clite{letter}{os.getpid()}"
    here, there = f"c{letter}h{os.getpid()}", f"c{letter}t{os.getpid()}"
    try:
        _ip("netns", "add", name)
    except subprocess.CalledProcessError as error:
        pytest.skip(f"no privilege to make network namespaces: {error.stderr}")
    stack.callback(_ip, "netns", "del", name)
    _ip("link", "add", here, "type", "veth", "peer", "name", there, "netns", name)
    stack.callback(_ip, "link", "del", here)
    _ip("addr", "add", f"{net}.1/30", "dev", here)
    _ip("link", "set", here, "up")
    _ip("-n", name, "addr", "add", f"{net}.2/30", "dev", there)
    _ip("-n", name, "link", "set", there, "up")
    _ip("-n", name, "link", "set", "lo", "up")
    return name


@pytest.fixture
def start(tmp_path: Path) -> Iterator[Start]:
    """Start `python ARGUMENTS...` on host "a" or "b"; each has processes of its own."""
    if os.geteuid() != 0 or not shutil.which("ip"):
        pytest.skip("network namespaces need root and ip")
    (tmp_path / "proj.py").write_text(_PROJECT)
    with ExitStack() as stack:
        databases = make_url("postgresql", tmp_path)
        url = sa.make_url(next(databases))
        stack.callback(lambda: next(databases, None))
        hosts = {}
        for letter, third in (("a", 1), ("b", 2)):
            net = f"10.213.{os.getpid() % 120 * 2 + third}"
            name = _make_host(stack, letter, net)
            proxy = _HostProxy(f"{net}.1", url.host or "127.0.0.1", url.port or 5432)
            stack.callback(proxy.close)
            own = url.set(host=f"{net}.1", port=proxy.port)
            hosts[letter] = (name, own.render_as_string(hide_password=False))

        def run(letter: str, *arguments: str, **variables: str) -> Program:
            name, database = hosts[letter]
            environment = {key: value for key, value in os.environ.items() if not key.startswith("CELERY")}
            environment |= {"PYTHONPATH": f"{ROOT}{os.pathsep}{tmp_path}", "CELERYLITE_DATABASE": database}
            unshare = ["unshare", "--pid", "--fork", "--mount-proc", "--kill-child"]
            process = subprocess.Popen(
                ["ip", "netns", "exec", name, *unshare, sys.executable, *arguments],
                cwd=tmp_path,
                env={**environment, "HOST": letter, **variables},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            program = Program(process)
            stack.callback(program.close)
            return program

        yield run


def _signal_all(program: Program, signum: int) -> None:
    """Send a signal to the processes of a host's program, not to the tools that started it."""
    children = Path(f"/proc/{program.process.pid}/task/{program.process.pid}/children")
    for pid in children.read_text().split():
        os.kill(int(pid), signum)


def _ask(web: Program, expression: str) -> str:
    web.tell(expression)
    return web.until("= ").removeprefix("= ")


def _worker(start: Start, letter: str) -> Program:
    return start(letter, "-m", "celerylite", "-A", "proj", "worker", "-c", "1", "--hostname", f"w@{letter}")


@pytest.mark.timeout(90)
def test_one_host_runs_what_another_publishes_and_takes_over_when_it_dies(start: Start) -> None:
    web = start("b", "-c", _WEB, ROLE="web")
    web.until("ready")
    first = _worker(start, "a")
    assert _ask(web, "[host.delay().get(timeout=10) for _ in range(5)]") == str(["a"] * 5)
    _ask(web, "globals().update(hung=hang.delay())")
    first.until("hangs")
    _ask(web, "globals().update(waiting=[host.delay() for _ in range(10)])")
    first.kill()
    _worker(start, "b")
    assert _ask(web, "[r.get(timeout=14) for r in waiting]") == str(["b"] * 10)
    assert _ask(web, "type(hung.get(timeout=14, propagate=False)).__name__") == "WorkerLostError"
    assert _ask(web, "hung.state") == "FAILURE"


@pytest.mark.timeout(90)
def test_what_a_frozen_host_ran_is_delivered_to_another_by_its_lease_and_counts_once(
    start: Start, tmp_path: Path
) -> None:
    web = start("b", "-c", _WEB, ROLE="web")
    web.until("ready")
    first = _worker(start, "a")
    _ask(web, "globals().update(late=linger.delay())")
    first.until("lingers")
    # Its processes are there, under numbers that mean nothing here: only the lease tells.
    _signal_all(first, signal.SIGSTOP)
    second = _worker(start, "b")
    second.until("lingers")
    (tmp_path / "go").touch()
    assert _ask(web, "late.get(timeout=14)") == "b"
    second.kill()
    _signal_all(first, signal.SIGCONT)
    # It has one place, so it has ended what it ran before it takes this.
    assert _ask(web, "host.delay().get(timeout=14)") == "a"
    assert _ask(web, "late.get(timeout=14), app.store.unfinished()") == "('b', {})"
    _signal_all(first, signal.SIGTERM)
    first.end()
    assert "the outcome of this run is discarded" in first.errors
    assert "Traceback" not in first.errors
