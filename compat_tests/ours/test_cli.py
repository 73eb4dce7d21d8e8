"""The command line: the app it finds, what each command does, and how the processes it starts end."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import sqlite3
import subprocess
import sys
import threading
import warnings
from collections.abc import Callable, Iterator
from configparser import ConfigParser
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner

from celerylite import Celery, signals
from celerylite.bin import base
from celerylite.bin.celery import celery, main_for_app
from celerylite.signals import user_preload_options

_ROOT = Path(__file__).parents[2]
_DEADLINE_S = 40.0

pytestmark = pytest.mark.timeout(120)  # Several programs each, which start slowly on a busy machine.

#: Unedited Celery code, which says what happens on its standard output.
_PROJECT = """
import os, time
from celery import Celery, signals

app = Celery("proj", broker="redis://nowhere", backend="db+sqlite:///proj.sqlite3")
app.conf.celerylite_warn_ignored = False

@app.task
def add(x, y):
    print(f"added {x + y}", flush=True)
    return x + y

@app.task(queue="slow")
def wait(seconds):
    print("waiting", flush=True)
    time.sleep(seconds)
    print("waited", flush=True)

@app.task
def fail():
    raise ValueError("broken on purpose")

@signals.worker_ready.connect
def ready(**kwargs):
    print("worker ready", flush=True)

if os.environ.get("SCHEDULE"):
    app.conf.beat_schedule = {"often": {"task": "proj.add", "schedule": 0.2, "args": (20, 3)}}
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    (tmp_path / "proj.py").write_text(_PROJECT)
    return tmp_path


def _environment(project: Path, environment: dict[str, str]) -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": str(_ROOT), "PYTHONUNBUFFERED": "1", **environment}


Cli = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "subprocess.Popen[str]"]


@pytest.fixture
def cli(project: Path) -> Cli:
    """Run a command to its end: `cli("-A", "proj", "report")`."""

    def run(*arguments: str, input: str = "", **environment: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "celerylite", *arguments],
            cwd=project,
            env=_environment(project, environment),
            input=input,
            capture_output=True,
            text=True,
            timeout=60,
        )

    return run


@pytest.fixture
def start(project: Path) -> Iterator[Start]:
    """Start a command that goes on; it is killed in the end."""
    with ExitStack() as stack:

        def run(*arguments: str, **environment: str) -> subprocess.Popen[str]:
            process = subprocess.Popen(
                [sys.executable, "-m", "celerylite", *arguments],
                cwd=project,
                env=_environment(project, environment),
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,
            )
            stack.callback(_kill, process)
            return process

        yield run


def _kill(process: subprocess.Popen[str]) -> None:
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    with process:
        process.wait()


def until(process: subprocess.Popen[str], what: str) -> str:
    """Read the program's output up to the line with `what`; gives everything that was read."""
    assert process.stdout is not None
    read = ""
    for line in process.stdout:
        read += line
        if what in line:
            return read
    raise AssertionError(f"expected {what!r}, got {read}")


def until_there(path: Path, what: str = "") -> None:
    """Wait until the file is there and has `what` in it."""
    waiting = threading.Event()
    for _ in range(int(_DEADLINE_S * 20)):
        if path.exists() and path.read_text() and what in path.read_text():
            return
        waiting.wait(0.05)
    raise AssertionError(f"expected {what!r} in {path}")


# The app and the commands.


def test_the_commands_of_celery_are_there(cli: Cli) -> None:
    told = cli("--help").stdout
    for command in ("beat", "call", "list", "purge", "report", "result", "shell", "upgrade", "worker", "run"):
        assert f"\n  {command} " in told


def test_without_a_command_the_help_is_shown(cli: Cli) -> None:
    done = cli()
    assert done.returncode == 0
    assert done.stdout.startswith("Usage:")


def test_the_version_is_that_of_celery(cli: Cli) -> None:
    assert cli("--version").stdout.startswith("5.7.0 (")


