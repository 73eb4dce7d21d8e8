"""Text for people: cut, indented, counted, filled in."""

from __future__ import annotations

import io
import re
from collections.abc import Callable, Iterable
from functools import partial
from pprint import pformat
from textwrap import fill
from typing import Any

__all__ = (
    "abbr",
    "abbrtask",
    "dedent",
    "dedent_initial",
    "ensure_newlines",
    "ensure_sep",
    "fill_paragraphs",
    "indent",
    "join",
    "pluralize",
    "pretty",
    "str_to_list",
    "simple_format",
    "truncate",
)

UNKNOWN_SIMPLE_FORMAT_KEY = (
    "Unknown format %{0} in string {1!r}.\n"
    "Possible causes: Did you forget to escape the expand sign (use '%%{0!r}'),\n"
    "or did you escape and the value was expanded twice? (%%N -> %N -> %hostname)?"
)

RE_FORMAT = re.compile(r"%([%\w])")


def str_to_list(s: Any) -> Any:
    """Text split at its commas; anything else as it is."""
    return s.split(",") if isinstance(s, str) else s


def dedent_initial(s: str, n: int = 4) -> str:
    """The text without its first `n` spaces, if it has so many."""
    return s.removeprefix(" " * n)


def dedent(s: str, sep: str = "\n") -> str:
    """Every line without its first four spaces."""
    return sep.join(map(dedent_initial, s.splitlines()))


def fill_paragraphs(s: str, width: int, sep: str = "\n") -> str:
    """Each paragraph wrapped to `width` columns."""
    return sep.join(fill(paragraph, width) for paragraph in s.split(sep))


def join(l: Iterable[str], sep: str = "\n") -> str:  # noqa: E741 - Celery's argument name
    """Those that are not empty, joined."""
    return sep.join(filter(None, l))


def ensure_sep(sep: str, s: str, n: int = 2) -> str:
    """The text with separators added until it has `n` of them."""
    return s + sep * (n - s.count(sep))


ensure_newlines = partial(ensure_sep, "\n")


def abbr(S: str | None, max: int, ellipsis: str | bool = "...") -> str:
    """At most `max` characters, the ellipsis counted; None is `???`."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    mark = ellipsis if isinstance(ellipsis, str) else ""
    return S[: max - len(mark)] + mark if mark else S[:max]


def abbrtask(S: str | None, max: int) -> str:
    """The name of a task in at most `max` characters: its module is cut, its function is kept."""
    if S is None:
        return "???"
    if len(S) <= max:
        return S
    module, _, function = S.rpartition(".")
    return f"{abbr(module, max - len(function) - 3, False)}[.]{function}"


def indent(t: str, indent: int = 0, sep: str = "\n") -> str:
    """Every line moved right by so many spaces."""
    return sep.join(" " * indent + line for line in t.split(sep))


def truncate(s: str, maxlen: int | None = 128, suffix: str = "...") -> str:
    """Text of `maxlen` characters or more is cut there, if possible between words, and marked."""
    if maxlen and len(s) >= maxlen:
        return s[:maxlen].rsplit(" ", 1)[0] + suffix
    return s


def pluralize(n: float, text: str, suffix: str = "s") -> str:
    """The word for so many of them."""
    return text if n == 1 else text + suffix


def pretty(value: Any, width: int = 80, nl_width: int = 80, sep: str = "\n", **kw: Any) -> str:
    """The value for a terminal, over several lines where it is long."""
    if isinstance(value, dict):
        return f"{sep} {pformat(value, 4, nl_width)[1:]}"
    if isinstance(value, tuple):
        return f"{sep}    {pformat(value, width=nl_width, **kw)}"
    return pformat(value, width=width, **kw)


def match_case(s: str, other: str) -> str:
    """The text in upper case if `other` is, else in lower case."""
    return s.upper() if other.isupper() else s.lower()


def simple_format(
    s: str,
    keys: dict[str, str | Callable[[], Any]],
    pattern: re.Pattern[str] = RE_FORMAT,
    expand: str = r"\1",
) -> str:
    """The text with `%x` replaced by `keys['x']`, which may be a function.

    Raises ValueError for one not in `keys`.
    """
    if not s:
        return s
    known = {"%": "%", **keys}

    def resolve(match: re.Match[str]) -> str:
        key = match.expand(expand)
        if key not in known:
            raise ValueError(UNKNOWN_SIMPLE_FORMAT_KEY.format(key, s))
        value = known[key]
        return value() if callable(value) else value

    return pattern.sub(resolve, s)


def remove_repeating_from_task(task_name: str, s: str) -> str:
    """The text with the module of `task_name` only where it comes first: `t.add(1) | add(2)`."""
    module = str(task_name).rpartition(".")[0]
    return remove_repeating(f"{module}.", s) if module else s


def remove_repeating(substr: str, s: str) -> str:
    """The text with `substr` only where it comes first; part of a longer name is left alone."""
    head, found, rest = s.partition(substr)
    if not found:
        return s
    # `app.` is not the start of a name in `webapp.` or `my-app.`; it is one right after another `app.`.
    # As Celery: that one, too, counts as part of a longer name when `substr` ends in a dot.
    not_a_start = r"(?<![\w.-])"
    return head + found + re.sub(not_a_start + re.escape(substr), "", rest)


class WhateverIO(io.StringIO):
    """A text buffer that takes bytes as well."""

    def __init__(self, v: bytes | str | None = None, *a: Any, **kw: Any) -> None:
        super().__init__(v.decode() if isinstance(v, bytes) else v, *a, **kw)

    def write(self, data: bytes | str) -> int:
        """Write it; bytes as UTF-8."""
        return super().write(data.decode() if isinstance(data, bytes) else data)


#: The standard buffer, importable from here.
StringIO = io.StringIO
