"""What the shell offers at the tab key where the app has to be asked: the names of its tasks."""

from __future__ import annotations

import contextlib

import click

from celerylite.app.utils import find_app

__all__ = ("complete_tasks",)


def complete_tasks(ctx: click.Context, param: click.Parameter, incomplete: str) -> list[str]:
    """The tasks of the app that `-A` names; nothing if it cannot be loaded, for the prompt must not break."""
    name = ctx.find_root().params.get("app")
    with contextlib.suppress(Exception):
        app = find_app(name) if isinstance(name, str) else name
        if app is not None:
            app.loader.import_default_modules()
            app.finalize()
            return sorted(
                task for task in app.tasks if task.startswith(incomplete) and not task.startswith("celery.")
            )
    return []
