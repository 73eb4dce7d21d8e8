"""Celery's own tests, run against celerylite: what is run, what is expected, what came of it."""
