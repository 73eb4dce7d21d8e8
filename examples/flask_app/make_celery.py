"""The Flask and the Celery app for programs that want them by name: `flask --app make_celery run`."""

from __future__ import annotations

from task_app import create_app

flask_app = create_app()
celery_app = flask_app.extensions["celery"]
