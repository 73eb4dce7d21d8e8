"""The options of the command line against Celery's: all are taken, and those without effect say so."""

from __future__ import annotations

import io
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import pytest
from celery.bin.celery import celery as theirs
from click.shell_completion import BashComplete
from click.testing import CliRunner

from celerylite import Celery
from celerylite.bin import _waiting
from celerylite.bin._refused import REFUSED
from celerylite.bin._without_effect import OPTIONS, PREFIXES, SETTINGS, reason_of_setting
from celerylite.bin.celery import celery as ours
from celerylite.bin.celery import main_for_app
from celerylite.exceptions import CeleryCommandException
from compat_tests.ours.runtime_fixtures import Gate, MakeApp
from compat_tests.ours.test_settings_page import STATUS

ROOT = Path(__file__).parents[2]
WITHOUT_EFFECT = "**accepted without effect**: "

Path_ = tuple[str, ...]


def _walk(command: click.Command, path: Path_ = ()) -> Iterator[tuple[Path_, click.Command]]:
    yield path, command
    if isinstance(command, click.Group):
        for name, each in command.commands.items():
            yield from _walk(each, (*path, name))


THEIRS = {path: command for path, command in _walk(theirs) if not path or path[0] not in REFUSED}
OURS = dict(_walk(ours))


def _options(command: click.Command) -> dict[str, click.Option]:
    """Each spelling of each option."""
    options = (param for param in command.params if isinstance(param, click.Option))
    return {name: option for option in options for name in (*option.opts, *option.secondary_opts)}


def _sentence(path: Path_) -> str:
    return " ".join(("celery", *path))


@pytest.mark.parametrize("path", THEIRS, ids=_sentence)
def test_a_command_takes_every_option_of_celerys(path: Path_) -> None:
    taken, wanted = _options(OURS[path]), _options(THEIRS[path])
    assert set(wanted) <= set(taken)
    for name, option in wanted.items():
        if path == ("events",) and name == "-d":
            continue  # Celery gives it to --dump and to --detach, and warns; here it is --dump.
        mine = taken[name]
        assert (mine.is_flag, mine.nargs, mine.multiple, mine.envvar) == (
            option.is_flag,
            option.nargs,
            option.multiple,
            option.envvar,
        ), name


@pytest.mark.parametrize("path", THEIRS, ids=_sentence)
def test_a_command_takes_the_same_arguments_as_celerys(path: Path_) -> None:
    def arguments(command: click.Command) -> list[tuple[str | None, int]]:
        return [(each.name, each.nargs) for each in command.params if isinstance(each, click.Argument)]

    assert arguments(OURS[path]) == arguments(THEIRS[path])


def test_no_command_of_celery_is_missing() -> None:
    assert set(theirs.commands) <= set(ours.commands)


@pytest.mark.parametrize("path", OURS, ids=_sentence)
def test_options_without_effect_say_so_and_no_others(path: Path_) -> None:
    remarked = {
        option.opts[-1]: option.help
        for option in _options(OURS[path]).values()
        if "No effect here: " in (option.help or "")
    }
    silent = OPTIONS.get(path, {})
    names = {name: option.opts[-1] for name, option in _options(OURS[path]).items()}
    assert set(remarked) == {names[name] for name in silent}
    shown = " ".join(CliRunner().invoke(OURS[path], ["--help"], obj=object()).output.split())
    for name, reason in silent.items():
        # Lines of help are broken between words, and after hyphens.
        assert f"No effect here: {reason}.".replace("- ", "-") in shown.replace("- ", "-"), name


def test_the_table_of_settings_without_effect_is_that_of_the_page() -> None:
    page = {
        name: status.removeprefix(WITHOUT_EFFECT)
        for name, status in STATUS.items()
        if status.startswith(WITHOUT_EFFECT)
    }
    assert set(SETTINGS) == {name for name in page if not name.startswith(PREFIXES)}
    for name, reason in page.items():
        if reason != "as above":
            assert reason_of_setting(name) == reason
    assert reason_of_setting("task_always_eager") is None


