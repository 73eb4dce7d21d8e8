"""An app with one model, and tasks that fill it in."""
