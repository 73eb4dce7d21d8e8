"""Commits whose answer was lost with the connection: how it is found out whether they arrived."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeVar, cast

if TYPE_CHECKING:
    from celerylite._store.engine import Database, Statement, Transaction

__all__ = ("Attempts", "CommitUnknown", "OneStatement", "Proof")

T = TypeVar("T")


class OneStatement(Generic[T]):
    """Work that is one statement, which the database commits by itself: no transaction is put around it.

    So it must not defer anything, nor change what other processes have to be told of.
    """

    __slots__ = ()

    def __call__(self, tx: Transaction) -> T:
        raise NotImplementedError

    def found(self, tx: Transaction) -> tuple[T] | None:
        """What it returned, if it was committed and only the answer lost; None: to be done (again)."""
        return None


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """How to find out whether a transaction was committed: a read, and whether it then finds a row."""

    statement: Statement
    parameters: Mapping[str, Any]
    found: bool

    def of(self, result: T) -> Callable[[Transaction], tuple[T] | None]:
        """Looks whether the transaction that returned `result` was committed."""

        def look(tx: Transaction) -> tuple[T] | None:
            found = tx.one(self.statement, **self.parameters) is not None
            return (result,) if found == self.found else None

        return look


class CommitUnknown(Exception):
    """The connection was lost while COMMIT, or a statement that commits itself, was under way."""

    def __init__(self, look: Callable[[Transaction], tuple[Any] | None]) -> None:
        super().__init__(look)
        #: What was returned, if it was committed.
        self.look = look


class Attempts(Generic[T]):
    """Runs one transaction until it is committed once: not again when only the answer was lost."""

    __slots__ = ("_database", "_one", "_unknown", "_work")

    def __init__(
        self,
        database: Database,
        work: Callable[[Transaction], T],
        one: OneStatement[T] | None,
        unknown: CommitUnknown | None,
    ) -> None:
        self._database, self._work, self._one = database, work, one
        #: What the attempt before ended with, if nobody can say whether it was committed.
        self._unknown = unknown

    def once(self) -> T:
        if self._unknown is not None:
            committed = self._database.read_once(self._unknown.look)
            if committed is not None:
                return cast("T", committed[0])
            self._unknown = None
        try:
            return self._database.write_once(self._work, self._one)
        except CommitUnknown as lost:
            self._unknown = lost
            raise (lost.__cause__ or lost) from lost
