"""The `upgrade` command: gives old settings their present names, in the file itself."""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import click

from celerylite.app.defaults import _TO_NEW_KEY
from celerylite.bin.base import CeleryCommand, CeleryOption, handle_preload_options

__all__ = ("upgrade",)

_GROUP = "Upgrading Options"


@click.group()
@click.pass_context
@handle_preload_options
def upgrade(ctx: click.Context) -> None:
    """Perform upgrade between versions."""


@upgrade.command(cls=CeleryCommand)
@click.argument("filename")
@click.option(
    "--django",
    cls=CeleryOption,
    is_flag=True,
    help_group=_GROUP,
    help="Write CELERY_TASK_ALWAYS_EAGER instead of task_always_eager.",
)
@click.option("--compat", cls=CeleryOption, is_flag=True, help_group=_GROUP, help="The same as --django.")
@click.option(
    "--no-backup",
    cls=CeleryOption,
    is_flag=True,
    help_group=_GROUP,
    help="Do not keep the old file as FILENAME.orig.",
)
def settings(filename: str, django: bool, compat: bool, no_backup: bool) -> None:
    """Rename the settings in FILENAME that Celery 4 gave new names."""
    path = Path(filename)
    click.echo(f"processing {filename}...", err=True)
    try:
        before = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError) as exc:
        raise click.UsageError(f"{filename}: expected a settings module in UTF-8: {exc}") from exc
    after = _with_new_names(before, _namespaced if django or compat else str)
    if after == before:
        click.echo("Does not seem to require any changes :-)")
        return
    if not no_backup:
        backup = f"{filename}.orig"
        click.echo(f"writing backup to {backup}...", err=True)
        shutil.copyfile(path, backup)
    # Bytes, so that line endings stay what they were.
    path.write_bytes(after.encode())
    click.echo("Changes to your setting have been made!")


def _with_new_names(source: str, style: Callable[[str], str]) -> str:
    # Longest first: BROKER_TRANSPORT must not be found inside BROKER_TRANSPORT_OPTIONS.
    old_names = sorted((name for name in _TO_NEW_KEY if name.isupper()), key=len, reverse=True)
    # Whole words only, so that what is renamed already is left alone.
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, old_names))})\b")
    return pattern.sub(lambda found: style(_TO_NEW_KEY[found.group()]), source)


def _namespaced(name: str) -> str:
    upper = name.upper()
    return upper if upper.startswith("CELERY") else f"CELERY_{upper}"
