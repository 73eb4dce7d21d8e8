"""The `task_routes` setting: which queue a task goes to."""

from __future__ import annotations

import fnmatch
import re
from collections.abc import Callable, Iterable, Mapping, MutableMapping, Sequence
from typing import TYPE_CHECKING, Any

from kombu.entity import Queue
from kombu.utils.functional import maybe_evaluate

from celerylite.exceptions import QueueNotFound
from celerylite.utils.collections import lpmerge
from celerylite.utils.functional import mlazy
from celerylite.utils.imports import symbol_by_name

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("MapRoute", "Router", "expand_router_string", "prepare")


class MapRoute:
    """A router made of a mapping: task name, pattern with `*`, or compiled regular expression -> route.

    An exact name goes before a pattern, and patterns are tried in the order given. A route is the name of a
    queue or a dict of options.
    """

    def __init__(self, map: Mapping[Any, Any] | Iterable[tuple[Any, Any]]) -> None:
        self.map: dict[str, Any] = {}
        self.patterns: dict[re.Pattern[str], Any] = {}
        for key, route in map.items() if isinstance(map, Mapping) else map:
            if isinstance(key, re.Pattern):
                self.patterns[key] = route
            elif "*" in key:
                self.patterns[re.compile(fnmatch.translate(key))] = route
            else:
                self.map[key] = route

    def __call__(self, name: str, *args: Any, **kwargs: Any) -> dict[str, Any] | None:
        if name in self.map:
            return _as_options(self.map[name])
        for pattern, route in self.patterns.items():
            if pattern.match(name):
                return _as_options(route)
        return None


def _as_options(route: Any) -> dict[str, Any]:
    try:
        return dict(route)
    except ValueError:
        # Text is no sequence of pairs: it names a queue.
        return {"queue": route}


class Router:
    """What finds the queue of a call: asks the routers of the app in turn and looks names up in `queues`."""

    def __init__(
        self,
        routes: Sequence[Any] | None = None,
        queues: Mapping[str, Queue] | None = None,
        create_missing: bool = False,
        app: Celery | None = None,
    ) -> None:
        self.app = app
        self.queues: Mapping[str, Queue] = {} if queues is None else queues
        self.routes: Sequence[Any] = [] if routes is None else routes
        self.create_missing = create_missing

    def route(
        self,
        options: MutableMapping[str, Any],
        name: str,
        args: Any = (),
        kwargs: Mapping[str, Any] | None = None,
        task_type: Any = None,
    ) -> MutableMapping[str, Any]:
        """Give the options of a call of task `name` with its queue in them, as a `kombu.Queue`.

        Options that the caller gave go before those of a route. `options` may be changed.
        Raises QueueNotFound for a queue that is not in `queues`.
        """
        options = self.expand_destination(options)
        if self.routes:
            found = self.lookup_route(name, args, kwargs or {}, options, task_type)
            if found:
                return _merge(self.expand_destination(found), options)
        if "queue" not in options:
            if self.app is None:
                raise QueueNotFound(f"expected a router with an app to find the default queue of {name!r}")
            default = self.expand_destination(self.app.conf.task_default_queue)
            options = _merge(default, options)
        return options

    def expand_destination(self, route: str | MutableMapping[str, Any]) -> MutableMapping[str, Any]:
        """Give a route with the queue object in place of its name. A dict is changed in place.

        Raises QueueNotFound for a name that is not in `queues`.
        """
        options: MutableMapping[str, Any] = {} if isinstance(route, str) else route
        queue: Any = route if isinstance(route, str) else options.pop("queue", None)
        if isinstance(queue, Queue):
            options["queue"] = queue
        elif queue:
            options["queue"] = self._find_queue(queue)
        return options

    def _find_queue(self, name: str) -> Queue:
        try:
            return self.queues[name]
        except KeyError:
            raise QueueNotFound(f"Queue {name!r} missing from task_queues") from None

    def lookup_route(
        self, name: str, args: Any = None, kwargs: Any = None, options: Any = None, task_type: Any = None
    ) -> Any:
        """Give the first answer of a router that is not None, or None."""
        for router in self.routes:
            route = self.query_router(router, name, args, kwargs, options, task_type)
            if route is not None:
                return route
        return None

    def query_router(
        self, router: Any, task: str, args: Any, kwargs: Any, options: Any, task_type: Any
    ) -> Any:
        """Ask one router: a function, or an object with `route_for_task` as before Celery 4."""
        router = maybe_evaluate(router)
        if hasattr(router, "route_for_task"):
            return router.route_for_task(task, args, kwargs)
        return router(task, args, kwargs, options, task=task_type)


def _merge(route: MutableMapping[str, Any], options: Mapping[str, Any]) -> MutableMapping[str, Any]:
    merged: MutableMapping[str, Any] = lpmerge(route, options)
    return merged


def expand_router_string(router: str) -> Any:
    """Import the router that a path names; a class with `route_for_task` is called."""
    found: Callable[..., Any] = symbol_by_name(router)
    return found() if hasattr(found, "route_for_task") else found


def prepare(routes: Any) -> Sequence[Any]:
    """Make a list of routers of the setting: a mapping, a function, a path to one, or a list of such.

    A router given by path is imported at its first use. A list of pairs is a mapping only in another list.
    """
    if routes is None:
        return ()
    if not isinstance(routes, list | tuple):
        routes = (routes,)
    return [_expand(route) for route in routes]


def _expand(route: Any) -> Any:
    if isinstance(route, Mapping | list | tuple):
        return MapRoute(route)
    if isinstance(route, str):
        return mlazy(expand_router_string, route)  # type: ignore[no-untyped-call]
    return route