def test_an_app_that_is_not_there_is_told(cli: Cli) -> None:
    done = cli("-A", "nowhere", "report")
    assert done.returncode == 2
    assert "Unable to load celery application.\nThe module nowhere was not found." in done.stderr


def test_a_project_that_does_not_import_is_told_with_its_traceback(project: Path, cli: Cli) -> None:
    (project / "broken.py").write_text("import nothing_of_the_kind")
    done = cli("-A", "broken", "report")
    assert done.returncode == 2
    assert "While trying to load the module broken the following error occurred:" in done.stderr
    assert "No module named 'nothing_of_the_kind'" in done.stderr


def test_a_module_without_an_app_is_told(project: Path, cli: Cli) -> None:
    (project / "empty.py").write_text("")
    done = cli("-A", "empty", "report")
    assert done.returncode == 2
    assert "Module 'empty' has no attribute 'celery'" in done.stderr


def test_the_app_after_the_command_is_told_where_it_belongs(cli: Cli) -> None:
    done = cli("worker", "-A", "proj")
    assert done.returncode == 2
    assert "celery -A celeryapp worker <...>" in done.stderr


def test_a_misspelt_command_is_answered_with_a_guess(cli: Cli) -> None:
    done = cli("-A", "proj", "wroker")
    assert done.returncode == 2
    assert "Did you mean one of these?\n    worker" in done.stderr


def test_a_task_is_called_and_its_result_is_read(cli: Cli, start: Start) -> None:
    task_id = cli("-A", "proj", "call", "proj.add", "-a", "[1, 2]").stdout.strip()
    worker = start("-A", "proj", "worker")
    until(worker, "added 3")
    assert cli("-A", "proj", "result", task_id).stdout.strip() == "3"


def test_a_call_leaves_the_task_to_others(cli: Cli) -> None:
    done = cli("-A", "proj", "call", "proj.add", "--args", "[1, 2]")
    assert done.returncode == 0
    assert "added" not in done.stdout


def test_a_call_that_is_sent_again_is_left_to_others_and_fires_no_schedule(
    cli: Cli, start: Start, project: Path
) -> None:
    task_id = cli("-A", "proj", "call", "proj.add", "-a", "[1, 2]").stdout.strip()
    worker = start("-A", "proj", "worker")
    until(worker, "added 3")
    assert cli("-A", "proj", "result", task_id).stdout.strip() == "3"
    worker.terminate()
    assert worker.wait(_DEADLINE_S) == 0
    done = cli("-A", "proj", "control", "retry_task", task_id, SCHEDULE="1")
    assert done.stdout.strip() == f"sent again: {task_id}"
    with sqlite3.connect(project / "proj.sqlite3") as connection:
        # It waits, nobody has claimed it, and no entry of the schedule was even looked at.
        assert connection.execute("SELECT owner FROM celerylite_messages").fetchall() == [(None,)]
        assert connection.execute("SELECT count(*) FROM celerylite_periodic").fetchone() == (1,)
    connection.close()


def test_a_task_that_failed_is_told_in_one_line_and_its_traceback_when_asked_for(
    cli: Cli, start: Start
) -> None:
    task_id = cli("-A", "proj", "call", "proj.fail").stdout.strip()
    start("-A", "proj", "worker")
    done = cli("-A", "proj", "result", task_id)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == "Error: ValueError: broken on purpose (--traceback shows where)\n"
    told = cli("-A", "proj", "result", "--traceback", task_id).stdout
    assert told.startswith("Traceback (most recent call last)")
    assert 'raise ValueError("broken on purpose")' in told
    assert "celerylite/bin" not in told


def test_the_shell_leaves_tasks_to_others_unless_it_is_told_to_run_them(cli: Cli) -> None:
    said = "add.delay(1, 2); print(app._runtime)\n"
    assert "None" in cli("-A", "proj", "shell", "--python", input=said).stdout
    said = "app.start_runtime() and None; print(add.delay(3, 4).get(timeout=30))\n"
    assert "added 7" in cli("-A", "proj", "shell", "--python", input=said).stdout


