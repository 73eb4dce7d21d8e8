"""Programs that a contender starts, and what processes cost: CPU seconds and memory, from /proc."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

__all__ = ("ROOT", "Program", "cpu_seconds", "environment", "memory_mb")

#: The checkout: what contenders import, celerylite among it, is found from here.
ROOT = Path(__file__).resolve().parents[2]

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


def environment(more: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of a child: the checkout importable, no setting of Celery's, compiled files kept."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("CELERY") and name != "PYTHONDONTWRITEBYTECODE"
    }
    return {**kept, "PYTHONPATH": str(ROOT), **(more or {})}


class Program:
    """A program in a session of its own, so that all its processes can be counted, and ended, together."""

    def __init__(self, command: Sequence[str], more: Mapping[str, str] | None = None) -> None:
        self._process = subprocess.Popen(
            command,
            env=environment(more),
            start_new_session=True,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            # Not ours: who reads our output would wait for a worker that outlives us.
            stderr=subprocess.DEVNULL,
        )

    @classmethod
    def python(cls, *arguments: str, more: Mapping[str, str] | None = None) -> Program:
        """A program of the interpreter that runs this one."""
        return cls([sys.executable, *arguments], more)

    def pids(self) -> list[int]:
        """Its processes, children included."""
        return [
            int(entry)
            for entry in os.listdir("/proc")
            if entry.isdigit() and _session(entry) == self._process.pid
        ]

    def stop(self) -> None:
        """End all its processes at once: what they leave behind is in a directory that goes as well."""
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


def cpu_seconds(pids: Iterable[int]) -> float:
    """What these processes and their ended children have used of the processors so far."""
    return sum(sum(map(int, _stat(pid)[11:15])) for pid in map(str, pids) if _stat(pid)) / _TICKS_PER_S


def memory_mb(pids: Iterable[int]) -> float:
    """What these processes hold, with each shared page counted once (PSS)."""
    return sum(map(_pss_kb, pids)) * 1024 / 1e6


def _pss_kb(pid: int) -> int:
    with suppress(FileNotFoundError, ProcessLookupError):
        for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1])
    return 0


def _stat(pid: str) -> list[str]:
    """The fields of /proc/PID/stat behind the name, which may hold anything; [] when the process is gone."""
    with suppress(FileNotFoundError, ProcessLookupError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return []


def _session(pid: str) -> int | None:
    fields = _stat(pid)
    return int(fields[3]) if fields else None
