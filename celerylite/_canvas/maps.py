"""Maps: one task called with each item of a list, inside a single message (map) or in parts (chunks)."""

from __future__ import annotations

from collections.abc import Iterable
from operator import itemgetter
from typing import TYPE_CHECKING, Any, ClassVar

from celerylite._canvas.group import group
from celerylite._canvas.signature import Signature
from celerylite.utils.functional import chunks as in_chunks
from celerylite.utils.functional import regen
from celerylite.utils.text import truncate

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("xmap", "xstarmap", "chunks")


class _basemap(Signature[Any]):
    """A task and the items it is called with, one after the other, by one built-in task."""

    _task_name: ClassVar[str | None] = None
    _unpack_args = itemgetter("task", "it")

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Celery | None = None) -> _basemap:
        return cls(*cls._unpack_args(d["kwargs"]), app=app, **d["options"])

    def __init__(self, task: Any, it: Iterable[Any], **options: Any) -> None:
        super().__init__(self._task_name, (), {"task": task, "it": regen(it)}, immutable=True, **options)

    def apply_async(  # type: ignore[override]
        self, args: Iterable[Any] | None = None, kwargs: dict[str, Any] | None = None, **opts: Any
    ) -> Any:
        """Send the map, to the queue of the mapped task. Further arguments are ignored."""
        given = {key: value for key, value in opts.items() if value is not None}
        _, _, options = self._merge(options=given)
        task, it = self._unpack_args(self.kwargs)
        route_name = options.pop("route_name", None) or task_name_from(task)
        return self.type.apply_async((), {"task": task, "it": list(it)}, route_name=route_name, **options)


@Signature.register_type()
class xmap(_basemap):
    """``task.map(items)``: calls ``task(item)`` for each."""

    _task_name = "celery.map"

    def __repr__(self) -> str:
        task, it = self._unpack_args(self.kwargs)
        return f"[{task.task}(x) for x in {truncate(repr(it), 100)}]"


@Signature.register_type()
class xstarmap(_basemap):
    """``task.starmap(items)``: calls ``task(*item)`` for each."""

    _task_name = "celery.starmap"

    def __repr__(self) -> str:
        task, it = self._unpack_args(self.kwargs)
        return f"[{task.task}(*x) for x in {truncate(repr(it), 100)}]"


@Signature.register_type()
class chunks(Signature[Any]):
    """``task.chunks(items, n)``: a group of starmaps of `n` items each."""

    _unpack_args = itemgetter("task", "it", "n")

    @classmethod
    def from_dict(cls, d: dict[str, Any], app: Celery | None = None) -> chunks:
        return cls(*cls._unpack_args(d["kwargs"]), app=app, **d["options"])

    def __init__(self, task: Any, it: Iterable[Any], n: int, **options: Any) -> None:
        super().__init__(
            "celery.chunks", (), {"task": task, "it": regen(it), "n": n}, immutable=True, **options
        )

    def __call__(self, **options: Any) -> Any:
        return self.apply_async(**options)

    def apply_async(  # type: ignore[override]
        self, args: Iterable[Any] | None = None, kwargs: dict[str, Any] | None = None, **opts: Any
    ) -> Any:
        """Send the group, to the queue of the task."""
        route_name = task_name_from(self.kwargs.get("task"))
        return self.group().apply_async(args or (), kwargs or {}, route_name=route_name, **opts)

    def group(self) -> group:
        """The starmaps to send."""
        task, it, n = self._unpack_args(self.kwargs)
        parts = in_chunks(iter(it), n)
        return group((xstarmap(task, part, app=self._app) for part in parts), app=self._app)

    @classmethod
    def apply_chunks(cls, task: Any, it: Iterable[Any], n: int, app: Celery | None = None) -> Any:
        """Send at once, without keeping the signature."""
        return cls(task, it, n, app=app)()


for _public in (_basemap, xmap, xstarmap, chunks):
    _public.__module__ = "celerylite.canvas"


def task_name_from(task: Any) -> Any:
    """The name of a task, or what was given if that is a name."""
    return getattr(task, "name", task)
