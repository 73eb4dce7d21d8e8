"""The configuration of an app: where it comes from, when it is read, and which modules hold tasks."""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Callable
from typing import Any

from celerylite import signals
from celerylite.app._pending import PendingConfiguration
from celerylite.app.defaults import find_deprecated_settings
from celerylite.app.utils import Settings, _new_key_to_old, _old_key_to_new, detect_settings
from celerylite.exceptions import ImproperlyConfigured
from celerylite.local import maybe_evaluate
from celerylite.utils.dispatch import Signal

__all__ = ("Configuration",)

_ENV_NOT_SET = """\
The environment variable {0!r} is not set,
and as such the configuration could not be loaded.

Please set this variable and make sure it points to
a valid configuration module.

Example:
    {0}="proj.celeryconfig"\
"""


class Configuration:
    """The half of an app that reads settings and finds task modules."""

    namespace: str | None
    loader: Any
    on_configure: Any
    on_after_configure: Any
    _fixups: Any
    _conf: Any
    _add_periodic_task: Callable[..., None]

    def _init_configuration(self, changes: Any, config_source: Any, silent: bool) -> None:
        self.configured = False
        self._config_source = config_source
        self._config_source_silent = silent
        self._pending_defaults: deque[Callable[[], Any]] = deque()
        self._pending_periodic_tasks: deque[tuple[str, dict[str, Any], str | None]] = deque()
        self._preconf: dict[str, Any] = changes or {}
        self._preconf_set_by_auto: set[str] = set()
        self._conf = Settings(
            PendingConfiguration(self._preconf, self._finalize_pending_conf),
            prefix=self.namespace,
            keys=(_old_key_to_new, _new_key_to_old),
        )

    def _set_setting(self, key: str, value: Any) -> None:
        if value is not None:
            self._preconf[key] = value
            self._preconf_set_by_auto.add(key)

    @property
    def conf(self) -> Any:
        """The configuration; reading a setting reads the source."""
        if self._conf is None:
            self._conf = self._load_config()
        return self._conf

    @conf.setter
    def conf(self, conf: Any) -> None:
        self._conf = conf

    def add_defaults(self, fun: Any) -> Any:
        """Put defaults below the configuration: a mapping, or a function that gives one when needed."""
        make = fun if callable(fun) else lambda: fun
        if self.configured:
            return self._conf.add_defaults(make())
        self._pending_defaults.append(make)
        return None

    def config_from_object(
        self, obj: Any, silent: bool = False, force: bool = False, namespace: str | None = None
    ) -> Any:
        """Take the configuration from `obj`, an object or the dotted name of one, when it is first needed.

        `namespace` is the prefix of our settings in it: ``'CELERY'`` for ``CELERY_TASK_ALWAYS_EAGER``.
        """
        self._config_source = obj
        self._config_source_silent = silent
        self.namespace = namespace or self.namespace
        if (force or self.configured) and self.loader.config_from_object(obj, silent=silent):
            self._conf = None
            return self.conf
        return None

    def config_from_envvar(self, variable_name: str, silent: bool = False, force: bool = False) -> Any:
        """`config_from_object` with the name in an environment variable; ImproperlyConfigured without it."""
        module_name = os.environ.get(variable_name)
        if not module_name:
            if silent:
                return False
            raise ImproperlyConfigured(_ENV_NOT_SET.format(variable_name))
        return self.config_from_object(module_name, silent=silent, force=force)

    def config_from_cmdline(self, argv: list[str], namespace: str = "celery") -> None:
        """Take settings given as ``key=value`` on a command line."""
        self._conf.update(self.loader.cmdline_config_parser(argv, namespace))

    def setup_security(self, *args: Any, **kwargs: Any) -> Any:
        """Sign messages and refuse other content. Not available: raises ImproperlyConfigured."""
        raise ImproperlyConfigured(
            "setup_security: expected no message signing, as no message leaves the database; "
            "remove the call (docs/differences.md#message-signing)"
        )

    def prepare_config(self, c: Any) -> Any:
        """Look at the configuration before defaults are put under it."""
        return find_deprecated_settings(c)

    def _finalize_pending_conf(self) -> Any:
        try:
            conf = self._conf = self._load_config()
        except AttributeError as exc:
            # An AttributeError from here would be taken for a missing setting and hide its cause.
            raise ModuleNotFoundError(*exc.args) from exc
        return conf

    def _load_config(self) -> Any:
        if isinstance(self.on_configure, Signal):
            self.on_configure.send(sender=self)
        else:
            self.on_configure()
        if self._config_source:
            self.loader.config_from_object(self._config_source, silent=self._config_source_silent)
        self.configured = True
        settings = detect_settings(
            self.prepare_config(self.loader.conf),
            self._preconf,
            ignore_keys=self._preconf_set_by_auto,
            prefix=self.namespace,
        )
        if self._conf is not None:
            # In place: somebody may hold the object from before it was read.
            self._conf.swap_with(settings)
        else:
            self._conf = settings
        while self._pending_defaults:
            self._conf.add_defaults(maybe_evaluate(self._pending_defaults.popleft()()))
        while self._pending_periodic_tasks:
            self._add_periodic_task(*self._pending_periodic_tasks.popleft())
        self.on_after_configure.send(sender=self, source=self._conf)
        return self._conf

    def autodiscover_tasks(
        self, packages: Any = None, related_name: str | None = "tasks", force: bool = False
    ) -> Any:
        """Import module `related_name` of each package, when tasks are first needed (or now: `force`).

        `packages` may be a function; without it the fixups are asked (Django: the installed apps).
        """
        if force:
            return self._autodiscover_tasks(packages, related_name)

        def discover(**kwargs: Any) -> Any:
            return self._autodiscover_tasks(packages, related_name)

        signals.import_modules.connect(discover, weak=False, sender=self)
        return None

    def _autodiscover_tasks(self, packages: Any, related_name: str | None, **kwargs: Any) -> Any:
        if not packages:
            packages = [
                package
                for fixup in self._fixups
                if hasattr(fixup, "autodiscover_tasks")
                for package in fixup.autodiscover_tasks()
            ]
        return self.loader.autodiscover_tasks(packages() if callable(packages) else packages, related_name)
