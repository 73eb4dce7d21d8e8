"""Stamps: headers that a visitor puts on each task of a workflow before it is sent."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any

__all__ = ("StampingVisitor",)


class StampingVisitor(ABC):
    """Walks a workflow (``sig.stamp(visitor)``) and answers each part with its stamps.

    An answer is a dict of headers. Its key ``stamped_headers`` names those that are stamps; without
    it all are.
    """

    def on_group_start(self, group: Any, **headers: Any) -> dict[str, Any]:
        """Stamps for every task of `group`."""
        return {}

    def on_group_end(self, group: Any, **headers: Any) -> None:  # noqa: B027 - optional
        """Called after the tasks of `group`."""

    def on_chain_start(self, chain: Any, **headers: Any) -> dict[str, Any]:
        """Stamps for every task of `chain`."""
        return {}

    def on_chain_end(self, chain: Any, **headers: Any) -> None:  # noqa: B027 - optional
        """Called after the tasks of `chain`."""

    @abstractmethod
    def on_signature(self, sig: Any, **headers: Any) -> dict[str, Any]:
        """Stamps for the single task `sig`."""

    def on_chord_header_start(self, sig: Any, **header: Any) -> dict[str, Any]:
        """Stamps for the header of the chord `sig`: by default what its group gets."""
        return self.on_group_start(sig.header_group(), **header)

    def on_chord_header_end(self, sig: Any, **header: Any) -> None:
        """Called after the header of the chord `sig`."""
        self.on_group_end(sig.tasks, **header)

    def on_chord_body(self, sig: Any, **header: Any) -> dict[str, Any]:
        """Stamps for the body of the chord `sig`."""
        return {}

    def on_callback(self, callback: Any, **header: Any) -> dict[str, Any]:
        """Stamps for a linked callback."""
        return {}

    def on_errback(self, errback: Any, **header: Any) -> dict[str, Any]:
        """Stamps for a linked errback."""
        return {}


StampingVisitor.__module__ = "celerylite.canvas"


def stamps_for(
    own: dict[str, Any] | None, answer: dict[str, Any] | None, append: bool, headers: dict[str, Any]
) -> dict[str, Any]:
    """The headers to put on a task: those handed down, then a visitor's `answer`, then its `own` stamps.

    Where two have the same header the first one wins, or both are kept in a list with `append`.
    """
    stamps = headers.copy()
    stamps.setdefault("stamped_headers", list(headers))
    if answer is not None:
        answer.setdefault("stamped_headers", list(answer))
        merge_dictionaries(stamps, answer, aggregate_duplicates=append)
    if own is not None:
        names = {*stamps["stamped_headers"], *own.get("stamped_headers", [])}
        stamps["stamped_headers"] = list(names)
        merge_dictionaries(
            stamps, {key: value for key, value in own.items() if key in names}, aggregate_duplicates=append
        )
    if answer is not None or own is not None:
        stamps["stamped_headers"] = list(set(stamps["stamped_headers"]))
    return stamps


def merge_dictionaries(d1: dict[str, Any], d2: dict[str, Any], aggregate_duplicates: bool = True) -> None:
    """Merge `d2` into `d1`: dicts recursively, lists end to end.

    Other values that both have are gathered in a list if `aggregate_duplicates`, else `d1` keeps its own.
    """
    for key, theirs in (d2 or {}).items():
        if key not in d1:
            d1[key] = theirs
        elif isinstance(d1[key], dict):
            merge_dictionaries(d1[key], theirs, aggregate_duplicates)
        else:
            d1[key] = _merged_value(d1[key], theirs, aggregate_duplicates)


def _merged_value(ours: Any, theirs: Any, aggregate: bool) -> Any:
    if aggregate and isinstance(ours, (int, float, str)):
        ours = [ours]
    if isinstance(theirs, list) and isinstance(ours, list):
        ours.extend(theirs)
        return ours
    if not aggregate:
        return ours
    return [*([] if ours is None else ours), theirs]
