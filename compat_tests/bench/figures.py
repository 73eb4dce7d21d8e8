"""What a run found: numbers per measure, contender and figure, and what is worked out of them."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

__all__ = ("Findings",)


@dataclass(slots=True)
class Findings:
    """Numbers in the order of the rounds."""

    #: By (measure, contender, key of the figure).
    numbers: dict[tuple[str, str, str], list[float]] = field(default_factory=dict)
    #: Why a contender could not be measured, by (measure, contender).
    failures: dict[tuple[str, str], str] = field(default_factory=dict)

    def add(self, measure: str, contender: str, figures: dict[str, float]) -> None:
        """Take in what one round yielded."""
        for key, value in figures.items():
            self.numbers.setdefault((measure, contender, key), []).append(value)

    def values(self, measure: str, contender: str, key: str) -> list[float]:
        """All numbers of one figure, [] when it was not measured."""
        return self.numbers.get((measure, contender, key), [])

    def median(self, measure: str, contender: str, key: str) -> float | None:
        """The median of one figure, None when it was not measured."""
        values = self.values(measure, contender, key)
        return statistics.median(values) if values else None

    def ratio(self, measure: str, contender: str, key: str, reference: str) -> float | None:
        """The median over that of the reference, None when one of them was not measured or is 0."""
        ours, theirs = self.median(measure, contender, key), self.median(measure, reference, key)
        return ours / theirs if ours is not None and theirs else None

    @classmethod
    def of_rows(cls, rows: Iterable[Mapping[str, Any]]) -> Findings:
        """What `as_rows` gave, back."""
        findings = cls()
        for row in rows:
            findings.numbers[row["measure"], row["contender"], row["figure"]] = list(row["values"])
        return findings

    def as_rows(self) -> Iterator[dict[str, object]]:
        """One mapping for each figure, as a JSON file has them."""
        for (measure, contender, key), values in self.numbers.items():
            yield {
                "measure": measure,
                "contender": contender,
                "figure": key,
                "median": statistics.median(values),
                "values": values,
            }
