"""What it takes to be a task or a signature, without being one of ours."""

from __future__ import annotations

from abc import ABCMeta, abstractmethod
from collections.abc import Callable
from typing import Any, ClassVar

__all__ = ("CallableTask", "CallableSignature")

#: Said this way because signatures have a property named `type`.
_Class = type


class _AbstractClass(metaclass=ABCMeta):  # noqa: B024 - its methods are about subclasses
    """A class whose subclasses are all that have certain attributes."""

    __required_attributes__: ClassVar[frozenset[str]] = frozenset()

    @classmethod
    def _subclasshook_using(cls, parent: _Class, C: _Class) -> Any:
        has_all = cls is parent and all(
            any(attr in base.__dict__ for base in C.__mro__) for attr in cls.__required_attributes__
        )
        return has_all or NotImplemented

    @classmethod
    def register(cls, other: _Class) -> _Class:
        """Count `other` as a subclass; gives it back, so it is a decorator."""
        ABCMeta.register(cls, other)
        return other


class CallableTask(_AbstractClass, Callable):  # type: ignore[misc,type-arg]
    """Something that can be called later."""

    __required_attributes__ = frozenset({"delay", "apply_async", "apply"})

    @abstractmethod
    def delay(self, *args: Any, **kwargs: Any) -> Any:
        """Send it with these arguments."""

    @abstractmethod
    def apply_async(self, *args: Any, **kwargs: Any) -> Any:
        """Send it, with options."""

    @abstractmethod
    def apply(self, *args: Any, **kwargs: Any) -> Any:
        """Run it here and now."""

    @classmethod
    def __subclasshook__(cls, C: _Class) -> Any:
        return cls._subclasshook_using(CallableTask, C)


class CallableSignature(CallableTask):
    """A task with arguments and options, ready to be called."""

    __required_attributes__ = frozenset({"clone", "freeze", "set", "link", "link_error", "__or__"})

    @property
    @abstractmethod
    def name(self) -> Any:
        """Name of the task."""

    @property
    @abstractmethod
    def type(self) -> Any:
        """The task itself."""

    @property
    @abstractmethod
    def app(self) -> Any:
        """The app it belongs to."""

    @property
    @abstractmethod
    def id(self) -> Any:
        """Its id, once there is one."""

    @property
    @abstractmethod
    def task(self) -> Any:
        """Name of the task, as it is sent."""

    @property
    @abstractmethod
    def args(self) -> Any:
        """Positional arguments."""

    @property
    @abstractmethod
    def kwargs(self) -> Any:
        """Keyword arguments."""

    @property
    @abstractmethod
    def options(self) -> Any:
        """How it is to be sent."""

    @property
    @abstractmethod
    def subtask_type(self) -> Any:
        """Kind of workflow: chain, group, chord, ..."""

    @property
    @abstractmethod
    def chord_size(self) -> Any:
        """How many results a chord waits for."""

    @property
    @abstractmethod
    def immutable(self) -> Any:
        """Are its arguments final?"""

    @abstractmethod
    def clone(self, args: Any = None, kwargs: Any = None) -> Any:
        """A copy with more arguments."""

    @abstractmethod
    def freeze(
        self,
        id: Any = None,
        group_id: Any = None,
        chord: Any = None,
        root_id: Any = None,
        group_index: Any = None,
    ) -> Any:
        """Give it its id; the result that it will have."""

    @abstractmethod
    def set(self, immutable: Any = None, **options: Any) -> Any:
        """Change how it is to be sent."""

    @abstractmethod
    def link(self, callback: Any) -> Any:
        """Call this when it succeeds."""

    @abstractmethod
    def link_error(self, errback: Any) -> Any:
        """Call this when it fails."""

    @abstractmethod
    def __or__(self, other: Any) -> Any:
        """One after the other."""

    @abstractmethod
    def __invert__(self) -> Any:
        """Run it and wait."""

    @classmethod
    def __subclasshook__(cls, C: _Class) -> Any:
        return cls._subclasshook_using(CallableSignature, C)
