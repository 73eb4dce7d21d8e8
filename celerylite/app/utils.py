"""The configuration of an app as one live view, and what identifies an app: name, report and pickle."""

from __future__ import annotations

import os
import platform
import re
from collections.abc import Callable, Mapping, MutableMapping
from copy import deepcopy
from importlib import import_module, metadata
from types import ModuleType
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import kombu

from celerylite import _state
from celerylite.app.defaults import (
    _OLD_DEFAULTS,
    _OLD_SETTING_KEYS,
    _TO_NEW_KEY,
    _TO_OLD_KEY,
    CELERYLITE,
    DEFAULTS,
    SETTING_KEYS,
    find,
    searchresult,
)
from celerylite.exceptions import ImproperlyConfigured
from celerylite.utils import deprecated
from celerylite.utils.collections import ConfigurationView
from celerylite.utils.imports import import_from_cwd, qualname, symbol_by_name
from celerylite.utils.text import pretty

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Settings", "appstr", "bugreport", "filter_hidden_settings", "find_app", "sanitize_url")

#: The text that `bugreport` fills in.
BUGREPORT_INFO = """
software -> celery:{celery_v} kombu:{kombu_v} py:{py_v}
            celerylite:{celerylite_v} sqlalchemy:{sqlalchemy_v}
platform -> system:{system} arch:{arch}
            kernel version:{kernel_version} imp:{py_i}
loader   -> {loader}
settings -> transport:{transport} results:{results}

{human_settings}
"""

#: Settings whose values are not shown, by a part of their name.
HIDDEN_SETTINGS = re.compile(
    "API|TOKEN|KEY|SECRET|PASS|PROFANITIES_LIST|SIGNATURE|DATABASE|BEAT_DBURI",
    re.IGNORECASE,
)

E_MIX_OLD_INTO_NEW = """

Cannot mix new and old setting keys, please rename the
following settings to the new format:

{renames}

"""

E_MIX_NEW_INTO_OLD = """

Cannot mix new setting names with old setting names, please
rename the following settings to use the old format:

{renames}

Or change all of the settings to use the new format :)

"""

FMT_REPLACE_SETTING = "{replace:<36} -> {with_}"

_BROKER_URLS = frozenset({"broker_url", "broker_read_url", "broker_write_url"})
_MASK = "*" * 8


def appstr(app: Celery) -> str:
    """Name an app in a `repr`."""
    return f"{app.main or '__main__'} at {id(app):#x}"


