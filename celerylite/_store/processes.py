"""Processes of this machine: who they are, and whether one that joined the store is still there."""

from __future__ import annotations

import functools
import os
import socket
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from celerylite._store import WorkerRow

__all__ = ("is_gone", "machine_id", "process_started")


@functools.cache
def machine_id() -> str:
    """Names the pid namespace this process lives in: host, boot and (Linux) container.

    Two processes with the same name here can judge each other by pid. After a reboot the name differs,
    so that pids of the boot before are never compared with today's.
    """
    return ":".join(filter(None, (socket.gethostname(), _read_boot_id(), _read_pid_namespace())))[:155]


def process_started(pid: int) -> float | None:
    """When the process started, in a unit that only its equality means something; None: unknown or gone.

    On Linux the clock tick count since boot, from /proc. Elsewhere unknown.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    # The command in parentheses may itself hold spaces and parentheses: count from its end.
    fields = stat.rpartition(")")[2].split()
    return None if fields[0] in "ZX" else float(fields[19])


def is_gone(worker: WorkerRow) -> bool:
    """Whether a process of this machine has certainly ended. Of other machines nothing is certain."""
    if worker.machine != machine_id():
        return False
    started = process_started(worker.pid)
    if started is None:
        return _is_zombie(worker.pid) or not _pid_exists(worker.pid)
    return worker.pid_started is not None and started != worker.pid_started


def _pid_exists(pid: int) -> bool:
    if os.name == "nt":  # os.kill would end the process there: leave it to the lease
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return False


def _read_boot_id() -> str:
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def _read_pid_namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""
