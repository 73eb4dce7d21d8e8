"""Questions about type annotations."""

from __future__ import annotations

import types
import typing
from inspect import isclass
from typing import Any

__all__ = ("annotation_is_class", "annotation_issubclass", "get_optional_arg", "is_none_type")


def is_none_type(value: Any) -> bool:
    """Is it the type of None?"""
    return value is types.NoneType


def get_optional_arg(annotation: Any) -> Any:
    """`T` of `T | None`; None for any other annotation, larger unions included."""
    if typing.get_origin(annotation) not in (typing.Union, types.UnionType):
        return None
    members = typing.get_args(annotation)
    others = [member for member in members if not is_none_type(member)]
    return others[0] if len(members) == 2 and len(others) == 1 else None


def annotation_is_class(annotation: Any) -> bool:
    """Can it be used with `isinstance`?"""
    return isclass(annotation)


def annotation_issubclass(annotation: Any, cls: type) -> bool:
    """Is it a class, and a subclass of `cls`?"""
    return annotation_is_class(annotation) and issubclass(annotation, cls)
