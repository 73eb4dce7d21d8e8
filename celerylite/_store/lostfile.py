"""An SQLite file that was deleted or replaced while it was open: noticed, and put back if it can be."""

from __future__ import annotations

import os
from contextlib import suppress
from typing import Any

__all__ = ("FileGone", "identity", "put_back")


class FileGone(Exception):
    """The file that the connections have open is not the one at its path any more."""

    def __init__(self, path: str) -> None:
        super().__init__(f"database file {path!r}: expected the file that was opened, got another or none")


def identity(path: str) -> tuple[int, int] | None:
    """Names the file at `path`; None if there is none."""
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def put_back(connection: Any, path: str) -> bool:
    """Write what `connection` still sees of a deleted database to `path`; False if there is a file already.

    Raises FileGone when it cannot be written. Other processes that have the deleted file open wait
    meanwhile, for its lock outlives its name. They find the new file at `path` then, and in it all that
    they had committed.
    """
    connection.execute("BEGIN IMMEDIATE")
    copy = f"{path}.restored-{os.getpid()}"
    try:
        if identity(path) is not None:
            return False
        _write(copy, connection.serialize())
        # They belong to the deleted file, and would be taken for those of the new one.
        for companion in ("-wal", "-shm"):
            with suppress(FileNotFoundError):
                os.unlink(path + companion)
        try:
            os.link(copy, path)
        except FileExistsError:
            return False
        return True
    except OSError as error:
        raise FileGone(path) from error
    finally:
        with suppress(FileNotFoundError):
            os.unlink(copy)
        connection.execute("ROLLBACK")


def _write(path: str, content: bytes) -> None:
    with open(path, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
