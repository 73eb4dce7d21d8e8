"""Which processes start a runtime by themselves: those that serve, as real servers show, and no others."""

from __future__ import annotations

import importlib.util
import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

_ROOT = Path(__file__).parents[2]
_DEADLINE_S = 15.0

#: An app that tells the test when its runtime is started and stopped, and where.
_PROJECT = {
    "jobs.py": """
        import os, socket, time
        from celerylite import Celery

        def tell(what):
            with socket.create_connection(("127.0.0.1", int(os.environ["NOTES_PORT"]))) as line:
                line.sendall(f"{what} {os.getpid()}".encode())

        class Jobs(Celery):
            def _autostart(self):
                super()._autostart()
                tell("started")

            def stop_runtime(self, *args, **kwargs):
                runs = self._runtime is not None
                super().stop_runtime(*args, **kwargs)
                if runs:
                    tell("stopped")

        app = Jobs("jobs")
        app.conf.celerylite_runtime = os.environ.get("RUNTIME", "auto")

        @app.task
        def say(what):
            tell(what)

        @app.task
        def nap(seconds):
            time.sleep(seconds)
            tell("napped")

        if os.environ.get("SCHEDULE"):
            app.conf.beat_schedule = {"often": {"task": "jobs.say", "schedule": 0.2, "args": ("due",)}}
    """,
    "site_wsgi.py": """
        import jobs

        def app(environ, start_response):
            start_response("200 OK", [("Content-Type", "text/plain")])
            return [b"hello"]
    """,
    "site_asgi.py": """
        import jobs

        async def app(scope, receive, send):
            while scope["type"] == "lifespan":
                event = (await receive())["type"]
                await send({"type": event + ".complete"})
                if event == "lifespan.shutdown":
                    return
            await send({"type": "http.response.start", "status": 200, "headers": []})
            await send({"type": "http.response.body", "body": b"hello"})
    """,
    "site_flask.py": """
        import jobs
        from flask import Flask

        app = Flask(__name__)
        if __name__ == "__main__":
            app.run(port=0)
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
        INSTALLED_APPS = ["django.contrib.staticfiles"]
        STATIC_URL = "/static/"
        DEBUG = True
        import jobs
    """,
    "urls.py": """
        urlpatterns = []
    """,
}


