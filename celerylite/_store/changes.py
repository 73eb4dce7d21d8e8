"""What a transaction changed, and how listeners are told of it."""

from __future__ import annotations

import json
from dataclasses import dataclass, field

from celerylite._store import ResultRow

__all__ = ("Changes", "payloads")


@dataclass(slots=True)
class Changes:
    """What a transaction changed that somebody may wait for."""

    #: Messages became READY (or are due soon).
    messages: bool = False
    letters: bool = False
    #: Ids of results that were written, each with its row where that is surely what a reader would find.
    results: dict[str, ResultRow | None] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return self.messages or self.letters or bool(self.results)

    def add(self, other: Changes) -> None:
        self.messages = self.messages or other.messages
        self.letters = self.letters or other.letters
        self.results.update(other.results)


def payloads(changes: Changes, sender: str = "") -> dict[str, str]:
    """What listeners are told, at most 8000 bytes each: sender, kind, and the ids of results."""
    found = {}
    if changes.messages:
        found["messages"] = f"{sender}:m:"
    if changes.letters:
        found["letters"] = f"{sender}:l:"
    if changes.results:
        ids = json.dumps(sorted(changes.results))
        # "*" makes every watcher look.
        found["results"] = f"{sender}:r:{ids if len(ids) < 7500 else '*'}"
    return found