class Settings(ConfigurationView):
    """The settings of an app (`app.conf`): changes made at run time, then the configuration, then defaults.

    Nothing is copied: a configuration object that changes later changes what is read here. New and old names
    find the same value. Not synchronised: change settings before threads read them.
    """

    def __init__(self, *args: Any, deprecated_settings: set[str] | None = None, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        # As Celery: this becomes a key among the settings, for attributes of a view are its keys.
        self.deprecated_settings = deprecated_settings

    def copy(self) -> Settings:
        """Give settings of their own changes over the same configuration and defaults."""
        self.finalize()
        copied = cast("Settings", super().copy())
        copied.changes.pop("deprecated_settings", None)
        if "deprecated_settings" in self.changes:
            copied.changes["deprecated_settings"] = self.changes["deprecated_settings"]
        return copied

    __copy__ = copy

    @property
    def broker_url(self) -> Any:
        """The address of the broker; the variable CELERY_BROKER_URL goes before the setting."""
        return os.environ.get("CELERY_BROKER_URL") or self.first("broker_url", "broker_host")

    @property
    def broker_read_url(self) -> Any:
        """The broker to consume from, if it is another one; CELERY_BROKER_READ_URL goes first."""
        return os.environ.get("CELERY_BROKER_READ_URL") or self.get("broker_read_url") or self.broker_url

    @property
    def broker_write_url(self) -> Any:
        """The broker to publish to, if it is another one; CELERY_BROKER_WRITE_URL goes first."""
        return os.environ.get("CELERY_BROKER_WRITE_URL") or self.get("broker_write_url") or self.broker_url

    @property
    def result_backend(self) -> Any:
        """Where results are kept; the variable CELERY_RESULT_BACKEND goes before the setting."""
        configured = self.first("result_backend", "CELERY_RESULT_BACKEND")
        return os.environ.get("CELERY_RESULT_BACKEND") or configured

    @property
    def task_default_exchange(self) -> Any:
        """The exchange of the default queue: the name of that queue unless set."""
        return self.first("task_default_exchange", "task_default_queue")

    @property
    def task_default_routing_key(self) -> Any:
        """The routing key of the default queue: the name of that queue unless set."""
        return self.first("task_default_routing_key", "task_default_queue")

    @property
    def timezone(self) -> Any:
        """The zone of the schedule, else Django's TIME_ZONE."""
        return self.first("timezone", "TIME_ZONE")

    def without_defaults(self) -> Settings:
        """Give the same settings without the table of defaults."""
        return Settings({}, self.maps[:-1])

    def value_set_for(self, key: str) -> bool:
        """Tell whether someone set `key`, under any of its names; a default does not count."""
        self.finalize()
        return key in Settings({}, self.maps[:-1], self._keys, self.prefix)

    def find_option(self, name: str, namespace: str = "") -> searchresult:
        """Find the description of a setting by its whole name or its name in a namespace.

        Raises KeyError if no setting has that name.
        """
        return find(name, namespace)

    def find_value_for_key(self, name: str, namespace: str = "celery") -> Any:
        """Give the value of the setting that `find_option` finds."""
        return self.get_by_parts(*self.find_option(name, namespace)[:-1])

    def get_by_parts(self, *parts: str | None) -> Any:
        """Give the value of the setting whose name is `parts` joined by underscores, without empty ones."""
        return self["_".join(part for part in parts if part)]

    def finalize(self) -> Settings:
        """Read the configuration if that has not happened yet."""
        # A pending configuration is read at the first look at any key: one that nobody has changes nothing.
        self.get("__bogus__")
        return self

    def table(self, with_defaults: bool = False, censored: bool = True) -> dict[str, Any]:
        """Give the settings as a dict; `censored` puts stars over passwords and keys."""
        self.finalize()
        settings = self if with_defaults else self.without_defaults()
        own = dir(dict)
        shown = {key: value for key, value in settings.items() if not key.startswith("_") and key not in own}
        return filter_hidden_settings(shown) if censored else shown

    def humanize(self, with_defaults: bool = False, censored: bool = True) -> str:
        """Give the settings as text, one to a line."""
        table = self.table(with_defaults, censored)
        return "\n".join(f"{key}: {pretty(value, width=50)}" for key, value in table.items())

    def maybe_warn_deprecated_settings(self) -> bool:
        """Warn about each old name in use; tell whether there was one."""
        for setting in self.deprecated_settings or ():
            deprecated.warn(
                description=f"The {setting!r} setting",
                removal="6.0.0",
                alternative=f"Use the {_TO_NEW_KEY[setting]} instead",
            )
        return bool(self.deprecated_settings)


def _new_key_to_old(key: str, convert: Callable[[str, str], str] = _TO_OLD_KEY.get) -> str:
    return convert(key, key)


def _old_key_to_new(key: str, convert: Callable[[str, str], str] = _TO_NEW_KEY.get) -> str:
    return convert(key, key)


class _Format(NamedTuple):
    """One of the two ways to write setting names: its defaults, and the other way's names in its own."""

    defaults: dict[str, Any]
    convert: dict[str, str]
    mix_error: str


_NEW = _Format(DEFAULTS, _TO_NEW_KEY, E_MIX_OLD_INTO_NEW)
_OLD = _Format(_OLD_DEFAULTS, _TO_OLD_KEY, E_MIX_NEW_INTO_OLD)

# Celery has no settings of these names, so they may stand beside old names as well as beside new ones.
_NEITHER = {f"celerylite_{key}" for key in CELERYLITE} | {f"CELERYLITE_{key.upper()}" for key in CELERYLITE}


def detect_settings(
    conf: MutableMapping[str, Any] | None,
    preconf: Mapping[str, Any] | None = None,
    ignore_keys: set[str] | None = None,
    prefix: str | None = None,
    all_keys: set[str] | None = None,
    old_keys: set[str] | None = None,
) -> Settings:
    """Make settings of a configuration, in the new or the old names, whichever it has more of.

    `conf` is kept and stays live. `preconf` holds changes made before `conf` was read; they go before it.
    Raises ImproperlyConfigured with the list of renames if both kinds of names are used.
    """
    preconf = preconf or {}
    source: Mapping[str, Any] = preconf if conf is None else conf
    have = set(source.keys()) - (ignore_keys or set()) - _NEITHER
    new = have & (all_keys or SETTING_KEYS)
    old = have & (old_keys or _OLD_SETTING_KEYS)
    if prefix or len(old) <= len(new):
        info, left = _NEW, set() if prefix else old
    else:
        info, left = _OLD, new
    _refuse_mix(info, left, have)
    changes = {info.convert.get(key, key): value for key, value in preconf.items()}
    return Settings(
        changes,
        [{} if conf is None else conf, deepcopy(info.defaults)],
        (_old_key_to_new, _new_key_to_old),
        deprecated_settings=old,
        prefix=prefix,
    )


def _refuse_mix(info: _Format, left: set[str], have: set[str]) -> None:
    # A setting that is given under both names needs no renaming.
    renames = [
        FMT_REPLACE_SETTING.format(replace=key, with_=info.convert[key])
        for key in sorted(left)
        if info.convert[key] not in have
    ]
    if renames:
        raise ImproperlyConfigured(info.mix_error.format(renames="\n".join(renames)))


class AppPickler:
    """What rebuilds an app from its pickle; `Celery.Pickler` may name a subclass."""

    def __call__(self, cls: type[Celery], *args: Any) -> Celery:
        kwargs = self.build_kwargs(*args)
        app = self.construct(cls, **kwargs)
        self.prepare(app, **kwargs)
        return app

    def prepare(self, app: Celery, **kwargs: Any) -> None:
        """Give the new app the changes that the old one had."""
        app.conf.update(kwargs["changes"])

    def build_kwargs(self, *args: Any) -> dict[str, Any]:
        """Name the positional arguments of the pickle; for subclasses that add some."""
        return self.build_standard_kwargs(*args)

    def build_standard_kwargs(
        self,
        main: str | None,
        changes: Mapping[str, Any],
        loader: Any,
        backend: Any,
        amqp: Any,
        events: Any,
        log: Any,
        control: Any,
        accept_magic_kwargs: Any,
        config_source: Any = None,
        config_source_silent: bool = False,
    ) -> dict[str, Any]:
        """Name the arguments that each pickle has."""
        return {
            "main": main,
            "changes": changes,
            "loader": loader,
            "backend": backend,
            "amqp": amqp,
            "events": events,
            "log": log,
            "control": control,
            "set_as_current": False,
            "config_source": config_source,
            "config_source_silent": config_source_silent,
        }

    def construct(self, cls: type[Celery], **kwargs: Any) -> Celery:
        """Make the app."""
        return cls(**kwargs)


def _unpickle_app(cls: type[Celery], pickler: type[AppPickler], *args: Any) -> Celery:
    """Rebuild an app whose `__reduce_args__` are positional."""
    return pickler()(cls, *args)


def _unpickle_app_v2(cls: type[Celery], kwargs: dict[str, Any]) -> Celery:
    """Rebuild an app from its `__reduce_keys__`."""
    kwargs["set_as_current"] = False
    return cls(**kwargs)


def sanitize_url(url: Any, mask: str = _MASK) -> Any:
    """Put `mask` over the passwords in a URL or in several joined by `;` or `,`. Gives other values back.

    What cannot be understood is hidden rather than shown.
    """
    if not url or not isinstance(url, str):
        return url
    try:
        return _sanitize(url, mask)
    except Exception:  # a value that cannot be read must not be what shows the password
        if "@" in url and "://" in url:
            return re.sub(r"(?<=://)([^:@/]*):[^/]*(?=@)", rf"\1:{mask}", url)
        return "<unparsable url>"


def _sanitize(url: str, mask: str) -> str:
    first, *others = url.split(";")
    if any("://" in other for other in others):
        return ";".join(sanitize_url(part.strip(), mask) for part in (first, *others))
    scheme, found, rest = url.partition("://")
    if not found:
        return url
    if scheme == "azureblockblob":
        return f"{scheme}://{_sanitize_azure(rest, mask)}"
    # An Azure string may hold ? and # anywhere, so only the others are cut here.
    authority = re.split(r"[/?#]", rest, maxsplit=1)[0]
    return f"{scheme}://{_sanitize_authority(authority, mask)}{rest[len(authority) :]}"


def _sanitize_authority(authority: str, mask: str) -> str:
    separator = next((sep for sep in ";," if sep in authority), "")
    parts = authority.split(separator) if separator else [authority]
    hosts = [host for part in parts if (host := part.strip())]
    if "@" not in authority:
        return separator.join(hosts) if separator else authority
    if len(hosts) > 1 and _are_hosts(hosts):
        return separator.join(_sanitize_host(host, mask) for host in hosts)
    user, _, host = authority.rpartition("@")
    if "@" in user and ":" not in user:
        return f"{mask}@{host}"
    return _sanitize_host(authority, mask)


def _are_hosts(hosts: list[str]) -> bool:
    """Tell a list of hosts from one password that happens to hold a separator."""
    return all(
        (":" in host.rpartition("@")[0]) if "@" in host else not host.startswith(":") for host in hosts
    )


def _sanitize_host(host: str, mask: str) -> str:
    login, at, address = host.rpartition("@")
    user, colon, _ = login.partition(":")
    return f"{user}:{mask}@{address}" if colon else f"{login}{at}{address}"


def _sanitize_azure(connection_string: str, mask: str) -> str:
    return ";".join(_sanitize_azure_part(part, mask) for part in connection_string.split(";"))


def _sanitize_azure_part(part: str, mask: str) -> str:
    key, equals, value = part.partition("=")
    if not equals:
        return part
    if key.strip().lower() in ("accountkey", "sharedaccesssignature"):
        return f"{key}={mask}"
    return f"{key}=" + re.sub(r"(?i)(?<=[?&]sig=)[^&;#]*", mask, value)


def filter_hidden_settings(conf: Mapping[Any, Any]) -> dict[Any, Any]:
    """Give a copy of `conf` with stars over what should not be read over a shoulder."""
    return {key: _maybe_censor(key, value) for key, value in conf.items()}


def _maybe_censor(key: Any, value: Any) -> Any:
    if isinstance(value, Mapping):
        return filter_hidden_settings(value)
    if not isinstance(key, str):
        return value
    if HIDDEN_SETTINGS.search(key):
        return _MASK
    if key.lower() in _BROKER_URLS:
        return sanitize_url(value)
    return sanitize_url(value, mask=_MASK) if "backend" in key.lower() else value


def bugreport(app: Celery) -> str:
    """Describe the software, the platform and the changed settings of `app`, without passwords."""
    return BUGREPORT_INFO.format(
        system=platform.system(),
        arch=", ".join(part for part in platform.architecture() if part),
        kernel_version=platform.release(),
        py_i=platform.python_implementation(),
        py_v=platform.python_version(),
        celery_v=_version_banner(),
        kombu_v=kombu.__version__,
        celerylite_v=_version("celerylite"),
        sqlalchemy_v=_version("sqlalchemy"),
        transport=_transport(app.conf.broker_url),
        results=sanitize_url(app.conf.result_backend or app._database.url),
        human_settings=app.conf.humanize(),
        loader=qualname(app.loader.__class__),
    )


def _version_banner() -> str:
    # The package that holds the names for users imports this module, so it is looked at only here.
    return str(getattr(import_module("celerylite"), "VERSION_BANNER", ""))


def _version(package: str) -> str:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return "(not installed as a package)"


def _transport(broker_url: Any) -> str:
    scheme = str(broker_url or "").partition("://")[0]
    return f"{scheme} (not contacted)" if scheme else ""


def find_app(
    app: str,
    symbol_by_name: Callable[..., Any] = symbol_by_name,
    imp: Callable[..., Any] = import_from_cwd,
) -> Any:
    """Find an app by what stands after `-A`.

    `module:attribute` is taken as it is. In `module` the app is its `app`, else its `celery`, else what
    `module.celery` has, else the first app among its values.
    Raises ImportError or AttributeError if there is none.
    """
    try:
        found = symbol_by_name(app, imp=imp)
    except AttributeError:
        # The last part is a module, not an attribute.
        found = imp(app)
    if not isinstance(found, ModuleType) or ":" in app:
        return found
    for name in ("app", "celery"):
        candidate = getattr(found, name, None)
        if candidate is not None and not isinstance(candidate, ModuleType):
            return candidate
    return _find_app_inside(found, app, symbol_by_name, imp)


def _find_app_inside(
    module: ModuleType, name: str, symbol_by_name: Callable[..., Any], imp: Callable[..., Any]
) -> Any:
    if getattr(module, "__path__", None):
        try:
            return find_app(f"{name}.celery", symbol_by_name=symbol_by_name, imp=imp)
        except ImportError:
            pass  # there is no such module: an app among the package's own values will do
    # An app is known by being one of those that are alive: its class is in a module that imports this one.
    apps = {id(app) for app in _state._get_active_apps()}
    for value in vars(module).values():
        if id(value) in apps:
            return value
    if isinstance(getattr(module, "celery", None), ModuleType):
        raise AttributeError("attribute 'celery' is the celery module not the instance of celery")
    raise AttributeError(f"module {module.__name__!r} has no attribute 'celery'")
