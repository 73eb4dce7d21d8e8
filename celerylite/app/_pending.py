"""The configuration of an app before it is read: keeps what is set, reads the source at the first look."""

from __future__ import annotations

from collections import UserDict
from collections.abc import Callable
from typing import Any

from kombu.utils.objects import cached_property

from celerylite.utils.collections import AttributeDictMixin

__all__ = ("PendingConfiguration",)


class PendingConfiguration(UserDict[str, Any], AttributeDictMixin):
    """A mapping that takes settings without reading the source, and reads it when one is asked for."""

    callback: Callable[[], Any]
    _data: dict[str, Any]

    def __init__(self, conf: dict[str, Any], callback: Callable[[], Any]) -> None:
        # Past AttributeDictMixin, for which attributes are settings.
        object.__setattr__(self, "_data", conf)
        object.__setattr__(self, "callback", callback)

    def __setitem__(self, key: str, value: Any) -> None:
        self._data[key] = value

    def clear(self) -> None:
        self._data.clear()

    def update(self, *args: Any, **kwargs: Any) -> None:
        self._data.update(*args, **kwargs)

    def setdefault(self, key: str, default: Any = None) -> Any:
        return self._data.setdefault(key, default)

    def __contains__(self, key: object) -> bool:
        # What is set so far, without reading: setdefault asks this, and it must stay lazy.
        return key in self._data

    def __len__(self) -> int:
        return len(self.data)

    def __repr__(self) -> str:
        return repr(self.data)

    @cached_property
    def data(self) -> Any:
        """The configuration that was read."""
        return self.callback()
