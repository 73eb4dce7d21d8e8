"""An exception with its traceback, as text and in a form that can be pickled."""

from __future__ import annotations

import sys
import traceback as _traceback
import types
from collections.abc import Iterator
from typing import Any

__all__ = ("ExceptionInfo", "ExceptionWithTraceback", "RemoteTraceback", "Traceback")

#: Deeper than this a traceback is cut.
DEFAULT_MAX_FRAMES = sys.getrecursionlimit() // 8

ExcInfo = tuple[type[BaseException], BaseException, types.TracebackType | None]


class ExceptionInfo:
    """What is known about an exception that a task raised. Can be pickled as far as the exception can."""

    #: Class of the exception.
    type: type[BaseException]
    #: The exception inside an `ExceptionWithTraceback`, which is undone by pickling.
    exception: Any
    #: The traceback without its variables; works with the module `traceback`.
    tb: Any
    #: The traceback as text.
    traceback: str
    #: Did our own code fail, and not the task?
    internal: bool = False

    def __init__(self, exc_info: Any = None, internal: bool = False) -> None:
        kind: Any
        exception: Any
        kind, exception, tb = exc_info or sys.exc_info()
        self.type = kind
        self.internal = internal
        self.tb = Traceback(tb) if tb is not None else None
        self.traceback = "".join(_traceback.format_exception(kind, exception, tb))
        self.exception = ExceptionWithTraceback(exception, self.traceback)

    @property
    def exc_info(self) -> tuple[Any, Any, Any]:
        """Class, exception and traceback."""
        return self.type, self.exception, self.tb

    def __str__(self) -> str:
        return self.traceback

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.exception!r}>"


class ExceptionWithTraceback(Exception):
    """`exc` and its traceback as text. Pickling gives back `exc` itself, caused by a `RemoteTraceback`."""

    def __init__(self, exc: BaseException, tb: str) -> None:
        super().__init__()
        self.exc = exc
        self.tb = f'\n"""\n{tb}"""'

    def __str__(self) -> str:
        return self.tb

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild_exc, (self.exc, self.tb)


class RemoteTraceback(Exception):
    """The traceback of another process, as text."""

    def __init__(self, tb: str) -> None:
        super().__init__(tb)
        self.tb = tb

    def __str__(self) -> str:
        return self.tb


def rebuild_exc(exc: BaseException, tb: str) -> BaseException:
    """The exception, caused by its traceback."""
    exc.__cause__ = RemoteTraceback(tb)
    return exc


class _Code:
    """What a traceback shows of a code object."""

    def __init__(self, code: types.CodeType) -> None:
        self.co_filename = code.co_filename
        self.co_name = code.co_name
        self.co_qualname = code.co_qualname
        self.co_firstlineno = code.co_firstlineno
        self.co_flags = code.co_flags
        self.co_argcount = code.co_argcount
        self._positions = list(code.co_positions())

    def co_positions(self) -> Iterator[tuple[int | None, int | None, int | None, int | None]]:
        """Where in the source each instruction is."""
        return iter(self._positions)


class _Frame:
    """What a traceback shows of a frame. No variables: they may be secret, large, or impossible to pickle."""

    def __init__(self, frame: types.FrameType) -> None:
        self.f_code = _Code(frame.f_code)
        self.f_lineno = frame.f_lineno
        self.f_lasti = frame.f_lasti
        self.f_globals = {
            "__file__": frame.f_globals.get("__file__", "__main__"),
            "__name__": frame.f_globals.get("__name__"),
            "__loader__": None,
        }
        hidden = frame.f_locals.get("__traceback_hide__")
        self.f_locals = {} if hidden is None else {"__traceback_hide__": hidden}
        self.f_builtins: dict[str, Any] = {}
        self.f_back = None
        self.f_trace = None


class _Rest:
    """Stands for the part of a traceback that was cut off."""

    co_filename = "..."
    co_name = co_qualname = "[rest of traceback truncated]"
    co_firstlineno = f_lineno = tb_lineno = -1
    co_flags = co_argcount = tb_lasti = f_lasti = 0
    f_back = f_trace = tb_next = None

    def __init__(self) -> None:
        self.f_globals: dict[str, Any] = {"__file__": "", "__name__": "", "__loader__": None}
        self.f_locals: dict[str, Any] = {}

    @property
    def tb_frame(self) -> _Rest:
        """Itself, as a frame."""
        return self

    @property
    def f_code(self) -> _Rest:
        """Itself, as code."""
        return self

    def co_positions(self) -> Iterator[tuple[None, None, None, None]]:
        """Nowhere."""
        return iter([(None, None, None, None)])


class Traceback:
    """A traceback that can be pickled: the lines, without the variables."""

    def __init__(self, tb: types.TracebackType, max_frames: int = DEFAULT_MAX_FRAMES, depth: int = 0) -> None:
        self.tb_frame = _Frame(tb.tb_frame)
        self.tb_lineno = tb.tb_lineno
        self.tb_lasti = tb.tb_lasti
        self.tb_next: Traceback | _Rest | None = None
        if tb.tb_next is not None:
            deeper = depth <= max_frames
            self.tb_next = Traceback(tb.tb_next, max_frames, depth + 1) if deeper else _Rest()
