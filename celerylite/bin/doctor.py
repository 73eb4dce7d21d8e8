"""The `doctor` command: says what a project uses that is different here, and what will not work."""

from __future__ import annotations

from collections import Counter
from dataclasses import asdict
from typing import Any

import click
from kombu.utils.json import dumps

from celerylite.bin._examine import examine
from celerylite.bin._load import load_app
from celerylite.bin.base import EX_FAILURE, EX_OK, CeleryCommand, handle_preload_options

__all__ = ("doctor",)

_COLORS = {"ok": "green", "differs": "yellow", "fails": "red"}


@click.command(cls=CeleryCommand)
@click.option(
    "-A", "--app", "app_name", metavar="APP", help="The app, if it was not named before the command."
)
@click.option("-j", "--json", is_flag=True, help="Print one JSON object per line.")
@click.pass_context
@handle_preload_options
def doctor(ctx: click.Context, app_name: str | None, json: bool, **kwargs: Any) -> None:
    """Import the project and list what differs here; exit code 1 when something will not work.

    \b
    ok       works as with Celery
    differs  works, in another way: the page at the end of the line says how
    fails    does not work, and what to do
    """
    app = load_app(ctx, app_name) if app_name else ctx.obj.app
    ctx.with_resource(app.leaving_tasks_to_others())
    app.conf.celerylite_warn_ignored = False  # The lines below say it.
    found: Counter[str] = Counter()
    for finding in examine(app):
        found[finding.kind] += 1
        if json:
            ctx.obj.echo(dumps(asdict(finding)))
            continue
        word = ctx.obj.style(f"{finding.kind:8}", fg=_COLORS[finding.kind])
        ctx.obj.echo(f"{word} {finding.text}  -> {finding.link}")
    if not json:
        ctx.obj.echo(f"\n{found['fails']} will not work, {found['differs']} differ, {found['ok']} as usual.")
    ctx.exit(EX_FAILURE if found["fails"] else EX_OK)
