"""The command line: one module for each command, as Celery lays them out. Only here is click imported."""
