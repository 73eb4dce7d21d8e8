"""What the tests of child processes share: apps that use them, and waiting for the end of a process."""

from __future__ import annotations

import os
import select
from collections.abc import Iterable
from pathlib import Path

from celerylite import Celery
from compat_tests.ours.runtime_fixtures import DEADLINE_S

#: Settings of an app with a pool of two children.
TWO_CHILDREN = {"worker_pool": "prefork", "worker_concurrency": 2, "celerylite_beat": "off"}


def gone(pid: int) -> bool:
    """Wait for the end of a process that need not be our child; False if it does not come."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        ended, _, _ = select.select([descriptor], [], [], DEADLINE_S)
    finally:
        os.close(descriptor)
    return bool(ended)


def is_any_gone(pids: Iterable[int]) -> bool:
    """Wait for the end of one of several processes; False if it does not come."""
    descriptors: list[int] = []
    try:
        descriptors.extend(map(os.pidfd_open, pids))
        return bool(select.select(descriptors, [], [], DEADLINE_S)[0])
    except ProcessLookupError:
        return True
    finally:
        for descriptor in descriptors:
            os.close(descriptor)


def children_of(app: Celery) -> list[int]:
    """The process ids of the children that the app's runtime has at the moment."""
    runtime = app._runtime
    assert runtime is not None
    assert runtime._children is not None
    return runtime._children.processes()


class Notes:
    """Lines that any process may write and the test reads, in order."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.path.touch()

    def add(self, line: object) -> None:
        with self.path.open("a") as file:
            file.write(f"{line}\n")

    @property
    def lines(self) -> list[str]:
        return self.path.read_text().splitlines()
