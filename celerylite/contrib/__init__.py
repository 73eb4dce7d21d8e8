"""Extras that are not part of the core: test tools, abortable tasks, Django's task class."""