class Notes:
    """What the processes of a test tell, in order."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.port = self._socket.getsockname()[1]

    def next(self, what: str) -> int:
        """Wait for the next note, which is `what`, and give the process it is from."""
        return self.next_of(what)[1]

    def next_of(self, *possible: str) -> tuple[str, int]:
        """Wait for the next note, which is one of these."""
        self._socket.settimeout(_DEADLINE_S)
        told = self._accept()
        assert told[0] in possible
        return told

    def rest(self) -> list[tuple[str, int]]:
        """Everything that was told by now."""
        self._socket.settimeout(0)
        notes = []
        while True:
            try:
                notes.append(self._accept())
            except BlockingIOError:
                return notes

    def _accept(self) -> tuple[str, int]:
        line = self._socket.accept()[0]
        with line:
            line.settimeout(_DEADLINE_S)
            what, pid = line.makefile().read().split()
        return what, int(pid)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def notes() -> Iterator[Notes]:
    notes = Notes()
    yield notes
    notes.close()


Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def start(tmp_path: Path, notes: Notes) -> Iterator[Start]:
    """Start a program in a project's directory; whatever is left of it is killed in the end."""
    for name, source in _PROJECT.items():
        lines = source.strip("\n").splitlines()
        (tmp_path / name).write_text("\n".join(line.removeprefix(" " * 8) for line in lines))

    with ExitStack() as stack:

        def run(*command: str, **environment: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                command,
                cwd=tmp_path,
                env={
                    **os.environ,
                    "PYTHONPATH": f"{_ROOT}{os.pathsep}{tmp_path}",
                    "NOTES_PORT": str(notes.port),
                    **environment,
                },
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            stack.callback(_end, process)
            return process

        yield run


def _end(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:
        process.wait()


def module(name: str, *arguments: str) -> tuple[str, ...]:
    """The command that runs a module, after making sure that it is installed."""
    return (sys.executable, "-m", name, *arguments)


def uwsgi(*options: str) -> tuple[str, ...]:
    program = str(Path(sys.executable).with_name("uwsgi"))
    socket = ("--http-socket", "127.0.0.1:0", "--enable-threads", "--die-on-term")
    return (program, *socket, "-H", sys.prefix, "--master", "--processes", "2", *options)


def needs(command: tuple[str, ...]) -> None:
    if command[0].endswith("uwsgi") and not Path(command[0]).exists():
        pytest.skip("uwsgi is not installed")
    for name in ("hypercorn", "daphne", "granian", "waitress"):
        if name in command and importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed")


_ONE_PROCESS = {
    "uvicorn": module("uvicorn", "site_asgi:app", "--port", "0"),
    "daphne": module("daphne", "-p", "0", "site_asgi:app"),
    "waitress": module("waitress", "--listen=127.0.0.1:0", "site_wsgi:app"),
    "flask run": module("flask", "--app", "site_flask", "run", "--port", "0"),
    "app.run()": (sys.executable, "site_flask.py"),
    "runserver --noreload": (sys.executable, "manage.py", "runserver", "0", "--noreload"),
}


@pytest.mark.parametrize("command", _ONE_PROCESS.values(), ids=_ONE_PROCESS)
def test_a_server_of_one_process_starts_the_runtime_and_stops_it_at_sigterm(
    command: tuple[str, ...], start: Start, notes: Notes
) -> None:
    needs(command)
    server = start(*command)
    assert notes.next("started") == server.pid
    server.terminate()
    assert notes.next("stopped") == server.pid
    server.wait(_DEADLINE_S)
    assert notes.rest() == []


_WORKERS = {
    "uwsgi": uwsgi("--module", "site_wsgi:app"),
    "uwsgi --lazy-apps": uwsgi("--module", "site_wsgi:app", "--lazy-apps"),
    "gunicorn": module("gunicorn", "-b", "127.0.0.1:0", "-w", "2", "site_wsgi:app"),
    "gunicorn --preload": module("gunicorn", "-b", "127.0.0.1:0", "-w", "2", "--preload", "site_wsgi:app"),
    "gunicorn -k gthread": module(
        "gunicorn", "-b", "127.0.0.1:0", "-w", "2", "-k", "gthread", "site_wsgi:app"
    ),
    "uvicorn --workers": module("uvicorn", "site_asgi:app", "--port", "0", "--workers", "2"),
    "hypercorn": module("hypercorn", "-b", "127.0.0.1:0", "-w", "2", "site_asgi:app"),
    "granian asgi": module(
        "granian", "--interface", "asgi", "--port", "0", "--workers", "2", "site_asgi:app"
    ),
    "granian wsgi": module(
        "granian", "--interface", "wsgi", "--port", "0", "--workers", "2", "site_wsgi:app"
    ),
}


@pytest.mark.parametrize("command", _WORKERS.values(), ids=_WORKERS)
def test_every_worker_of_a_server_starts_a_runtime_and_its_master_never_does(
    command: tuple[str, ...], start: Start, notes: Notes
) -> None:
    needs(command)
    master = start(*command)
    workers = {notes.next("started"), notes.next("started")}
    assert len(workers) == 2
    assert master.pid not in workers
    master.terminate()
    assert {notes.next("stopped"), notes.next("stopped")} == workers
    master.wait(_DEADLINE_S)
    assert notes.rest() == []


_RELOADERS = {
    "flask run --debug": module("flask", "--app", "site_flask", "run", "--port", "0", "--debug"),
    "runserver": (sys.executable, "manage.py", "runserver", "0"),
    "uvicorn --reload": module("uvicorn", "site_asgi:app", "--port", "0", "--reload"),
}


@pytest.mark.parametrize("command", _RELOADERS.values(), ids=_RELOADERS)
def test_under_a_reloader_only_the_child_that_serves_starts_a_runtime(
    command: tuple[str, ...], start: Start, notes: Notes
) -> None:
    parent = start(*command)
    child = notes.next("started")
    assert child != parent.pid
    os.kill(child, signal.SIGTERM)
    assert notes.next("stopped") == child
    assert notes.rest() == []


_NOT_SERVING = {
    "a script": (sys.executable, "-c", "import jobs"),
    "a script that imports a server": (sys.executable, "-c", "import jobs, uvicorn, gunicorn.arbiter"),
    "a shell": (sys.executable, "-i", "-c", "import jobs"),
    "flask shell": module("flask", "--app", "site_flask", "shell"),
    "a management command": (sys.executable, "manage.py", "check"),
    "the command line": module("celerylite", "-A", "jobs", "report"),
    "a program under run": module("celerylite", "run", "--", sys.executable, "-c", "import jobs"),
}


@pytest.mark.parametrize("command", _NOT_SERVING.values(), ids=_NOT_SERVING)
def test_what_does_not_serve_starts_no_runtime(command: tuple[str, ...], start: Start, notes: Notes) -> None:
    program = start(*command)
    output, _ = program.communicate("", timeout=_DEADLINE_S)
    assert program.returncode == 0, output
    assert notes.rest() == []


def test_a_runtime_that_is_switched_off_is_not_started_by_a_server(start: Start, notes: Notes) -> None:
    server = start(*_ONE_PROCESS["uvicorn"], RUNTIME="off")
    assert server.stdout is not None
    for line in server.stdout:
        if "Uvicorn running" in line:
            break
    server.terminate()
    server.wait(_DEADLINE_S)
    assert notes.rest() == []


def test_a_program_under_run_with_an_app_starts_its_runtime(start: Start, notes: Notes) -> None:
    program = start(
        *module("celerylite", "run", "-A", "jobs", "--"), sys.executable, "-c", "import jobs; input()"
    )
    # The command became the program: it is the same process.
    assert notes.next("started") == program.pid
    program.communicate("\n", timeout=_DEADLINE_S)
    assert program.returncode == 0
    assert notes.next("stopped") == program.pid


def test_a_script_under_run_that_is_the_app_itself_is_not_loaded_twice(
    tmp_path: Path, start: Start, notes: Notes
) -> None:
    source = (tmp_path / "jobs.py").read_text()
    (tmp_path / "bot.py").write_text(f"{source}\nimport sys; sys.stdin.readline()\n")
    program = start(*module("celerylite", "run", "-A", "bot", "--"), sys.executable, "bot.py")
    assert notes.next("started") == program.pid
    program.communicate("\n", timeout=_DEADLINE_S)
    assert [what for what, _ in notes.rest()] == ["stopped"]


def test_a_server_under_run_loads_the_app_that_it_does_not_import_itself(
    tmp_path: Path, start: Start, notes: Notes
) -> None:
    (tmp_path / "bare.py").write_text("async def app(scope, receive, send): raise NotImplementedError\n")
    server = start(
        *module("celerylite", "run", "-A", "jobs", "--"), *module("uvicorn", "bare:app", "--port", "0")
    )
    assert notes.next("started") == server.pid
    server.terminate()
    assert notes.next("stopped") == server.pid


def test_a_preloading_master_under_run_with_an_app_starts_no_runtime(start: Start, notes: Notes) -> None:
    master = start(*module("celerylite", "run", "-A", "jobs", "--"), *_WORKERS["gunicorn --preload"])
    workers = {notes.next("started"), notes.next("started")}
    assert master.pid not in workers
    master.terminate()
    assert {notes.next("stopped"), notes.next("stopped")} == workers


def test_a_server_runs_what_was_left_though_no_request_comes(start: Start, notes: Notes) -> None:
    call = start(*module("celerylite", "-A", "jobs", "call", "jobs.say", "-a", '["ran"]'))
    assert call.wait(_DEADLINE_S) == 0
    server = start(*_ONE_PROCESS["uvicorn"])
    told = {notes.next_of("started", "ran"), notes.next_of("started", "ran")}
    assert told == {("started", server.pid), ("ran", server.pid)}


def test_a_server_fires_the_schedule_though_no_request_comes(start: Start, notes: Notes) -> None:
    server = start(*_ONE_PROCESS["uvicorn"], SCHEDULE="1")
    told = {notes.next_of("started", "due"), notes.next_of("started", "due")}
    assert told == {("started", server.pid), ("due", server.pid)}
    assert notes.next("due") == server.pid


def test_a_server_that_is_killed_leaves_its_task_to_the_next_one(start: Start, notes: Notes) -> None:
    first = start(*_ONE_PROCESS["uvicorn"])
    assert notes.next("started") == first.pid
    first.kill()
    first.wait(_DEADLINE_S)
    call = start(*module("celerylite", "-A", "jobs", "call", "jobs.say", "-a", '["ran"]'))
    assert call.wait(_DEADLINE_S) == 0
    second = start(*_ONE_PROCESS["app.run()"])
    told = {notes.next_of("started", "ran"), notes.next_of("started", "ran")}
    assert told == {("started", second.pid), ("ran", second.pid)}


_OWN_LOOP = """
import asyncio, time, uvicorn, site_asgi, jobs
from celerylite import signals

async def main():
    server = uvicorn.Server(uvicorn.Config(site_asgi.app, port=0, log_level="error"))
    ready, loop = asyncio.Event(), asyncio.get_running_loop()
    tell = lambda **_: loop.call_soon_threadsafe(ready.set)
    signals.worker_ready.connect(tell)
    serving = asyncio.create_task(server.serve())
    await ready.wait()
    jobs.nap.delay(3.0)
    server.should_exit = True
    longest, last = 0.0, time.monotonic()
    while not serving.done():
        await asyncio.wait({serving}, timeout=0.01)
        now = time.monotonic()
        longest, last = max(longest, now - last), now
    print("went on" if longest < 2.0 else f"stood still for {longest} s", flush=True)

asyncio.run(main())
"""


def test_the_loop_of_a_server_goes_on_while_its_runtime_waits_for_tasks(start: Start, notes: Notes) -> None:
    program = start(sys.executable, "-c", _OWN_LOOP)
    output, _ = program.communicate(timeout=_DEADLINE_S)
    assert output.splitlines()[-1] == "went on"
    assert [what for what, _ in notes.rest()] == ["started", "napped", "stopped"]
