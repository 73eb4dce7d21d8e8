"""The `shell` command: a Python prompt with the app and its tasks at hand."""

from __future__ import annotations

import code
import os
import sys
from collections.abc import Callable
from importlib import import_module
from typing import Any

import click

import celerylite
from celerylite.bin.base import CeleryCommand, CeleryOption, handle_preload_options

__all__ = ("shell",)

_GROUP = "Shell Options"
_NAMES = ("Task", "chord", "group", "chain", "chunks", "xmap", "xstarmap", "subtask", "signature")


@click.command(cls=CeleryCommand, context_settings={"allow_extra_args": True})
@click.option("-I", "--ipython", is_flag=True, cls=CeleryOption, help_group=_GROUP, help="Use IPython.")
@click.option("-B", "--bpython", is_flag=True, cls=CeleryOption, help_group=_GROUP, help="Use bpython.")
@click.option("--python", is_flag=True, cls=CeleryOption, help_group=_GROUP, help="Use Python's own prompt.")
@click.option(
    "-T", "--without-tasks", is_flag=True, cls=CeleryOption, help_group=_GROUP, help="Leave the tasks out."
)
@click.option(
    "--eventlet", is_flag=True, cls=CeleryOption, help_group=_GROUP, help="Not supported; raises an error."
)
@click.option(
    "--gevent", is_flag=True, cls=CeleryOption, help_group=_GROUP, help="Not supported; raises an error."
)
@click.pass_context
@handle_preload_options
def shell(
    ctx: click.Context,
    ipython: bool = False,
    bpython: bool = False,
    python: bool = False,
    without_tasks: bool = False,
    eventlet: bool = False,
    gevent: bool = False,
    **kwargs: Any,
) -> None:
    """Start a Python prompt with the app and its tasks at hand.

    The names are `app` and `celery` for the app, `chord`, `group`, `chain`, `chunks`, `xmap`, `xstarmap`,
    `subtask`, `signature` and `Task`, and the name of each task's function.
    """
    if eventlet or gevent:
        raise click.UsageError("expected no --eventlet and no --gevent: see docs/differences.md", ctx=ctx)
    sys.path.insert(0, os.getcwd())
    names = _names(ctx.obj.app, without_tasks)
    if python:
        _plain_prompt(names)
    elif bpython:
        _chosen_prompt(ctx, _bpython_prompt, names)
    elif ipython:
        _chosen_prompt(ctx, _ipython_prompt, names)
    else:
        _best_prompt(names)


def _names(app: Any, without_tasks: bool) -> dict[str, Any]:
    app.loader.import_default_modules()
    names = {"app": app, "celery": app, **{name: getattr(celerylite, name) for name in _NAMES}}
    if not without_tasks:
        names.update(
            {task.__name__: task for task in app.tasks.values() if not task.name.startswith("celery.")}
        )
    return names


def _chosen_prompt(
    ctx: click.Context, prompt: Callable[[dict[str, Any]], None], names: dict[str, Any]
) -> None:
    try:
        prompt(names)
    except ImportError as exc:
        raise click.UsageError(f"expected it to be installed: {exc}", ctx=ctx) from exc


def _best_prompt(names: dict[str, Any]) -> None:
    for prompt in (_ipython_prompt, _bpython_prompt):
        try:
            return prompt(names)
        except ImportError:
            continue
    return _plain_prompt(names)


def _ipython_prompt(names: dict[str, Any]) -> None:
    import_module("IPython").start_ipython(argv=[], user_ns=names)


def _bpython_prompt(names: dict[str, Any]) -> None:
    import_module("bpython").embed(names)


def _plain_prompt(names: dict[str, Any]) -> None:
    try:
        readline, rlcompleter = import_module("readline"), import_module("rlcompleter")
    except ImportError:
        pass  # no completion, as on Windows
    else:
        readline.set_completer(rlcompleter.Completer(names).complete)
        readline.parse_and_bind("tab:complete")
    code.interact(local=names)
