"""Folding: what ``chain(a, b, c)`` and ``a | b | c`` make of a line of signatures."""

from __future__ import annotations

import operator
from collections.abc import Iterable
from functools import reduce
from typing import Any

from celerylite._canvas.signature import (
    Signature,
    is_chain,
    is_chord,
    is_empty_group,
    is_group,
    maybe_unroll_group,
    new_chain,
    new_chord,
)

__all__ = ("_fold_chain", "_merge_chain_step")


def _fold_chain(tasks: Iterable[Any]) -> Any:
    """What piping `tasks` one into the other gives, in linear time.

    Piping for real would copy all earlier steps at each ``|``.
    """
    tasks = list(tasks)
    steps: list[Any] = []
    remaining = iter(tasks)
    for position, task in enumerate(remaining):
        # The last step is used as it is: nothing will be added to it.
        folded = _merge_chain_step(steps, task, clone_other=position != len(tasks) - 1)
        if folded is NotImplemented:
            return reduce(operator.or_, tasks, new_chain())
        if folded is not steps:
            return reduce(operator.or_, remaining, folded)
    return new_chain([*(step.clone() for step in steps[:-1]), *steps[-1:]])


def _merge_chain_step(steps: list[Any], other: Any, clone_other: bool = True) -> Any:
    """Add `other` to the end of `steps` (changing that list) and return `steps`.

    Returns something else when the line is no longer a list of steps: the signature that it has
    become, or NotImplemented when only `other` itself knows how it is piped.
    """
    if is_empty_group(other):
        return steps
    if is_group(other):
        return _merge_group(steps, other, clone_other)
    if is_chain(other):
        return _merge_chain(steps, other, clone_other)
    if isinstance(other, Signature):
        _merge_single(steps, other, clone_other)
        return steps
    return NotImplemented


def _merge_group(steps: list[Any], other: Any, clone_other: bool) -> Any:
    unrolled = maybe_unroll_group(other)
    if not is_group(unrolled):
        return _merge_chain_step(steps, unrolled, clone_other)
    if not steps:
        return unrolled
    if is_chord(steps[-1]):
        steps[-1].body = steps[-1].body | unrolled
    else:
        steps.append(unrolled.clone() if clone_other else unrolled)
    return steps


def _merge_chain(steps: list[Any], other: Any, clone_other: bool) -> Any:
    inner = other.unchain_tasks()
    remaining = iter(inner)
    for position, task in enumerate(remaining):
        is_last = position == len(inner) - 1
        folded = _merge_chain_step(steps, task, clone_other or not is_last)
        if folded is NotImplemented:
            return folded
        if folded is not steps:
            return reduce(operator.or_, remaining, folded)
    return steps


def _merge_single(steps: list[Any], other: Any, clone_other: bool) -> None:
    if steps and is_group(steps[-1]):
        steps[-1] = new_chord(steps[-1], other.clone() if clone_other else other)
    elif steps and is_chord(steps[-1]) and not is_chord(other):
        steps[-1].body = steps[-1].body | other
    else:
        steps.append(other.clone() if clone_other else other)
