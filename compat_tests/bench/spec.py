"""What a measure is: the figures it yields, who takes part, how often, and how large."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

__all__ = ("Figure", "Order", "Size", "Spec")


class Size(Enum):
    """How much work a run does."""

    TINY = "tiny"
    QUICK = "quick"
    FULL = "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class Figure:
    """One number that a measure yields."""

    key: str
    title: str
    #: Digits behind the point.
    digits: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Spec:
    """A measure. Its module has this as SPEC, and `run(order)`, called once in a fresh process a round."""

    name: str
    title: str
    figures: tuple[Figure, ...]
    #: Names of those that take part, in the order of the table.
    contenders: tuple[str, ...]
    #: Rounds of a quick run and of a full one.
    rounds: tuple[int, int] = (3, 5)
    #: The contender that the ratios are against.
    reference: str = "celerylite"
    #: Seconds after which a round counts as hung.
    limit_s: int = 60

    def rounds_of(self, size: Size) -> int:
        """How often each contender has its turn."""
        return {Size.TINY: 1, Size.QUICK: self.rounds[0], Size.FULL: self.rounds[1]}[size]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What a fresh process is told to measure. Its working directory is new and empty."""

    measure: str
    contender: str
    size: Size
    #: When the process was asked for, by the monotonic clock that all processes of a machine share.
    asked_at: float

    def of(self, *, tiny: int, quick: int, full: int) -> int:
        """The number that goes with the size."""
        return {Size.TINY: tiny, Size.QUICK: quick, Size.FULL: full}[self.size]
