"""Text in the colours of a terminal."""

from __future__ import annotations

import base64
import os
import platform
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ("colored",)

BLACK, RED, GREEN, YELLOW, BLUE, MAGENTA, CYAN, WHITE = range(8)
OP_SEQ = "\033[%dm"
RESET_SEQ = "\033[0m"
COLOR_SEQ = "\033[1;%dm"

IS_WINDOWS = platform.system() == "Windows"

_FOREGROUND, _BACKGROUND = 30, 40


def fg(s: int) -> str:
    """The sequence that switches to colour number `s`."""
    return COLOR_SEQ % s


class colored:
    """Parts of text with one style, nested: `c = colored(); print(c.red("a ", c.bold("b")))`.

    `enabled=False` gives the same text without any style.
    """

    def __init__(self, *s: object, **kwargs: Any) -> None:
        self.s: tuple[object, ...] = s
        self.enabled: bool = not IS_WINDOWS and kwargs.get("enabled", True)
        self.op: str = kwargs.get("op", "")
        self.names: dict[str, Callable[..., colored]] = {
            "black": self.black,
            "red": self.red,
            "green": self.green,
            "yellow": self.yellow,
            "blue": self.blue,
            "magenta": self.magenta,
            "cyan": self.cyan,
            "white": self.white,
        }

    def no_color(self) -> str:
        """The bare text."""
        return "".join(_bare(part) for part in self.s)

    def embed(self) -> str:
        """The styled text, without the end of the style."""
        return (self.op if self.enabled else "") + "".join(str(part) for part in self.s)

    def __str__(self) -> str:
        return self.embed() + (RESET_SEQ if self.enabled else "")

    def __repr__(self) -> str:
        return repr(self.no_color())

    def __add__(self, other: object) -> str:
        return f"{self}{other}"

    def node(self, s: tuple[object, ...], op: str) -> colored:
        """Parts with the style that the sequence `op` switches on."""
        return type(self)(*s, enabled=self.enabled, op=op)

    def black(self, *s: object) -> colored:
        """The parts in black."""
        return self.node(s, fg(_FOREGROUND + BLACK))

    def red(self, *s: object) -> colored:
        """The parts in red."""
        return self.node(s, fg(_FOREGROUND + RED))

    def green(self, *s: object) -> colored:
        """The parts in green."""
        return self.node(s, fg(_FOREGROUND + GREEN))

    def yellow(self, *s: object) -> colored:
        """The parts in yellow."""
        return self.node(s, fg(_FOREGROUND + YELLOW))

    def blue(self, *s: object) -> colored:
        """The parts in blue."""
        return self.node(s, fg(_FOREGROUND + BLUE))

    def magenta(self, *s: object) -> colored:
        """The parts in magenta."""
        return self.node(s, fg(_FOREGROUND + MAGENTA))

    def cyan(self, *s: object) -> colored:
        """The parts in cyan."""
        return self.node(s, fg(_FOREGROUND + CYAN))

    def white(self, *s: object) -> colored:
        """The parts in white."""
        return self.node(s, fg(_FOREGROUND + WHITE))

    def ired(self, *s: object) -> colored:
        """The parts on red."""
        return self.node(s, fg(_BACKGROUND + RED))

    def igreen(self, *s: object) -> colored:
        """The parts on green."""
        return self.node(s, fg(_BACKGROUND + GREEN))

    def iyellow(self, *s: object) -> colored:
        """The parts on yellow."""
        return self.node(s, fg(_BACKGROUND + YELLOW))

    def iblue(self, *s: object) -> colored:
        """The parts on blue."""
        return self.node(s, fg(_BACKGROUND + BLUE))

    def imagenta(self, *s: object) -> colored:
        """The parts on magenta."""
        return self.node(s, fg(_BACKGROUND + MAGENTA))

    def icyan(self, *s: object) -> colored:
        """The parts on cyan."""
        return self.node(s, fg(_BACKGROUND + CYAN))

    def iwhite(self, *s: object) -> colored:
        """The parts on white."""
        return self.node(s, fg(_BACKGROUND + WHITE))

    def bold(self, *s: object) -> colored:
        """The parts in bold."""
        return self.node(s, OP_SEQ % 1)

    def underline(self, *s: object) -> colored:
        """The parts underlined."""
        return self.node(s, OP_SEQ % 4)

    def blink(self, *s: object) -> colored:
        """The parts blinking."""
        return self.node(s, OP_SEQ % 5)

    def reverse(self, *s: object) -> colored:
        """The parts with text and background exchanged."""
        return self.node(s, OP_SEQ % 7)

    def bright(self, *s: object) -> colored:
        """As Celery: the same number as "conceal" on many terminals."""
        return self.node(s, OP_SEQ % 8)

    def reset(self, *s: object) -> colored:
        """The parts without style."""
        return self.node(s or ("",), RESET_SEQ)


def _bare(part: object) -> str:
    return part.no_color() if isinstance(part, colored) else str(part)


def supports_images() -> bool:
    """Can the terminal show images (iTerm)?"""
    return bool(getattr(sys.stdin, "isatty", bool)() and os.environ.get("ITERM_PROFILE"))


def imgcat(path: str, inline: int = 1, preserve_aspect_ratio: int = 0, **kwargs: Any) -> str:
    """The sequence that shows the image file on iTerm, also inside tmux."""
    in_screen = os.environ.get("TERM", "").startswith("screen")
    start = "\033Ptmux;\033\033]" if in_screen else "\033]"
    end = "\a\033\\" if in_screen else "\a"
    image = base64.b64encode(Path(path).read_bytes()).decode("ascii")
    return f"\n{start}1337;File=inline={inline:d};preserveAspectRatio={preserve_aspect_ratio:d}:{image}{end}"