def test_arguments_that_are_no_json_are_refused(cli: Cli) -> None:
    assert "Expecting value" in cli("-A", "proj", "call", "proj.add", "-a", "[1,").stderr
    assert '{"x": 1} was not an array' in cli("-A", "proj", "call", "proj.add", "-a", '{"x": 1}').stderr


@pytest.mark.parametrize(
    ("words", "code"),
    [
        ("status", 69),
        ("inspect active", 69),
        ("result some-id", 69),
        ("events --dump", 69),
        ("report", 0),
        ("list bindings", 0),
    ],
)
def test_a_look_at_a_database_that_is_not_here_makes_none(
    cli: Cli, project: Path, words: str, code: int
) -> None:
    done = cli(*words.split())
    assert done.returncode == code
    assert f"there is no database here: expected celerylite.sqlite3 in {project}" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in project.iterdir() if path.suffix != ".pyc"] == ["proj.py"]


def test_purge_deletes_what_waits_after_asking(cli: Cli) -> None:
    cli("-A", "proj", "call", "proj.add", "-a", "[1, 2]")
    assert cli("-A", "proj", "purge", input="n\n").returncode == 1
    assert "Purged 1 message from 1 known task queue." in cli("-A", "proj", "purge", "-f").stdout
    assert "No messages purged from 1 queue." in cli("-A", "proj", "purge", input="y\n").stdout


def test_list_shows_the_queues(cli: Cli) -> None:
    assert cli("-A", "proj", "list", "bindings").stdout.splitlines()[2].split() == ["celery"] * 3


def test_report_names_the_settings(cli: Cli) -> None:
    assert "db+sqlite:///proj.sqlite3" in cli("-A", "proj", "report").stdout


def test_the_shell_knows_the_app_and_its_tasks(cli: Cli) -> None:
    done = cli("-A", "proj", "shell", "--python", input="print(app.main, add.name, celery is app)\n")
    assert "proj proj.add True" in done.stdout


def test_upgrade_renames_settings_and_keeps_a_copy(project: Path, cli: Cli) -> None:
    old = 'BROKER_URL = "x"\r\nCELERY_ALWAYS_EAGER = True\r\nBROKER_TRANSPORT_OPTIONS = {}\r\n'
    path = project / "conf.py"
    path.write_bytes(old.encode())
    assert "Changes to your setting have been made!" in cli("upgrade", "settings", "conf.py").stdout
    new = b'broker_url = "x"\r\ntask_always_eager = True\r\nbroker_transport_options = {}\r\n'
    assert path.read_bytes() == new
    assert (project / "conf.py.orig").read_bytes() == old.encode()
    assert "Does not seem to require any changes" in cli("upgrade", "settings", "conf.py").stdout


def test_upgrade_for_django_writes_the_names_with_the_namespace(project: Path, cli: Cli) -> None:
    path = project / "conf.py"
    path.write_text("CELERY_ALWAYS_EAGER = True\n")
    cli("upgrade", "settings", "conf.py", "--django", "--no-backup")
    assert path.read_text() == "CELERY_TASK_ALWAYS_EAGER = True\n"
    assert not (project / "conf.py.orig").exists()


# The worker.


def test_the_worker_shows_its_banner_and_drains_at_sigterm(cli: Cli, start: Start) -> None:
    cli("-A", "proj", "call", "proj.wait", "-a", "[0.5]", "--queue", "slow")
    worker = start("-A", "proj", "worker", "-l", "INFO", "-n", "w1@%h", "-c", "2")
    shown = until(worker, "waiting")
    assert "w1@" in shown
    assert "v5.7.0 (" in shown
    assert ".> concurrency: 2 (threads)" in shown
    assert "  . proj.add" in shown
    worker.terminate()
    rest = until(worker, "waited")
    assert "worker: Warm shutdown (MainProcess)" in rest
    assert worker.wait(_DEADLINE_S) == 0


