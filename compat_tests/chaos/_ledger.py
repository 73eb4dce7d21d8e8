"""A ledger outside the database: what was offered, accepted, started and disturbed, one line each."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

__all__ = ("Entry", "Ledger", "entries")

Entry = dict[str, Any]


class Ledger:
    """Appends lines to a file of this process; what was written is there, whole, after a `kill -9` too."""

    def __init__(self, directory: Path, name: str) -> None:
        self._directory, self._name = directory, name
        self._mutex = threading.Lock()
        self._pid, self._file = 0, -1

    def write(self, what: str, **fields: Any) -> None:
        """Append one entry with the time and the pid."""
        entry = {"what": what, "at": time.time(), "pid": os.getpid(), **fields}
        # One system call: what the kernel has taken survives the process.
        os.write(self._open(), (json.dumps(entry) + "\n").encode())

    def _open(self) -> int:
        with self._mutex:
            if self._pid != os.getpid():
                path = self._directory / f"{self._name}-{os.getpid()}.jsonl"
                self._file = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
                self._pid = os.getpid()
            return self._file


def entries(directory: Path) -> Iterator[Entry]:
    """Every entry of every process, by time."""
    found: list[Entry] = []
    for path in directory.glob("*.jsonl"):
        found += [json.loads(line) for line in path.read_text().splitlines()]
    found.sort(key=lambda entry: entry["at"])
    yield from found
