"""What a process is doing and how much memory it needs."""

from __future__ import annotations

import gc
import inspect
import os
import sys
import threading
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pprint import pprint
from typing import Any, NoReturn

from celerylite.local import try_import
from celerylite.platforms import signals

from .text import WhateverIO

__all__ = ("blockdetection", "sample_mem", "memdump", "sample", "humanbytes", "mem_rss", "ps", "cry")

UNITS = ((2**40.0, "TB"), (2**30.0, "GB"), (2**20.0, "MB"), (2**10.0, "KB"), (0.0, "b"))

#: psutil's class; None where psutil is not installed.
Process: Any = getattr(try_import("psutil"), "Process", None)

_process: Any = None
_mem_sample: list[str | None] = []


def _on_blocking(signum: int, frame: Any) -> NoReturn:
    raise RuntimeError(f"Blocking detection timed-out at: {inspect.getframeinfo(frame)}")


@contextmanager
def blockdetection(timeout: float | None) -> Iterator[Any]:
    """Raise RuntimeError in the block when it takes longer than so many seconds.

    Main thread only (SIGALRM).
    """
    if not timeout:
        yield None
        return
    previous = signals["ALRM"]
    signals["ALRM"] = _on_blocking
    try:
        signals.arm_alarm(timeout)
        yield None
    finally:
        if previous and previous != _on_blocking:
            signals["ALRM"] = previous
        signals.reset_alarm()


def ps() -> Any:
    """psutil's view of this process; None where psutil is not installed."""
    global _process
    if _process is None and Process is not None:
        _process = Process(os.getpid())
    return _process


def mem_rss() -> str | None:
    """Memory in use, for people; None where psutil is not installed."""
    process = ps()
    return None if process is None else humanbytes(process.memory_info().rss)


def sample_mem() -> str | None:
    """Note the memory in use now, for `memdump`."""
    used = mem_rss()
    _mem_sample.append(used)
    return used


def memdump(samples: int = 10, file: Any = None) -> None:
    """Print what was noted since the last time, and what is in use after collecting garbage."""
    say = partial(print, file=file)  # its purpose is to print
    if ps() is None:
        say("- rss: (psutil not installed).")
        return
    noted = _mem_sample if len(_mem_sample) <= samples else list(sample(_mem_sample, samples))
    if noted:
        say("- rss (sample):")
    for used in noted:
        say(f"-    > {used},")
    _mem_sample.clear()
    gc.collect()
    say(f"- rss (end): {mem_rss()}.")


def sample(x: Sequence[Any], n: int, k: int = 0) -> Iterator[Any]:
    """`n` items at equal distances, from number `k` on."""
    step = len(x) // n
    for index in range(k, k + n * step, step) if step else [k] * n:
        if index >= len(x):
            return
        yield x[index]


def hfloat(f: float, p: int = 5) -> int | str:
    """A number with at most `p` digits; a whole one as an int."""
    return int(f) if int(f) == f else f"{f:.{p}}"


def humanbytes(s: float) -> str:
    """A number of bytes in the largest unit that it has one of."""
    size, unit = next((size, unit) for size, unit in UNITS if s >= size)
    return f"{hfloat(s / size if size else s)}{unit}"


def cry(out: Any = None, sepchr: str = "=", seplen: int = 49) -> Any:
    """The stack and the local variables of every thread, as text or written to `out`."""
    out = WhateverIO() if out is None else out
    line = sepchr * seplen
    threads = {thread.ident: thread for thread in threading.enumerate()}
    for ident, frame in sys._current_frames().items():
        thread = threads.get(ident)
        if thread is None:  # it ended in this moment, or was left behind by a fork
            continue
        out.write(f"{thread.name}\n{line}\n")
        traceback.print_stack(frame, file=out)
        out.write(f"{line}\nLOCAL VARIABLES\n{line}\n")
        pprint(frame.f_locals, stream=out)
        out.write("\n\n")
    return out.getvalue()