def test_a_second_signal_stops_the_worker_at_once(cli: Cli, start: Start) -> None:
    task_id = cli("-A", "proj", "call", "proj.wait", "-a", "[60]").stdout.strip()
    worker = start("-A", "proj", "worker")
    until(worker, "waiting")
    worker.terminate()
    until(worker, "Warm shutdown")
    worker.terminate()
    until(worker, "Cold shutdown")
    assert worker.wait(_DEADLINE_S) == 1
    # Nobody will ever finish it: it says so, instead of waiting for ever.
    done = cli("-A", "proj", "result", task_id)
    assert "WorkerLostError" in done.stderr


def test_ctrl_c_warns_and_drains(start: Start) -> None:
    worker = start("-A", "proj", "worker")
    until(worker, "worker ready")
    worker.send_signal(signal.SIGINT)
    assert "Hitting Ctrl+C again will initiate cold shutdown" in until(worker, "Warm shutdown")
    assert worker.wait(_DEADLINE_S) == 1


def test_a_worker_takes_only_from_the_queues_it_is_given(cli: Cli, start: Start) -> None:
    cli("-A", "proj", "call", "proj.add", "-a", "[40, 2]")
    worker = start("-A", "proj", "worker", "-Q", "slow,other")
    until(worker, "worker ready")
    cli("-A", "proj", "call", "proj.add", "-a", "[1, 2]", "--queue", "other")
    assert "added 42" not in until(worker, "added 3")


def test_quiet_shows_no_banner(start: Start) -> None:
    worker = start("-A", "proj", "-q", "worker")
    assert "[config]" not in until(worker, "worker ready")


def test_a_pool_of_green_threads_is_refused(cli: Cli) -> None:
    done = cli("-A", "proj", "worker", "-P", "gevent")
    assert done.returncode == 2
    assert "expected threads, solo or prefork, got 'gevent'" in done.stderr


def test_settings_can_follow_the_options(cli: Cli) -> None:
    done = cli("-A", "proj", "worker", "--", "worker.nonsense=1")
    assert done.returncode == 2
    assert "Unable to parse extra configuration from command line." in done.stderr


def test_the_pid_file_is_there_while_the_worker_runs(project: Path, start: Start) -> None:
    worker = start("-A", "proj", "worker", "--pidfile", "w.pid")
    until(worker, "worker ready")
    assert (project / "w.pid").read_text().strip() == str(worker.pid)
    worker.terminate()
    worker.wait(_DEADLINE_S)
    assert not (project / "w.pid").exists()


def test_a_detached_worker_goes_on_alone(project: Path, cli: Cli) -> None:
    done = cli("-A", "proj", "worker", "-D", "-f", "%n.log", "--pidfile", "w.pid", "-n", "alone@%h")
    assert done.returncode == 0, done.stderr
    until_there(project / "w.pid")
    pid = int((project / "w.pid").read_text())
    try:
        assert cli("-A", "proj", "call", "proj.add", "-a", "[1, 2]").returncode == 0
        until_there(project / "alone.log", "added 3")
    finally:
        os.kill(pid, signal.SIGTERM)
    until_there(project / "alone.log", "Warm shutdown")


# Beat.


def test_beat_fires_the_schedule_and_runs_nothing(cli: Cli, start: Start) -> None:
    beat = start("-A", "proj", "beat", "-l", "INFO", SCHEDULE="1")
    shown = until(beat, "Sending due task often")
    assert "celery beat v5.7.0 (" in shown
    assert "Configuration ->" in shown
    assert "added" not in shown
    beat.terminate()
    assert beat.wait(_DEADLINE_S) == 0
    assert "Purged" in cli("-A", "proj", "purge", "-f").stdout


