"""The schedule fires in whatever serves, as real servers show that get no request, and in its programs."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_DEADLINE_S = 15.0

#: A project whose tasks tell the test, and wait for its answer before they end.
_PROJECT = {
    "jobs.py": """
        import os, socket
        from celerylite import Celery

        app = Celery("jobs")
        app.conf.update(
            result_expires=None,
            celerylite_beat=os.environ.get("BEAT", "auto"),
            beat_schedule={"often": {"task": "tell", "schedule": 0.4, "catch_up": "all"}},
        )

        @app.task(name="tell", bind=True)
        def tell(self):
            with socket.create_connection(("127.0.0.1", int(os.environ["NOTES_PORT"]))) as line:
                line.sendall(f"{self.request.get('celerylite_due_at')} {os.getpid()}\\n".encode())
                line.recv(10)
                line.sendall(b"ended\\n")
    """,
    "site_wsgi.py": """
        import jobs

        def app(environ, start_response):
            raise RuntimeError("nobody asked")
    """,
    "site_asgi.py": """
        import jobs

        async def app(scope, receive, send):
            while scope["type"] == "lifespan":
                event = (await receive())["type"]
                await send({"type": event + ".complete"})
                if event == "lifespan.shutdown":
                    return
            raise RuntimeError("nobody asked")
    """,
    "site_flask.py": """
        import jobs
        from flask import Flask

        app = Flask(__name__)
    """,
    "manage.py": """
        import os, sys
        from django.core.management import execute_from_command_line

        os.environ["DJANGO_SETTINGS_MODULE"] = "site_django"
        execute_from_command_line(sys.argv)
    """,
    "site_django.py": """
        SECRET_KEY = "x"
        ROOT_URLCONF = "urls"
        INSTALLED_APPS = []
        DEBUG = True
        import jobs
    """,
    "urls.py": """
        urlpatterns = []
    """,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Call:
    """A task that tells the test that it has begun, and waits."""

    due: str
    pid: int
    line: socket.socket

    def let_end(self) -> str:
        """Answer, and give what it says in the end: nothing, if its process is gone."""
        with self.line:
            self.line.sendall(b"go")
            return self.line.makefile().read().strip()


class Notes:
    """Where the tasks of all processes report."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self._socket.settimeout(_DEADLINE_S)
        self.port = self._socket.getsockname()[1]

    def next(self) -> Call:
        """Wait for the next task to begin."""
        line = self._socket.accept()[0]
        line.settimeout(_DEADLINE_S)
        received = b""
        while not received.endswith(b"\n"):
            received += line.recv(100)
        due, pid = received.decode().split()
        return Call(due=due, pid=int(pid), line=line)

    def rounds(self, count: int) -> list[Call]:
        """Let so many tasks begin and end, one after the other."""
        calls = []
        for _ in range(count):
            calls.append(self.next())
            assert calls[-1].let_end() == "ended"
        return calls

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def notes() -> Iterator[Notes]:
    notes = Notes()
    yield notes
    notes.close()


Start = Callable[..., "subprocess.Popen[bytes]"]


@pytest.fixture
def start(tmp_path: Path, notes: Notes) -> Iterator[Start]:
    """Start a program in the project's directory; whatever is left of it is killed in the end."""
    for name, source in _PROJECT.items():
        lines = source.strip("\n").splitlines()
        (tmp_path / name).write_text("\n".join(line.removeprefix(" " * 8) for line in lines))
    environment = {key: value for key, value in os.environ.items() if not key.startswith("CELERY")}
    environment |= {"PYTHONPATH": f"{_ROOT}{os.pathsep}{tmp_path}", "NOTES_PORT": str(notes.port)}

    with ExitStack() as stack:

        def run(*arguments: str, **variables: str) -> subprocess.Popen[bytes]:
            process = subprocess.Popen(
                [sys.executable, *arguments],
                cwd=tmp_path,
                env={**environment, **variables},
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
            stack.callback(_end, process)
            return process

        yield run


def _end(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:
        process.wait()


_GUNICORN = ("-m", "gunicorn", "-b", "127.0.0.1:0")
_SERVERS = {
    "uvicorn": ("-m", "uvicorn", "site_asgi:app", "--port", "0"),
    "gunicorn -w 4": ("-m", "gunicorn", "-b", "127.0.0.1:0", "-w", "4", "site_wsgi:app"),
    "gunicorn -w 4 --preload": (
        "-m",
        "gunicorn",
        "-b",
        "127.0.0.1:0",
        "-w",
        "4",
        "--preload",
        "site_wsgi:app",
    ),
    "flask run": ("-m", "flask", "--app", "site_flask", "run", "--port", "0"),
    "runserver": ("manage.py", "runserver", "0"),
}


@pytest.mark.timeout(60)
@pytest.mark.parametrize("command", _SERVERS.values(), ids=_SERVERS)
def test_a_server_fires_each_tick_once_although_no_request_comes(
    command: tuple[str, ...], start: Start, notes: Notes
) -> None:
    start(*command)
    calls = notes.rounds(8)
    assert len({call.due for call in calls}) == 8


@pytest.mark.timeout(60)
def test_the_ticks_go_on_when_the_process_that_fires_them_is_killed(start: Start, notes: Notes) -> None:
    servers = [start(*_SERVERS["uvicorn"]) for _ in range(2)]
    dues = [call.due for call in notes.rounds(4)]
    for victim in servers:
        # One of the two fired them, whichever it was; the other one, or its successor, goes on.
        victim.kill()
        victim.wait(_DEADLINE_S)
        start(*_SERVERS["uvicorn"])
        dues += [call.due for call in notes.rounds(4)]
    assert len(set(dues)) == len(dues)


@pytest.mark.timeout(60)
def test_a_beat_and_a_worker_share_the_work(start: Start, notes: Notes) -> None:
    beat = start("-m", "celerylite", "-A", "jobs", "beat", BEAT="off")
    worker = start("-m", "celerylite", "-A", "jobs", "worker", BEAT="off")
    assert {call.pid for call in notes.rounds(3)} == {worker.pid}
    for program in (beat, worker):
        program.terminate()
        assert program.wait(_DEADLINE_S) == 0


@pytest.mark.timeout(60)
def test_a_worker_with_a_beat_finishes_what_runs_when_it_is_terminated(start: Start, notes: Notes) -> None:
    # Switched off, so that it is `-B` that fires.
    worker = start("-m", "celerylite", "-A", "jobs", "worker", "-B", "-c", "1", BEAT="off")
    notes.rounds(2)
    running = notes.next()
    worker.terminate()
    assert running.let_end() == "ended"
    assert worker.wait(_DEADLINE_S) == 0
