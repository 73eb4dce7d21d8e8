"""Pid files and signals."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from celerylite import platforms
from celerylite.platforms import LockFailed, Pidfile, ignore_errno, signals


def test_a_pid_file_is_held_by_one(tmp_path: Path) -> None:
    path = tmp_path / "worker.pid"
    with Pidfile(str(path)) as lock:
        assert lock.read_pid() == os.getpid()
        with pytest.raises(LockFailed, match="File exists"):
            Pidfile(str(path)).acquire()
    assert not path.exists()
    assert lock.read_pid() is None


def test_a_pid_file_of_a_process_that_is_gone_is_removed(tmp_path: Path) -> None:
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    path = tmp_path / "worker.pid"
    path.write_text(f"{gone.pid}\n")
    assert Pidfile(str(path)).remove_if_stale()
    assert not path.exists()


def test_a_broken_pid_file_is_removed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "worker.pid"
    path.write_text("12")
    with pytest.raises(ValueError, match="Partial or invalid pidfile"):
        Pidfile(str(path)).read_pid()
    assert Pidfile(str(path)).remove_if_stale()
    assert "Broken pidfile found" in capsys.readouterr().err


def test_a_process_that_lives_keeps_its_pid_file(tmp_path: Path) -> None:
    path = tmp_path / "worker.pid"
    path.write_text(f"{os.getppid()}\n")
    assert not Pidfile(str(path)).remove_if_stale()
    with pytest.raises(SystemExit) as info:
        platforms._create_pidlock(str(path))
    assert info.value.code == platforms.EX_CANTCREAT


@pytest.mark.skipif(platforms.IS_WINDOWS, reason="there are no such signals")
def test_handlers_are_set_by_name_and_what_is_missing_is_passed_over() -> None:
    previous = signals["USR2"]
    try:
        signals.ignore("USR2")
        assert signals["SIGUSR2"] == signal.SIG_IGN
        signals.reset("USR2")
        assert signals["USR2"] == signal.SIG_DFL
    finally:
        signals["USR2"] = previous
    assert not signals.supported("NOSUCH")
    signals["NOSUCH"] = signal.SIG_IGN
    assert platforms.signal_name(signal.SIGTERM) == "TERM"
    with pytest.raises(TypeError, match="uppercase"):
        signals.signum("int")


def test_errors_are_ignored_by_name_or_number() -> None:
    with ignore_errno("ENOENT", errno.EPERM):
        os.unlink("/no/such/file")
    with pytest.raises(FileNotFoundError), ignore_errno("EPERM"):
        os.unlink("/no/such/file")


def test_users_and_groups_that_do_not_exist_are_refused() -> None:
    with pytest.raises(KeyError, match="User does not exist: nobody-of-this-name"):
        platforms.parse_uid("nobody-of-this-name")
    with pytest.raises(KeyError, match="Group does not exist: nobody-of-this-name"):
        platforms.parse_gid("nobody-of-this-name")
    assert platforms.parse_uid("0") == 0