def test_a_beat_process_is_asked_whether_it_ticks_as_a_liveness_probe_does(cli: Cli, start: Start) -> None:
    probe = ("-A", "proj", "inspect", "ping", "-d", "probe@here", "--timeout", str(_DEADLINE_S))
    beat = start("-A", "proj", "beat", "-l", "INFO", "--enable-remote-control", "-n", "probe@here")
    until(beat, "beat: Answering a ping as probe@here")
    asked = cli(*probe)
    assert asked.returncode == 0, asked.stderr
    assert asked.stdout.startswith("->  probe@here: OK\n        pong\n")
    # All but a ping is for those who run tasks; nobody waits for this one.
    assert cli("-A", "proj", "inspect", "active", "-d", "probe@here", "-t", "600").returncode == 69
    beat.terminate()
    assert beat.wait(_DEADLINE_S) == 0
    assert cli(*probe).returncode == 69


def test_the_unit_and_the_container_of_the_deployment_page_work(
    start: Start,
) -> None:
    page = (_ROOT / "docs" / "deploy.md").read_text()
    (unit,) = re.findall(r"^```ini\n(.*?)^```", page, re.MULTILINE | re.DOTALL)
    (container,) = re.findall(r"^CMD (\[.*\])$", page, re.MULTILINE)
    read = ConfigParser(interpolation=None)
    read.read_string(unit)
    service = read["Service"]
    for program, *arguments in (shlex.split(service["ExecStart"]), json.loads(container)):
        assert Path(program).name == "celerylite"
        worker = start(*arguments, SCHEDULE="1")
        until(worker, "added 23")
        worker.send_signal(signal.Signals[service["KillSignal"]])
        assert worker.wait(_DEADLINE_S) == 0


# User options and plug-ins.


def test_an_app_can_be_the_default_and_take_options_of_its_own() -> None:
    app = Celery("options", broker="memory://", backend="cache+memory://")
    seen: dict[str, Any] = {}
    app.user_options["preload"].add(click.Option(["--site"], default="none"))

    def note(options: dict[str, Any], **kwargs: Any) -> None:
        seen.update(options)

    user_preload_options.connect(note)
    try:
        main_for_app(app, ["report", "--site", "shop"])
    finally:
        user_preload_options.disconnect(note)
        for command in celery.commands.values():
            command.params = [param for param in command.params if param.name != "site"]
    assert seen == {"site": "shop"}
    app.close()


_PLUG_IN = """
import click

from celery.bin.base import CeleryCommand, CeleryDaemonCommand, handle_preload_options

@click.command(cls=CeleryDaemonCommand)
@click.option("--greeting", default="hello")
@click.pass_context
@handle_preload_options
def greet(ctx, greeting, **kwargs):
    ctx.obj.echo(f"{greeting} from {ctx.obj.app.main}")
"""


