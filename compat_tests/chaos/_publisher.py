"""A process that publishes calls of every kind without end, and notes which of them were accepted."""

from __future__ import annotations

import os
import random
import sys
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kombu.exceptions import OperationalError

from celerylite import chain, chord
from celerylite.utils import uuid
from compat_tests.chaos import proj
from compat_tests.chaos._ledger import Ledger

__all__ = ("main",)


@dataclass(slots=True, kw_only=True)
class Offer:
    """One thing to publish, and what is known about it beforehand."""

    kind: str
    publish: Callable[[], Any]
    #: The id of each call it consists of, and the role that it plays.
    ids: dict[str, str]
    #: Which call must end with which value, if all goes well.
    values: dict[str, int] = field(default_factory=dict)
    #: The calls whose success leads to a further one: the body of a chord, the next step of a chain.
    after: dict[str, list[str]] = field(default_factory=dict)
    not_before: float = 0.0
    revoke: bool = False


class Publisher:
    """Publishes `rate` offers in a second until its process ends."""

    def __init__(self, rate: float, seed: int) -> None:
        self._random = random.Random(seed)
        self._pause_s = 1 / rate
        self._kinds: list[tuple[Callable[[], Offer], int]] = [
            (lambda: self._single("early"), 4),
            (lambda: self._single("late"), 4),
            (lambda: self._single("coroutine"), 2),
            (lambda: self._single("late_coroutine"), 2),
            (lambda: self._single("retried"), 2),
            (lambda: self._single("stubborn"), 2),
            (lambda: self._single("limited"), 2),
            (lambda: self._single("reporting"), 2),
            (lambda: self._single("failing"), 1),
            (self._delayed, 2),
            (self._revoked, 1),
            (self._chain, 2),
            (self._chord, 2),
        ]

    def run(self, ledger: Ledger) -> None:
        """Publish without end."""
        makers = [maker for maker, _ in self._kinds]
        weights = [weight for _, weight in self._kinds]
        pause = threading.Event()
        while not pause.wait(self._random.uniform(0, 2 * self._pause_s)):
            (make,) = self._random.choices(makers, weights)
            self._offer(make(), ledger)

    def _offer(self, offer: Offer, ledger: Ledger) -> None:
        number = uuid()
        facts = {"kind": offer.kind, "ids": offer.ids, "values": offer.values, "after": offer.after}
        ledger.write("offered", number=number, not_before=offer.not_before, **facts)
        try:
            offer.publish()
        except OperationalError as error:
            ledger.write("refused", number=number, why=str(error)[:200])
            return
        ledger.write("accepted", number=number)
        if offer.revoke:
            self._revoke(next(iter(offer.ids)), ledger)

    def _revoke(self, task_id: str, ledger: Ledger) -> None:
        try:
            proj.app.control.revoke(task_id)
        except OperationalError as error:
            ledger.write("not revoked", id=task_id, why=str(error)[:200])
        else:
            ledger.write("revoked", id=task_id)

    def _seconds(self) -> float:
        # Most are quick; some run long enough to be hit by a kill, or by the end of the grace.
        return self._random.choice([0.0, 0.0, 0.0, 0.01, 0.1, 0.3, 1.0])

    def _single(self, name: str, **options: Any) -> Offer:
        task, task_id = getattr(proj, name), uuid()
        args = (1, self._seconds())
        values = {} if name == "failing" else {task_id: 2}
        publish = lambda: task.apply_async(args, task_id=task_id, **options)  # noqa: E731 - one of four shapes
        return Offer(kind=name, publish=publish, ids={task_id: name}, values=values)

    def _delayed(self) -> Offer:
        countdown = self._random.choice([0.3, 1.0, 3.0])
        offer = self._single(self._random.choice(["early", "late", "coroutine"]), countdown=countdown)
        offer.kind, offer.not_before = "eta", countdown
        return offer

    def _revoked(self) -> Offer:
        offer = self._single("early", countdown=6.0)
        offer.kind, offer.revoke, offer.not_before = "revoked", True, 6.0
        return offer

    def _chain(self) -> Offer:
        names = ["early", "late", "coroutine", "early"]
        ids = [uuid() for _ in names]
        steps = [
            getattr(proj, name).s(*((1,) if i == 0 else ()), seconds=self._seconds()).set(task_id=ids[i])
            for i, name in enumerate(names)
        ]
        return Offer(
            kind="chain",
            publish=lambda: chain(*steps).apply_async(),
            ids=dict(zip(ids, names, strict=True)),
            values={task_id: i + 2 for i, task_id in enumerate(ids)},
            after={ids[i]: [ids[i - 1]] for i in range(1, len(ids))},
        )

    def _chord(self) -> Offer:
        names = self._random.choices(["early", "late", "coroutine", "late_coroutine"], k=5)
        ids, body = [uuid() for _ in names], uuid()
        header = [
            getattr(proj, name).s(i, seconds=self._seconds()).set(task_id=ids[i])
            for i, name in enumerate(names)
        ]
        return Offer(
            kind="chord",
            publish=lambda: chord(header)(proj.total.s().set(task_id=body)),
            ids={**dict(zip(ids, names, strict=True)), body: "total"},
            values={**{task_id: i + 1 for i, task_id in enumerate(ids)}, body: sum(range(1, 6))},
            after={body: ids},
        )


def main() -> None:
    """``python -m compat_tests.chaos._publisher RATE SEED``."""
    rate, seed = float(sys.argv[1]), int(sys.argv[2])
    Publisher(rate, seed + os.getpid()).run(proj.ledger)


if __name__ == "__main__":
    main()