@pytest.mark.parametrize("name", REFUSED)
def test_a_refused_command_says_what_to_use_instead(name: str) -> None:
    app = Celery("refused", broker="memory://", backend="cache+memory://")
    with pytest.raises(CeleryCommandException, match=f"{name}: expected ") as caught:
        main_for_app(app, [name, "start", "w1", "-c", "3", "--help"])
    assert caught.value.exit_code == 64
    help_ = " ".join(CliRunner().invoke(ours, [name, "--help"]).output.split())
    assert f"Not supported. {name}: {REFUSED[name]}" in help_
    app.close()


@pytest.mark.parametrize(
    "words", [["-h"], ["worker", "-h"], ["inspect", "-h"], ["upgrade", "settings", "-h"]]
)
def test_help_has_a_short_name_too(words: list[str]) -> None:
    assert CliRunner().invoke(ours, words).output.startswith("Usage: ")


# -- options that have an effect: what arrives ------------------------------------------------------------

#: Words of `worker` -> what the worker object or the configuration has then.
EFFECTS: dict[str, Any] = {
    "-n named@%h": lambda worker: worker.hostname.startswith("named@"),
    "-l INFO": lambda worker: worker.loglevel == 20,
    "--prefetch-multiplier 7": lambda worker: worker.app.conf.worker_prefetch_multiplier == 7,
    "-c 3": lambda worker: worker.concurrency == 3,
    "--concurrency auto": lambda worker: worker.concurrency == len(os.sched_getaffinity(0)),
    "-P solo": lambda worker: (worker.pool_name, worker.concurrency) == ("solo", 1),
    "-P processes": lambda worker: worker.pool_name == "prefork",
    "-E": lambda worker: worker.app.conf.worker_send_task_events is True,
    "--time-limit 5": lambda worker: worker.app.conf.task_time_limit == 5,
    "--soft-time-limit 4": lambda worker: worker.app.conf.task_soft_time_limit == 4,
    "--max-tasks-per-child 6": lambda worker: worker.app.conf.worker_max_tasks_per_child == 6,
    "--max-memory-per-child 7": lambda worker: worker.app.conf.worker_max_memory_per_child == 7,
    "--pool-start-method spawn": lambda worker: worker.app.conf.worker_pool_start_method == "spawn",
    "--purge": lambda worker: worker.purge is True,
    "-Q a,b": lambda worker: set(worker.app.amqp.queues.consume_from) == {"a", "b"},
    "-X celery": lambda worker: set(worker.app.amqp.queues.consume_from) == set(),
    "-I json": lambda worker: "json" in worker.app.conf.include,
    "--autoscale 5,2": lambda worker: worker.autoscale == (5, 2),
    "-B": lambda worker: worker.beat is True,
    "--schedule-filename x": lambda worker: worker.app.conf.beat_schedule_filename == "x",
    "--scheduler a.b:C": lambda worker: worker.app.conf.beat_scheduler == "a.b:C",
    "-f %n.log": lambda worker: worker.logfile == "%n.log",
    "--pidfile w.pid": lambda worker: worker.pidfile == "w.pid",
    "worker.max_tasks_per_child=9": lambda worker: worker.app.conf.worker_max_tasks_per_child == 9,
}


@pytest.mark.filterwarnings("ignore::celerylite.exceptions.SecurityWarning")
@pytest.mark.parametrize("words", EFFECTS)
def test_an_option_of_the_worker_arrives(words: str, monkeypatch: pytest.MonkeyPatch) -> None:
    app = Celery("arrives", broker="memory://", backend="cache+memory://", set_as_current=False)
    made: list[Any] = []
    # What comes after this is a program that runs until it is stopped: see test_cli.py.
    monkeypatch.setattr(app.Worker, "start", lambda self: made.append(self))
    main_for_app(app, ["worker", *words.split()])
    (worker,) = made
    assert EFFECTS[words](worker)
    app.close()


# -- completion --------------------------------------------------------------------------------------------

PROJECT = """
from celerylite import Celery
app = Celery("completed", broker="memory://", backend="cache+memory://")
app.task(name="orders.add")(lambda: None)
"""


