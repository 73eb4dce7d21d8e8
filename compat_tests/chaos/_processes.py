"""The processes of a run: workers and publishers that are started, hurt, and started again."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from compat_tests.chaos._ledger import Ledger

__all__ = ("Crew", "Member", "Plan")

ROOT = Path(__file__).parents[2]

#: Seconds a process gets to begin its work before it is hurt.
_YOUTH_S = 2.5
#: Seconds beyond the grace in which a process that was asked to stop must have ended.
_SLACK_S = 15.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What a run is made of."""

    database: str
    directory: Path
    processes: int
    rate: float
    lease_s: float
    grace_s: float
    seed: int
    #: Every second worker runs plain functions in child processes.
    prefork: bool


@dataclass(slots=True, kw_only=True, eq=False)
class Member:
    """One running process."""

    role: str
    number: int
    process: subprocess.Popen[bytes]
    born: float = field(default_factory=time.monotonic)
    #: When a stopped one goes on (monotonic seconds).
    wakes_at: float | None = None
    #: By when one that was asked to stop must be gone.
    ends_by: float | None = None


class Crew:
    """As many workers and publishers as planned; those that are gone are replaced."""

    def __init__(self, plan: Plan, ledger: Ledger) -> None:
        self._plan, self._ledger = plan, ledger
        self._members: list[Member] = []
        #: Those that were asked to stop; their places are taken by others.
        self._leaving: list[Member] = []
        self.publishing = True
        #: Processes that did not end when asked to.
        self.hung = 0

    # -- life ------------------------------------------------------------------------------------------

    def fill(self) -> None:
        """Bury the dead, wake those whose time has come, and start whoever is missing."""
        now = time.monotonic()
        for member in self._members:
            if member.wakes_at is not None and member.wakes_at <= now:
                self._wake(member)
        self._members = [each for each in self._members if each.process.poll() is None]
        self._bury_leaving(now)
        for role, number in self._planned():
            if not any(each.role == role and each.number == number for each in self._members):
                self._members.append(self._start(role, number))

    def _planned(self) -> list[tuple[str, int]]:
        workers = max(1, self._plan.processes - self._plan.processes // 3)
        publishers = max(1, self._plan.processes - workers) if self.publishing else 0
        return [("worker", i) for i in range(workers)] + [("publisher", i) for i in range(publishers)]

    def _bury_leaving(self, now: float) -> None:
        for member in self._leaving:
            if member.process.poll() is None and member.ends_by is not None and member.ends_by < now:
                self.hung += 1
                self._ledger.write("hung", victim=member.process.pid)
                member.process.kill()
                member.process.wait()
        self._leaving = [each for each in self._leaving if each.process.poll() is None]

    def _start(self, role: str, number: int) -> Member:
        plan = self._plan
        if role == "worker":
            name = f"worker{number}@chaos"
            options = ["--concurrency", "4", "--loglevel", "INFO", "--hostname", name]
            options += ["--pool", "prefork"] if plan.prefork and number % 2 else []
            command = ["celerylite", "-A", "compat_tests.chaos.proj", "worker", *options]
        else:
            command = ["compat_tests.chaos._publisher", str(plan.rate), str(plan.seed)]
        environment = {key: value for key, value in os.environ.items() if not key.startswith("CELERY")}
        environment |= {
            "PYTHONPATH": str(ROOT),
            "CHAOS_LEDGER": str(plan.directory),
            "CHAOS_DATABASE": plan.database,
            "CHAOS_LEASE": str(plan.lease_s),
            "CHAOS_GRACE": str(plan.grace_s),
            # Every second publisher only publishes; the others run what they publish.
            "CHAOS_RUNTIME": "off" if role == "publisher" and number % 2 else "auto",
        }
        with (plan.directory / f"{role}{number}.log").open("ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-m", *command],
                cwd=plan.directory,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        return Member(role=role, number=number, process=process)

    # -- death -----------------------------------------------------------------------------------------

    def pick(self, choose: random.Random, role: str | None = None) -> Member | None:
        """One that has begun its work and is not stopped, if there is one."""
        ready = [
            each
            for each in self._members
            if (role is None or each.role == role)
            and each.wakes_at is None
            and time.monotonic() - each.born > _YOUTH_S
        ]
        return choose.choice(ready) if ready else None

    def kill(self, member: Member) -> None:
        """End it as the OOM killer would."""
        self._hurt(member, "SIGKILL", member.process.kill)
        member.process.wait()

    def kill_child(self, choose: random.Random, member: Member) -> None:
        """End one of its child processes, if it has any."""
        children = _children(member.process.pid)
        if children:
            self._hurt(member, "SIGKILL of a child", lambda: _kill(choose.choice(children)))

    def terminate(self, member: Member) -> None:
        """Ask it to stop; another takes its place meanwhile."""
        self._hurt(member, "SIGTERM", member.process.terminate)
        member.ends_by = time.monotonic() + self._plan.grace_s + _SLACK_S
        self._members.remove(member)
        self._leaving.append(member)

    def stop(self, member: Member, seconds: float) -> None:
        """Freeze it for so long, as a machine that sleeps would."""
        self._hurt(member, "SIGSTOP", lambda: member.process.send_signal(signal.SIGSTOP))
        member.wakes_at = time.monotonic() + seconds

    def _hurt(self, member: Member, how: str, act: Callable[[], None]) -> None:
        act()
        # Afterwards: what the process still did before it is told from what it did after.
        self._ledger.write("disturbed", victim=member.process.pid, how=how, role=member.role)

    def _wake(self, member: Member) -> None:
        member.wakes_at = None
        self._ledger.write("woken", victim=member.process.pid)
        member.process.send_signal(signal.SIGCONT)

    # -- the end ---------------------------------------------------------------------------------------

    def end_publishing(self) -> None:
        """Kill the publishers; the workers go on, all of them awake."""
        self.publishing = False
        for member in self._members:
            if member.wakes_at is not None:
                self._wake(member)
            if member.role == "publisher":
                self.kill(member)
        self.fill()

    def dismiss(self) -> None:
        """Ask the workers to stop, and wait until they have."""
        for member in list(self._members):
            self.terminate(member)
        for member in list(self._leaving):
            try:
                member.process.wait(max(0.1, (member.ends_by or 0.0) - time.monotonic()))
            except subprocess.TimeoutExpired:
                member.ends_by = 0.0
        self._bury_leaving(time.monotonic())

    def abandon(self) -> None:
        """Kill everybody."""
        for member in [*self._members, *self._leaving]:
            if member.process.poll() is None:
                member.process.kill()
                member.process.wait()


def _children(pid: int) -> list[int]:
    """The processes that `pid` started, and those that they started."""
    parents: dict[int, list[int]] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            head, _, fields = stat.read_text().rpartition(")")
            parents.setdefault(int(fields.split()[1]), []).append(int(head.split()[0]))
    found: list[int] = []
    waiting = list(parents.get(pid, ()))
    while waiting:
        child = waiting.pop()
        found.append(child)
        waiting += parents.get(child, ())
    return found


def _kill(pid: int) -> None:
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
