"""The Celery app of the project: configured by Django's settings, tasks found in its apps."""

from __future__ import annotations

import os

from celerylite import Celery

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "proj.settings")

app = Celery("proj")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()