@pytest.mark.parametrize(
    ("words", "typed", "offered"),
    [
        (["-A", "completed"], "wor", {"worker"}),
        (["worker"], "--max-t", {"--max-tasks-per-child"}),
        (["-A", "completed", "call"], "ord", {"orders.add"}),
        (["-A", "completed", "result", "-t"], "", {"orders.add"}),
        (["-A", "nowhere", "call"], "ord", set()),
        (["inspect"], "active", {"active", "active_queues"}),
        (["control"], "re", {"resume_queue", "retry_task", "revoke", "revoke_by_stamped_headers"}),
    ],
)
def test_the_shell_completes_commands_options_and_tasks(
    words: list[str], typed: str, offered: set[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "completed.py").write_text(PROJECT)
    monkeypatch.syspath_prepend(tmp_path)
    completer = BashComplete(ours, {}, "celerylite", "_CELERYLITE_COMPLETE")
    assert {each.value for each in completer.get_completions(words, typed)} == offered
    sys.modules.pop("completed", None)


def test_the_installed_program_answers_the_completion_of_the_shell() -> None:
    program = "import sys; sys.argv[0] = 'celerylite'; from celerylite.__main__ import main; main()"
    asked = {"_CELERYLITE_COMPLETE": "bash_complete", "COMP_WORDS": "celerylite sta", "COMP_CWORD": "1"}
    completed = subprocess.run(
        [sys.executable, "-c", program],
        env={**os.environ, "PYTHONPATH": str(ROOT), **asked},
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert completed.stdout.split() == ["plain,status"], completed.stderr


# -- waiting -----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """Takes what is written, and says that somebody watches."""

    def isatty(self) -> bool:
        return True


def test_who_waits_for_a_result_at_a_terminal_sees_how_it_goes(
    file_app: Celery, gate: Gate, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    @file_app.task(bind=True)
    def walks(self: Any) -> str:
        self.update_state(state="PROGRESS", meta={"current": 1, "total": 4})
        gate.wait()
        return "there"

    result = walks.delay()
    gate.until_arrived(1)
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    original = _waiting._show

    def show(line: str) -> None:
        original(line)
        gate.open()

    monkeypatch.setattr(_waiting, "_show", show)
    main_for_app(file_app, ["result", result.id])
    assert capsys.readouterr().out == "there\n"
    shown = terminal.getvalue().split("\r\x1b[K")
    assert re.fullmatch(r"PROGRESS \d+ s  \[#{8}-{22}\]  25%", shown[1])
    # Nothing of it stays on the line.
    assert shown[-1] == ""


def test_what_a_task_says_of_its_progress_is_shown_as_far_as_it_makes_sense() -> None:
    assert _waiting._described("STARTED", None, 3.2) == "STARTED 3 s"
    assert _waiting._described("PROGRESS", {"current": 9, "total": 3}, 0).endswith("100%")
    assert _waiting._described("PROGRESS", {"current": 1, "total": 0}, 0) == "PROGRESS 0 s"
    assert _waiting._described("PROGRESS", {"current": "?", "total": 2}, 0) == "PROGRESS 0 s"


def test_a_result_that_is_an_error_at_a_terminal_is_raised_as_it_is(
    file_app: Celery, monkeypatch: pytest.MonkeyPatch
) -> None:
    @file_app.task
    def gives_up() -> None:
        raise TimeoutError("the task's own")

    result = gives_up.delay()
    monkeypatch.setattr(sys, "stderr", Terminal())
    with pytest.raises(TimeoutError, match="the task's own"):
        main_for_app(file_app, ["result", result.id])


def test_a_bar_goes_along_when_many_messages_are_brought_over(
    make_app: MakeApp, tmp_path: Path, database: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    app = make_app(celerylite_runtime=False)
    for _ in range(3):
        app.send_task("one")
    terminal = Terminal()
    monkeypatch.setattr(sys, "stderr", terminal)
    main_for_app(app, ["migrate", f"sqlite:///{database}", f"sqlite:///{tmp_path / 'new.sqlite3'}"])
    assert "Migrating" in terminal.getvalue()
    assert "100%" in terminal.getvalue()
