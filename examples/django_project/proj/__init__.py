"""The project: its Celery app is made when Django starts, so that `shared_task` finds it."""

from __future__ import annotations

from proj.celery import app as celery_app

__all__ = ("celery_app",)
