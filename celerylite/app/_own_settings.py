"""The settings that only celerylite has: what they may be, and what is said of one that is none of them."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches
from typing import Any

from celerylite.app.defaults import DEFAULTS
from celerylite.exceptions import ImproperlyConfigured
from celerylite.utils.log import get_logger

__all__ = ("check",)

logger = get_logger(__name__)

_PREFIX = "celerylite_"
#: What the settings that choose may be.
_CHOICES: dict[str, tuple[Any, ...]] = {
    "celerylite_runtime": ("auto", "on", "off"),
    "celerylite_beat": ("auto", "on", "off"),
    "celerylite_durability": ("memory", "normal", "full"),
}
#: Other ways to say off and on.
_ALSO: tuple[Any, ...] = (True, False, None)


def check(conf: Any) -> None:
    """Raise ImproperlyConfigured for a value that means nothing; warn of names that are no setting."""
    for name, choices in _CHOICES.items():
        value = conf[name]
        if value not in choices and (name == "celerylite_durability" or value not in _ALSO):
            expected = " or ".join([", ".join(map(repr, choices[:-1])), repr(choices[-1])])
            raise ImproperlyConfigured(f"{name}: expected {expected}, got {value!r}; correct the setting")
    _warn_of_unknown(name for name in conf if isinstance(name, str))


def _warn_of_unknown(names: Iterable[str]) -> None:
    for name in names:
        if name.startswith(_PREFIX) and name not in DEFAULTS:
            known = get_close_matches(name, (each for each in DEFAULTS if each.startswith(_PREFIX)), 1)
            hint = f"did you mean {known[0]}?" if known else "docs/settings.md lists those there are."
            logger.warning("%s is no setting and has no effect; %s", name, hint, extra={"action": "setting"})
