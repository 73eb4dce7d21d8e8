"""Sending a call by name: options, route, parent and message, in that order."""

from __future__ import annotations

import warnings
from datetime import datetime
from typing import TYPE_CHECKING, Any, cast

from celerylite import _message
from celerylite._call_keys import PLACE, UNIQUE, has_keys, headers_with_keys
from celerylite.exceptions import AlwaysEagerIgnored
from celerylite.utils import uuid
from celerylite.utils.functional import maybe_list
from celerylite.utils.log import get_logger

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("TaskSender",)

logger = get_logger(__name__)

_OMITTED: Any = object()


class TaskSender:
    """`Celery.send_task`, in steps."""

    __slots__ = ("app",)

    def __init__(self, app: Celery) -> None:
        self.app = app

    def send(
        self,
        name: str,
        args: Any = None,
        kwargs: Any = None,
        countdown: float | None = None,
        eta: datetime | str | None = None,
        task_id: str | None = None,
        producer: Any = None,
        connection: Any = None,
        router: Any = None,
        result_cls: Any = None,
        expires: Any = _OMITTED,
        publisher: Any = None,
        link: Any = None,
        link_error: Any = None,
        add_to_parent: bool = True,
        group_id: str | None = None,
        group_index: int | None = None,
        retries: int = 0,
        chord: Any = None,
        reply_to: str | None = None,
        time_limit: Any = _OMITTED,
        soft_time_limit: Any = _OMITTED,
        root_id: str | None = None,
        parent_id: str | None = None,
        route_name: str | None = None,
        shadow: str | None = None,
        chain: Any = None,
        task_type: Any = None,
        replaced_task_nesting: int = 0,
        unique_key: Any = _OMITTED,
        unique_for: Any = None,
        raise_on_duplicate: bool | None = None,
        **options: Any,
    ) -> Any:
        """See `Celery.send_task`."""
        app, amqp = self.app, self.app.amqp
        task_id = task_id or uuid()
        if app.conf.task_always_eager:
            warnings.warn(AlwaysEagerIgnored("task_always_eager has no effect on send_task"), stacklevel=3)
        if task_type is None:
            task_type, options = self._with_options_of_task(name, options)
        headers = options.get("headers")
        if (
            unique_key is not _OMITTED
            or unique_for is not None
            or (task_type is not None and has_keys(task_type))
            or (headers and (UNIQUE in headers or PLACE in headers))
        ):
            options["headers"] = headers_with_keys(
                task_type,
                name,
                args,
                kwargs,
                headers,
                task_id=task_id,
                # None is no key, and only silence that of the task.
                key=_said_key(unique_key),
                lasts=unique_for,
                # What waits for this very call cannot do with another one's result.
                raises=bool(raise_on_duplicate or chain or chord or link),
            )
        # An explicit None clears what the task says; only silence takes it.
        expires = options.pop("expires", None) if expires is _OMITTED else expires
        time_limit = options.pop("time_limit", None) if time_limit is _OMITTED else time_limit
        if soft_time_limit is _OMITTED:
            soft_time_limit = options.pop("soft_time_limit", None)
        ignore_result = options.pop("ignore_result", None)
        route = (router or amqp.router).route
        options = cast("dict[str, Any]", route(options, route_name or name, args, kwargs, task_type))
        if expires is not None:
            self._warn_if_expired(task_id, expires)
        root_id, parent_id = self._family(root_id, parent_id, options)
        message = amqp.create_task_message(
            task_id,
            name,
            args,
            kwargs,
            countdown,
            eta,
            group_id,
            group_index,
            expires,
            retries,
            chord,
            maybe_list(link),
            maybe_list(link_error),
            reply_to or app.thread_oid,
            time_limit,
            soft_time_limit,
            app.conf.task_send_sent_event,
            root_id,
            parent_id,
            shadow,
            chain,
            ignore_result=ignore_result,
            replaced_task_nesting=replaced_task_nesting,
            **options,
        )
        for stamp in options.pop("stamped_headers", None) or []:
            options.pop(stamp)
        if not ignore_result:
            app.backend.on_task_call(producer or publisher, task_id)
        holder = amqp.send_task_message(
            producer or publisher, name, message, connection=connection, **options
        )
        result = (result_cls or app.AsyncResult)(holder or task_id)
        result.ignored = ignore_result
        if add_to_parent:
            self._add_to_parent(result)
        return result

    def _with_options_of_task(self, name: str, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        # The registry itself: sending a name must not finalize the app.
        task = self.app._tasks.get(name)
        if task is None:
            return None, options
        return task, {**task._get_exec_options(), **options}

    def _warn_if_expired(self, task_id: str, expires: Any) -> None:
        moment = _message.epoch(expires, self.app.timezone, "expires")
        left = (
            expires
            if isinstance(expires, int | float)
            else cast("float", moment) - self.app.now().timestamp()
        )
        if left < 0:
            logger.warning(
                "%s has an expiration date in the past (%ss ago): it will be discarded as expired.",
                task_id,
                -left,
            )

    def _family(
        self, root_id: str | None, parent_id: str | None, options: dict[str, Any]
    ) -> tuple[str | None, str | None]:
        parent = None if root_id and parent_id else self.app.current_worker_task
        if not parent:
            return root_id, parent_id
        if self.app.conf.task_inherit_parent_priority:
            options.setdefault("priority", parent.request.delivery_info.get("priority"))
        request = parent.request
        return root_id or request.root_id or request.id, parent_id or request.id

    def _add_to_parent(self, result: Any) -> None:
        parent = self.app.current_worker_task
        if parent:
            parent.add_trail(result)


def _said_key(key: Any) -> Any:
    if key is _OMITTED:
        return None
    return False if key is None else key
