"""The task class of Django projects: a task can be sent once the current transaction is committed."""

from __future__ import annotations

import functools
from typing import Any, ParamSpec, TypeVar

from django.db import transaction

from celerylite.app.task import Task

__all__ = ("DjangoTask",)

P = ParamSpec("P")
R = TypeVar("R")


class DjangoTask(Task[P, R]):
    """A task for code inside `transaction.atomic()`.

    What is sent at commit is never sent when the transaction is rolled back, and the task never
    looks for rows that are not there yet. Outside of a transaction it is sent at once.
    """

    abstract = True

    def delay_on_commit(self, *args: P.args, **kwargs: P.kwargs) -> None:
        """`delay`, at the commit of the current transaction. There is no result to return yet."""
        transaction.on_commit(functools.partial(self.delay, *args, **kwargs))

    def apply_async_on_commit(self, *args: Any, **kwargs: Any) -> None:
        """`apply_async`, at the commit of the current transaction. There is no result to return yet."""
        transaction.on_commit(functools.partial(self.apply_async, *args, **kwargs))
