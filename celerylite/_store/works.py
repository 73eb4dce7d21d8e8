"""What the writer is given to commit: inserts, begins and settlements. Each can be tried again."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from celerylite import _clock
from celerylite._call_keys import UNIQUE
from celerylite._store import Delivery, Outgoing, Published, Settlement
from celerylite._store.engine import Transaction
from celerylite._store.messages import Messages, row_of
from celerylite._store.unanswered import OneStatement
from celerylite._store.unique import has_key
from celerylite._store.writer import Work

__all__ = ("BeginningOne", "Inserting", "InsertingOne", "Settling", "is_one_claimed")


def is_one_claimed(outgoing: Sequence[Outgoing]) -> bool:
    """Whether that is a single message that nobody has to be told of."""
    return len(outgoing) == 1 and outgoing[0].claim is not None and outgoing[0].message.due_at is None


class Inserting:
    """Messages on their way. They are made into rows before anybody has to wait for this commit."""

    __slots__ = ("_messages", "claims", "outgoing", "rows")

    def __init__(self, messages: Messages, outgoing: Sequence[Outgoing]) -> None:
        self._messages, self.outgoing = messages, outgoing
        now = _clock.time()
        self.rows = [row_of(each, now) for each in outgoing]
        #: Whether a Delivery is to be returned for any of them.
        self.claims = any(each.claim for each in outgoing)

    def __call__(self, tx: Transaction) -> list[Published]:
        return list(self._messages.insert_rows(tx, self.outgoing, self.rows))


class InsertingOne(Inserting, OneStatement[list[Published]]):
    """The insert of a message that is born claimed; its token tells whether it was committed."""

    __slots__ = ()

    def found(self, tx: Transaction) -> tuple[list[Published]] | None:
        ((values, token),) = self.rows
        delivery = self._messages.inserted_with(tx, self.outgoing[0], token or "")
        if delivery is None and not self._messages.was_inserted(tx, values):
            return None
        # None: others have taken it, as this process was taken for dead meanwhile.
        return ([delivery],)


class BeginningOne(OneStatement[set[int]]):
    """The mark that one delivery runs; to set it twice is to set it."""

    __slots__ = ("_begin",)

    def __init__(self, begin: Work[set[int]]) -> None:
        self._begin = begin

    def __call__(self, tx: Transaction) -> set[int]:
        return self._begin(tx)


class Settling:
    """One settlement on its way, and what it published in the transaction that was tried last."""

    __slots__ = ("_settle", "key", "published", "removes", "settlement")

    def __init__(
        self, settle: Callable[[Transaction, Sequence[Settling]], None], settlement: Settlement
    ) -> None:
        self._settle, self.settlement = settle, settlement
        delivery = settlement.delivery
        #: Those of one claim share a token.
        self.key = (delivery.row, delivery.token)
        self.published: list[Delivery | None] = []
        #: Whether it does what most do: delete its message, which frees no key.
        self.removes = (
            settlement.requeue_at is None
            and UNIQUE not in delivery.message.headers
            and not has_key(settlement.publish)
        )

    def __call__(self, tx: Transaction) -> list[Delivery | None]:
        self._settle(tx, [self])
        return self.published
