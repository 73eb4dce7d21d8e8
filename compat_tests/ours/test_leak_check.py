"""The check that no test leaves a connection behind, where SQLAlchemy says nothing of closing one."""

from __future__ import annotations

from typing import Any

import pytest
from kombu.exceptions import OperationalError

from compat_tests.conftest import _is_open, _open_connections
from compat_tests.ours.store_fixtures import Opener, opener, url

__all__ = ("opener", "url")


def test_a_connection_that_is_lost_while_it_is_made_is_closed(
    opener: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = opener(publish_timeout=0.1)
    if store.database.dialect.single_writer:
        pytest.skip("a file cannot be lost on the way")
    dialect: Any = store.database.engine.dialect
    with store.database.engine.connect() as connection:
        assert _is_open(connection.connection.driver_connection)
    before = set(_open_connections())

    def lose(connection: Any, level: str) -> None:
        raise dialect.loaded_dbapi.OperationalError("server closed the connection unexpectedly")

    monkeypatch.setattr(dialect, "set_isolation_level", lose)
    while store.database._idle:
        store.database.discard(store.database._idle.pop())
    with pytest.raises(OperationalError):
        store.queue_lengths()
    made = [raw for key, raw in _open_connections().items() if key not in before]
    assert made
    assert not any(map(_is_open, made))
