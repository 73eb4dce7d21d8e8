"""The app that `-A` names, or the reason why there is none."""

from __future__ import annotations

import traceback
from typing import Any

import click

from celerylite.app.utils import find_app

__all__ = ("load_app",)

_NOT_LOADED = "\nUnable to load celery application.\n"


def load_app(ctx: click.Context, name: str) -> Any:
    """Import the app of that name; raises UsageError, with what happened."""
    try:
        return find_app(name)
    except ModuleNotFoundError as exc:
        if exc.name == name.partition(":")[0]:
            reason = f"The module {exc.name} was not found."
        else:
            reason = _what_happened(name)
    except AttributeError as exc:
        reason = str(exc.args[0]).capitalize() if exc.args else _what_happened(name)
    except Exception:
        reason = _what_happened(name)
    raise click.UsageError(click.style(_NOT_LOADED + reason, fg="red"), ctx=ctx)


def _what_happened(name: str) -> str:
    return f"While trying to load the module {name} the following error occurred:\n{traceback.format_exc()}"
