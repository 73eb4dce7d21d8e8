"""Makes every Python process of a run answer for Celery with celerylite, if that is what is measured."""

from __future__ import annotations

import os

if os.environ.get("UPSTREAM_LIB") == "celerylite":
    from celerylite._shim import install_as_celery

    install_as_celery()
