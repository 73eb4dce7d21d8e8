"""The fixtures that tests of the runtime share."""

from __future__ import annotations

from compat_tests.ours.runtime_fixtures import database, file_app, gate, make_app, start_program

__all__ = ("database", "file_app", "gate", "make_app", "start_program")