def test_packages_add_commands_as_for_celery(project: Path, cli: Cli) -> None:
    (project / "greeting.py").write_text(_PLUG_IN)
    for name, target in {
        "one": "greet = greeting:greet",
        "two": "broken = nothing_of_the_kind:command",
    }.items():
        information = project / f"{name}-1.0.dist-info"
        information.mkdir()
        (information / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
        (information / "entry_points.txt").write_text(f"[celery.commands]\n{target}\n")
    told = cli("-A", "proj", "greet", "--greeting", "welcome", PYTHONPATH=f"{_ROOT}{os.pathsep}{project}")
    assert told.stdout == "welcome from proj\n", told.stderr
    # One that cannot be loaded is listed and says why; the others go on.
    told = cli("-A", "proj", "broken", PYTHONPATH=f"{_ROOT}{os.pathsep}{project}")
    assert told.returncode == 1
    assert "No module named 'nothing_of_the_kind'" in told.stderr


def test_options_of_the_users_reach_the_worker(monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("options", broker="memory://", backend="cache+memory://")
    app.user_options["worker"].add(click.Option(["--region"], default="none", help="Ours."))
    seen: dict[str, Any] = {}

    def note(options: dict[str, Any], **kwargs: Any) -> None:
        seen.update(options)

    signals.celeryd_init.connect(note)
    monkeypatch.setattr(app.Worker, "start", lambda self: None)
    try:
        with warnings.catch_warnings():
            # Of what the user is who runs the tests.
            warnings.simplefilter("ignore")
            main_for_app(app, ["worker", "--region", "north"])
    finally:
        signals.celeryd_init.disconnect(note)
        worker = celery.commands["worker"]
        worker.params = [param for param in worker.params if param.name != "region"]
    assert seen["region"] == "north"
    app.close()


def test_the_context_prints_without_colour_when_asked() -> None:
    @click.command()
    def show() -> None:
        context = base.CLIContext(app=Celery(set_as_current=False), no_color=True, workdir=None)
        context.secho("plain", fg="red")
        context.error("wrong", fg="red")
        context.echo(context.OK)
        context.echo(context.pretty(["a"])[1])
        context.echo(context.pretty({"ok": "fine"})[0])
        context.echo(context.pretty({"error": "bad"})[0])

    shown = CliRunner().invoke(show, color=True)
    assert shown.output.splitlines() == ["plain", "wrong", "OK", "* a", "OK", "ERROR"]


# run


def test_a_program_under_run_gets_celerylite_for_celery_in_all_its_processes(cli: Cli) -> None:
    code = (
        "import celery, subprocess, sys; print(celery.__name__, flush=True)\n"
        "subprocess.run([sys.executable, '-c', 'import celery.canvas as m; print(m.__name__)'])"
    )
    done = cli("run", "--", sys.executable, "-c", code)
    assert done.stdout.split() == ["celerylite", "celerylite.canvas"], done.stderr


def test_python_m_celery_under_run_is_our_command_line(cli: Cli) -> None:
    done = cli("run", "--", sys.executable, "-m", "celery", "-A", "proj", "report")
    assert done.returncode == 0, done.stderr
    assert "db+sqlite:///proj.sqlite3" in done.stdout


def test_the_exit_code_of_a_program_under_run_is_its_own(cli: Cli) -> None:
    assert cli("run", "--", sys.executable, "-c", "raise SystemExit(7)").returncode == 7


def test_a_program_under_run_is_the_process_that_was_started(start: Start) -> None:
    program = start(
        "run", "--", sys.executable, "-c", "import os, signal; print(os.getpid(), flush=True); signal.pause()"
    )
    until(program, str(program.pid))
    program.terminate()
    assert program.wait(_DEADLINE_S) == -signal.SIGTERM


def test_arguments_of_a_program_under_run_are_left_alone(cli: Cli) -> None:
    code = "import sys, json; print(json.dumps(sys.argv[1:]))"
    done = cli("run", "--", sys.executable, "-c", code, "-A", "x", "--help", "--", "y")
    assert json.loads(done.stdout) == ["-A", "x", "--help", "--", "y"]


def test_a_command_that_is_not_there_is_told(cli: Cli) -> None:
    done = cli("run", "--", "no-such-command")
    assert done.returncode == 127
    assert "no-such-command: command not found" in done.stderr


def test_a_sitecustomize_of_the_environment_still_runs_under_run(project: Path, cli: Cli) -> None:
    (project / "sitecustomize.py").write_text("import sys; sys.chained = __file__")
    done = cli(
        "run",
        "--",
        sys.executable,
        "-c",
        "import sys, sitecustomize, celery; print(sys.chained, sitecustomize.__file__, celery.__name__)",
        PYTHONPATH=f"{_ROOT}{os.pathsep}{project}",
    )
    path = str(project / "sitecustomize.py")
    assert done.stdout.split() == [path, path, "celerylite"], done.stderr


def test_a_program_under_run_that_never_uses_celery_never_loads_it(cli: Cli) -> None:
    code = "import sys; print('kombu' in sys.modules, 'click' in sys.modules)"
    assert cli("run", "--", sys.executable, "-c", code).stdout.strip() == "False False"
