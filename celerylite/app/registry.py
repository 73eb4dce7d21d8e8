"""The tasks of an app by name."""

from __future__ import annotations

import inspect
from importlib import import_module
from typing import TYPE_CHECKING, Any, NoReturn

from celerylite._state import get_current_app
from celerylite.app.autoretry import add_autoretry_behaviour
from celerylite.exceptions import InvalidTaskError, NotRegistered

if TYPE_CHECKING:
    from celerylite.app.task import Task

__all__ = ("TaskRegistry",)


class TaskRegistry(dict[str, Any]):
    """Task name -> task. Looking up a name that is not there raises `NotRegistered`, a KeyError."""

    NotRegistered = NotRegistered

    def __missing__(self, key: str) -> NoReturn:
        raise self.NotRegistered(key)

    def register(self, task: Task[..., Any] | type[Task[..., Any]]) -> None:
        """Add a task under its name, in place of one that had it; a class is called first.

        Raises InvalidTaskError for a task without a name.
        """
        if task.name is None:
            raise InvalidTaskError(f"Task class {type(task).__name__!r} must specify .name attribute")
        instance: Any = task() if inspect.isclass(task) else task
        add_autoretry_behaviour(instance)
        self[instance.name] = instance

    def unregister(self, name: Any) -> None:
        """Remove a task, given by name or as the task itself. Raises NotRegistered if it is not there."""
        try:
            self.pop(getattr(name, "name", name))
        except KeyError:
            raise self.NotRegistered(name) from None

    def regular(self) -> dict[str, Any]:
        """Give the tasks that are not marked as periodic."""
        return self.filter_types("regular")

    def periodic(self) -> dict[str, Any]:
        """Give the tasks with `type = 'periodic'`, a mark from before `beat_schedule`."""
        return self.filter_types("periodic")

    def filter_types(self, type: str) -> dict[str, Any]:
        """Give the tasks with this `type`."""
        return {name: task for name, task in self.items() if getattr(task, "type", "regular") == type}


def _unpickle_task(name: str) -> Any:
    return get_current_app().tasks[name]


def _unpickle_task_v2(name: str, module: str | None = None) -> Any:
    if module:
        import_module(module)
    return get_current_app().tasks[name]
