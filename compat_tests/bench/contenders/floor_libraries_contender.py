"""The floor under start and memory: the two libraries that celerylite is built on, loaded and used once."""

from __future__ import annotations

from importlib import import_module

from compat_tests.bench.contenders import Contender

__all__ = ("make",)


def make(variant: str) -> Contender:
    """There is one variant."""
    return Libraries()


class Libraries(Contender):
    """kombu serialises one value, SQLAlchemy reads one row of an SQLite file; no code of ours."""

    def start(self, *, concurrency: int | None = None, beat: bool = False) -> None:
        self._json = import_module("kombu.serialization")
        self._sqlalchemy = import_module("sqlalchemy")

    def publish(self, count: int) -> None:
        raise NotImplementedError

    def round_trip(self, *, coroutine: bool = False) -> None:
        assert self._json.dumps([1], serializer="json")[2] == "[1]"
        with self._sqlalchemy.create_engine("sqlite:///floor.sqlite3").connect() as connection:
            assert connection.scalar(self._sqlalchemy.select(self._sqlalchemy.literal(1))) == 1

    def stop(self) -> None: ...
