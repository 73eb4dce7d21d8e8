"""What a person sees while a command waits: a bar or a line on the terminal, nothing anywhere else."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from celerylite import _clock
from celerylite.exceptions import TimeoutError

__all__ = ("bar", "wait_for")

#: Seconds between two looks at what is said about a task.
_LOOK_S = 0.25
_CELLS = 30


@contextmanager
def bar(length: int, label: str, *, quiet: bool = False) -> Iterator[Any]:
    """A bar of `length` steps; call `update(n)` of what is yielded. Hidden where nobody watches."""
    with click.progressbar(
        length=length, label=label, file=sys.stderr, hidden=not _is_watched(quiet) or length == 0
    ) as shown:
        yield shown


def wait_for(result: Any, *, quiet: bool = False) -> Any:
    """The value of a result, as `get()` gives it; meanwhile one line says its state and the time.

    A task that calls ``update_state(meta={"current": 3, "total": 10})`` gets a bar.
    """
    if not _is_watched(quiet):
        return result.get()
    try:
        return _shown_until_ready(result)
    finally:
        _show("")


def _shown_until_ready(result: Any) -> Any:
    begun = _clock.monotonic()
    while True:
        try:
            return result.get(timeout=_LOOK_S)
        except TimeoutError:
            if result.ready():
                raise  # The task's own.
        _show(_described(result.state, result.info, _clock.monotonic() - begun))


def _is_watched(quiet: bool) -> bool:
    """Whether somebody sees the standard error. It is where bars go: standard output is for results."""
    return not quiet and sys.stderr.isatty()


def _show(line: str) -> None:
    # Back to the start of the line, and clear it.
    click.echo(f"\r\x1b[K{line}", nl=False, err=True)


def _described(state: str, info: Any, elapsed_s: float) -> str:
    shown = f"{state} {elapsed_s:.0f} s"
    if isinstance(info, Mapping) and {"current", "total"} <= set(info):
        try:
            part = min(1.0, max(0.0, info["current"] / info["total"]))
        except (TypeError, ZeroDivisionError):
            return shown
        full = round(part * _CELLS)
        return f"{shown}  [{'#' * full}{'-' * (_CELLS - full)}]  {part:.0%}"
    return shown
