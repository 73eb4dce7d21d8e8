"""A Flask application whose tasks run inside its application context."""

from __future__ import annotations

from typing import Any

from flask import Flask

from celerylite import Celery, Task


def create_app() -> Flask:
    app = Flask(__name__)
    app.config.from_mapping(
        GREETING="Hello",
        CELERY={"task_ignore_result": True, "task_track_started": True},
    )
    app.config.from_prefixed_env()
    celery_init_app(app)

    from task_app import views

    app.register_blueprint(views.blueprint)
    return app


def celery_init_app(app: Flask) -> Celery:
    """Make the Celery app that belongs to this Flask app, and make it the one `shared_task` uses."""

    class FlaskTask(Task):
        def __call__(self, *args: Any, **kwargs: Any) -> Any:
            with app.app_context():
                return self.run(*args, **kwargs)

    celery_app = Celery(app.name, task_cls=FlaskTask)
    celery_app.config_from_object(app.config["CELERY"])
    celery_app.set_default()
    app.extensions["celery"] = celery_app
    return celery_app
