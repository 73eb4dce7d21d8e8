"""The `task_annotations` setting: attributes that the configuration sets on tasks."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from celerylite.utils.functional import firstmethod, mlazy
from celerylite.utils.imports import instantiate

if TYPE_CHECKING:
    from celerylite.app.task import Task

__all__ = ("MapAnnotation", "prepare", "resolve_all")

_first_match = firstmethod("annotate")
_first_match_any = firstmethod("annotate_any")


class MapAnnotation(dict[str, Any]):
    """Attributes by task name; the name `*` stands for every task."""

    def annotate_any(self) -> dict[str, Any] | None:
        """Give the attributes for every task, or None."""
        return dict(self["*"]) if "*" in self else None

    def annotate(self, task: Task[..., Any]) -> dict[str, Any] | None:
        """Give the attributes for `task` alone, or None."""
        return dict(self[task.name]) if task.name in self else None


def prepare(annotations: Any) -> Sequence[Any]:
    """Make a list of annotations of the setting: a dict, an object, a path to a class, or a list of such.

    A class given by path is imported and called at its first use.
    """
    if annotations is None:
        return ()
    if not isinstance(annotations, list | tuple):
        annotations = (annotations,)
    return [_expand(annotation) for annotation in annotations]


def _expand(annotation: Any) -> Any:
    if isinstance(annotation, dict):
        return MapAnnotation(annotation)
    if isinstance(annotation, str):
        return mlazy(instantiate, annotation)  # type: ignore[no-untyped-call]
    return annotation


def resolve_all(anno: Sequence[Any], task: Any) -> Iterator[dict[str, Any]]:
    """Yield the attributes for `task`: the first made for it alone, then the first made for every task."""
    for found in (_first_match(anno, task), _first_match_any(anno)):
        if found:
            yield found
