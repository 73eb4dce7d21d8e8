"""The table of settings: each name that Celery 5.7 knows with its old name, type and default, and ours."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping
from datetime import timedelta
from functools import cache
from typing import Any, ClassVar, NamedTuple, TypeAlias, TypeVar

from celerylite.utils import deprecated
from celerylite.utils.serialization import strtobool

__all__ = ("NAMESPACES", "Option", "find", "flatten")

_T = TypeVar("_T")
_Row: TypeAlias = tuple[str, str, Any] | tuple[str, str, Any, str]
_Rows: TypeAlias = tuple[_Row, ...]

DEFAULT_POOL = "prefork"
DEFAULT_ACCEPT_CONTENT = ("json",)
DEFAULT_PROCESS_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(message)s"
DEFAULT_TASK_LOG_FMT = "[%(asctime)s: %(levelname)s/%(processName)s] %(task_name)s[%(task_id)s]: %(message)s"
DEFAULT_SECURITY_DIGEST = "sha256"
DEFAULT_PUBLISH_RETRY_POLICY = {
    "max_retries": 3,
    "interval_start": 0,
    "interval_max": 1,
    "interval_step": 0.2,
}


class searchresult(NamedTuple):
    """Where `find` found a setting: its name is `namespace` and `key` joined by an underscore."""

    namespace: str | None
    key: str
    type: Any


class Option:
    """One setting: its default, the type that text is converted to, and the name it had before Celery 4.

    Further keywords (`old`, `alt`, `deprecate_by`, `remove_by`) become attributes.
    """

    #: What to use instead of a deprecated setting.
    alt: str | None = None
    #: The version of Celery that deprecates the setting.
    deprecate_by: str | None = None
    #: The version of Celery that removes the setting.
    remove_by: str | None = None
    #: Names that the setting had before Celery 4, in lower case. `{0}` stands for the name in its namespace.
    old: set[str] = set()  # noqa: RUF012  # replaced, never changed
    typemap: ClassVar[dict[str, Callable[[Any], Any]]] = {
        "string": str,
        "int": int,
        "float": float,
        "any": lambda value: value,
        "bool": strtobool,
        "dict": dict,
        "tuple": tuple,
    }

    def __init__(self, default: Any = None, *args: Any, **kwargs: Any) -> None:
        self.default = default
        self.type: str = "string"
        self.__dict__.update(kwargs)
        self.type = self.type or "string"

    def to_python(self, value: Any) -> Any:
        """Convert text, as a command line gives it, to the type of this setting.

        Raises KeyError for a type that text cannot express (`list`).
        """
        return self.typemap[self.type](value)

    def __repr__(self) -> str:
        return f"<Option: type->{self.type} default->{self.default!r}>"


def _group(rows: _Rows, old: str | None = None) -> dict[str, Any]:
    """Make the options of one namespace; `old` is the pattern of the old names that no row spells out."""
    return {name: _option(name, *rest, pattern=old) for name, *rest in rows}


def _option(name: str, kind: str, default: Any, old: str | None = None, *, pattern: str | None) -> Option:
    template = old or pattern
    names = {template.format(name)} if template else set[str]()
    return Option(default, type=kind, old=names)


# A row: the name in its namespace, the type, the default, and the old name where it does not follow the
# pattern of the namespace. Where neither is given the old name is the new one in upper case.

_GENERAL: _Rows = (
    ("accept_content", "list", DEFAULT_ACCEPT_CONTENT, "celery_accept_content"),
    ("result_accept_content", "list", None),
    ("enable_utc", "bool", True),
    ("imports", "tuple", (), "celery_imports"),
    ("include", "tuple", (), "celery_include"),
    ("timezone", "string", None, "celery_timezone"),
)

_BEAT: _Rows = (
    ("enable_remote_control", "bool", False),
    ("remote_control_max_tick_age", "float", None),
    ("max_loop_interval", "float", 0),
    ("schedule", "dict", {}),
    ("scheduler", "string", "celerylite.beat:PersistentScheduler"),
    ("schedule_filename", "string", "celerybeat-schedule"),
    ("sync_every", "int", 0),
    ("cron_starting_deadline", "int", None),
)

_BROKER: _Rows = (
    ("url", "string", None),
    ("read_url", "string", None),
    ("write_url", "string", None),
    ("transport", "string", None),
    ("transport_options", "dict", {}),
    ("connection_timeout", "float", 4),
    ("connection_retry", "bool", True),
    ("connection_retry_on_startup", "bool", None),
    ("connection_max_retries", "int", 100),
    ("channel_error_retry", "bool", False),
    ("failover_strategy", "string", None),
    ("heartbeat", "int", 120),
    ("heartbeat_checkrate", "int", 3.0),
    ("login_method", "string", None),
    ("native_delayed_delivery_queue_type", "string", "quorum"),
    ("pool_limit", "int", 10),
    ("pool_acquire_timeout", "float", None),
    ("use_ssl", "bool", False),
    ("host", "string", None),
    ("port", "int", None),
    ("user", "string", None),
    ("password", "string", None),
    ("vhost", "string", None),
)

_CACHE: _Rows = (
    ("backend", "string", None),
    ("backend_options", "dict", {}),
)

_CASSANDRA: _Rows = (
    ("entry_ttl", "float", None),
    ("keyspace", "string", None),
    ("port", "string", None),
    ("read_consistency", "string", None),
    ("servers", "list", None),
    ("bundle_path", "string", None),
    ("table", "string", None),
    ("write_consistency", "string", None),
    ("auth_provider", "string", None),
    ("auth_kwargs", "string", None),
    ("options", "dict", {}),
)

_S3: _Rows = (
    ("access_key_id", "string", None),
    ("secret_access_key", "string", None),
    ("bucket", "string", None),
    ("base_path", "string", None),
    ("endpoint_url", "string", None),
    ("region", "string", None),
)

_AZUREBLOCKBLOB: _Rows = (
    ("container_name", "string", "celery"),
    ("retry_initial_backoff_sec", "int", 2),
    ("retry_increment_base", "int", 2),
    ("retry_max_attempts", "int", 3),
    ("base_path", "string", ""),
    ("connection_timeout", "int", 20),
    ("read_timeout", "int", 120),
)

_GCS: _Rows = (
    ("bucket", "string", None),
    ("project", "string", None),
    ("base_path", "string", ""),
    ("ttl", "float", 0),
)

_CONTROL: _Rows = (
    ("queue_ttl", "float", 300.0),
    ("queue_expires", "float", 10.0),
    ("queue_exclusive", "bool", True),
    ("queue_durable", "bool", False),
    ("exchange", "string", "celery"),
)

_COUCHBASE: _Rows = (("backend_settings", "dict", None),)

_ARANGODB: _Rows = (("backend_settings", "dict", None),)

_MONGODB: _Rows = (("backend_settings", "dict", None),)

_COSMOSDBSQL: _Rows = (
    ("database_name", "string", "celerydb"),
    ("collection_name", "string", "celerycol"),
    ("consistency_level", "string", "Session"),
    ("max_retry_attempts", "int", 9),
    ("max_retry_wait_time", "int", 30),
)

_EVENT: _Rows = (
    ("queue_expires", "float", 60.0),
    ("queue_ttl", "float", 5.0),
    ("queue_prefix", "string", "celeryev"),
    ("queue_exclusive", "bool", True),
    ("queue_durable", "bool", False),
    ("serializer", "string", "json"),
    ("exchange", "string", "celeryev"),
)

_REDIS: _Rows = (
    ("backend_use_ssl", "dict", None),
    ("db", "int", None),
    ("host", "string", None),
    ("max_connections", "int", None),
    ("username", "string", None),
    ("password", "string", None),
    ("port", "int", None),
    ("socket_timeout", "float", 120.0),
    ("socket_connect_timeout", "float", None),
    ("retry_on_timeout", "bool", False),
    ("socket_keepalive", "bool", False),
)

_RESULT: _Rows = (
    ("backend", "string", None),
    ("cache_max", "int", -1, "celery_max_cached_results"),
    ("compression", "str", None),
    ("exchange", "string", "celeryresults"),
    ("exchange_type", "string", "direct"),
    ("expires", "float", timedelta(days=1), "celery_task_result_expires"),
    ("chord_expires", "float", None),
    ("failure_expires", "float", None),
    ("persistent", "bool", None),
    ("extended", "bool", False),
    ("serializer", "string", "json"),
    ("backend_transport_options", "dict", {}),
    ("chord_retry_interval", "float", 1.0),
    ("chord_join_timeout", "float", 3.0),
    ("backend_max_sleep_between_retries_ms", "int", 10000),
    ("backend_max_retries", "float", float("inf")),
    ("backend_base_sleep_between_retries_ms", "int", 10),
    ("backend_always_retry", "bool", False),
)

_ELASTICSEARCH: _Rows = (
    ("retry_on_timeout", "bool", None),
    ("max_retries", "int", None),
    ("timeout", "float", None),
    ("save_meta_as_text", "bool", True),
)

_SECURITY: _Rows = (
    ("certificate", "string", None),
    ("cert_store", "string", None),
    ("key", "string", None),
    ("key_password", "bytes", None),
    ("digest", "string", DEFAULT_SECURITY_DIGEST),
)

_DATABASE: _Rows = (
    ("url", "string", None, "celery_result_dburi"),
    ("engine_options", "dict", {"pool_pre_ping": True, "pool_recycle": 3600}, "celery_result_engine_options"),
    ("engine_callback", "any", None),
    ("short_lived_sessions", "bool", False, "celery_result_db_short_lived_sessions"),
    ("table_schemas", "dict", None),
    ("table_names", "dict", None, "celery_result_db_tablenames"),
    ("create_tables_at_setup", "bool", True),
)

_TASK: _Rows = (
    ("acks_late", "bool", False),
    ("acks_on_failure_or_timeout", "bool", True),
    ("acks_on_failure", "bool", None),
    ("acks_on_timeout", "bool", None),
    ("always_eager", "bool", False),
    ("annotations", "any", None),
    ("compression", "string", None, "celery_message_compression"),
    ("create_missing_queues", "bool", True),
    ("create_missing_queue_type", "string", "classic"),
    ("create_missing_queue_exchange_type", "string", None),
    ("inherit_parent_priority", "bool", False),
    ("default_delivery_mode", "string", 2),
    ("default_queue", "string", "celery"),
    ("default_queue_type", "string", "classic"),
    ("default_exchange", "string", None),
    ("default_exchange_type", "string", "direct"),
    ("default_routing_key", "string", None),
    ("default_rate_limit", "string", None),
    ("default_priority", "string", None),
    ("eager_propagates", "bool", False, "celery_eager_propagates_exceptions"),
    ("ignore_result", "bool", False),
    ("store_eager_result", "bool", False),
    ("protocol", "int", 2, "celery_task_protocol"),
    ("publish_retry", "bool", True, "celery_task_publish_retry"),
    ("publish_retry_policy", "dict", DEFAULT_PUBLISH_RETRY_POLICY, "celery_task_publish_retry_policy"),
    ("queues", "dict", None),
    ("queue_max_priority", "int", None),
    ("reject_on_worker_lost", "bool", None),
    ("retry_on_worker_lost", "bool", False),
    ("remote_tracebacks", "bool", False),
    ("repr_maxlevels", "int", 3),
    ("routes", "any", None),
    ("send_sent_event", "bool", False, "celery_send_task_sent_event"),
    ("serializer", "string", "json", "celery_task_serializer"),
    ("soft_time_limit", "float", None, "celeryd_task_soft_time_limit"),
    ("time_limit", "float", None, "celeryd_task_time_limit"),
    ("store_errors_even_if_ignored", "bool", False),
    ("track_started", "bool", False),
    ("allow_error_cb_on_chord_header", "bool", False),
)

_WORKER: _Rows = (
    ("agent", "string", None),
    ("autoscaler", "string", "celerylite.worker.autoscale:Autoscaler"),
    ("cancel_long_running_tasks_on_connection_loss", "bool", False),
    ("soft_shutdown_timeout", "float", 0.0),
    ("enable_soft_shutdown_on_idle", "bool", False),
    ("concurrency", "any", None),
    ("consumer", "string", "celerylite.worker.consumer:Consumer"),
    ("direct", "bool", False, "celery_worker_direct"),
    ("disable_rate_limits", "bool", False, "celery_disable_rate_limits"),
    ("deduplicate_successful_tasks", "bool", False),
    ("enable_remote_control", "bool", True, "celery_enable_remote_control"),
    ("hijack_root_logger", "bool", True),
    ("log_color", "bool", None),
    ("log_datefmt", "string", None),
    ("log_format", "string", DEFAULT_PROCESS_LOG_FMT),
    ("lost_wait", "float", 10.0, "celeryd_worker_lost_wait"),
    ("max_memory_per_child", "int", None),
    ("max_tasks_per_child", "int", None),
    ("pool", "string", DEFAULT_POOL),
    ("pool_putlocks", "bool", True),
    ("pool_restarts", "bool", False),
    ("pool_start_method", "string", "fork"),
    ("proc_alive_timeout", "float", 4.0),
    ("prefetch_multiplier", "int", 4),
    ("eta_task_limit", "int", None),
    ("enable_prefetch_count_reduction", "bool", True),
    ("disable_prefetch", "bool", False),
    ("redirect_stdouts", "bool", True, "celery_redirect_stdouts"),
    ("redirect_stdouts_level", "string", "WARNING", "celery_redirect_stdouts_level"),
    ("send_task_events", "bool", False, "celery_send_events"),
    ("state_db", "string", None),
    ("task_log_datefmt", "string", None),
    ("task_log_format", "string", DEFAULT_TASK_LOG_FMT),
    ("timer", "string", None),
    ("timer_precision", "float", 1.0),
    ("detect_quorum_queues", "bool", True),
)

NAMESPACES: dict[str, Any] = {
    **_group(_GENERAL),
    "beat": _group(_BEAT, old="celerybeat_{0}"),
    "broker": _group(_BROKER),
    "cache": _group(_CACHE, old="celery_cache_{0}"),
    "cassandra": _group(_CASSANDRA),
    "s3": _group(_S3),
    "azureblockblob": _group(_AZUREBLOCKBLOB),
    "gcs": _group(_GCS),
    "control": _group(_CONTROL),
    "couchbase": _group(_COUCHBASE, old="celery_couchbase_{0}"),
    "arangodb": _group(_ARANGODB, old="celery_arangodb_{0}"),
    "mongodb": _group(_MONGODB, old="celery_mongodb_{0}"),
    "cosmosdbsql": _group(_COSMOSDBSQL),
    "event": _group(_EVENT, old="celery_event_{0}"),
    "redis": _group(_REDIS, old="celery_redis_{0}"),
    "result": _group(_RESULT, old="celery_result_{0}"),
    "elasticsearch": _group(_ELASTICSEARCH, old="celery_elasticsearch_{0}"),
    "security": _group(_SECURITY, old="celery_security_{0}"),
    "database": _group(_DATABASE),
    "task": _group(_TASK, old="celery_{0}"),
    "worker": _group(_WORKER, old="celeryd_{0}"),
}

_DEPRECATED = NAMESPACES["task"]["acks_on_failure_or_timeout"]
_DEPRECATED.deprecate_by = "6.0"
_DEPRECATED.remove_by = "7.0"
_DEPRECATED.alt = "task_acks_on_failure and task_acks_on_timeout"

#: Settings that Celery does not have, kept apart so that the table above stays comparable with Celery's.
#: All start with `celerylite_`.
CELERYLITE = _group(
    (
        # Start running tasks by itself: 'auto' (when the process serves, or at the first publish),
        # 'on' (as soon as the app is finalized), 'off' or False (this process only publishes).
        ("runtime", "any", "auto"),
        # Fire the schedule: 'auto' (when there is one and the runtime runs), 'on', 'off'.
        ("beat", "string", "auto"),
        # What a commit survives on SQLite: 'normal' (the process being killed), 'full' (power loss as well).
        ("durability", "string", "normal"),
        # Seconds that an outcome which nobody is told of may wait to be committed together with others.
        ("batch_window", "float", 0.001),
        # Seconds that running tasks get when the process stops, and a script for what it published.
        ("exit_grace", "float", 30.0),
        # Seconds without a sign of life after which the work of a process is given to others.
        ("lease", "float", 20.0),
        # Write one row for each attempt.
        ("history", "bool", True),
        # Seconds for which those rows are kept.
        ("history_expires", "float", 604800.0),
        # Say once in the log which addresses of servers are set but not used.
        ("warn_ignored", "bool", True),
    )
)


def _flatten_keys(ns: str, key: str, opt: Option) -> list[tuple[str, Option]]:
    return [(ns + key, opt)]


def _to_compat(ns: str, key: str, opt: Option) -> list[tuple[str, str, Option]]:
    new = ns + key
    return [(old.format(key).upper(), new, opt) for old in opt.old] or [(new.upper(), new, opt)]


def flatten(
    d: Mapping[str, Any],
    root: str = "",
    keyfilter: Callable[[str, str, Option], list[Any]] = _flatten_keys,
) -> Iterator[Any]:
    """Walk a nested table of options and yield what `keyfilter(prefix, key, option)` makes of each.

    Without a `keyfilter` that is `(full name, option)`. Options of outer namespaces come first.
    """
    waiting: deque[tuple[str, Mapping[str, Any]]] = deque([(root, d)])
    while waiting:
        prefix, entries = waiting.popleft()
        for key, entry in entries.items():
            if isinstance(entry, dict):
                waiting.append((f"{prefix}{key}_", entry))
            else:
                yield from keyfilter(prefix, key, entry)


_ALL: dict[str, Any] = {**NAMESPACES, "celerylite": CELERYLITE}
_OPTIONS: dict[str, Option] = dict(flatten(_ALL))
_COMPAT: list[tuple[str, str, Option]] = list(flatten(_ALL, keyfilter=_to_compat))

#: New name -> default.
DEFAULTS: dict[str, Any] = {name: option.default for name, option in _OPTIONS.items()}
_OLD_DEFAULTS: dict[str, Any] = {old: option.default for old, _, option in _COMPAT}
_TO_OLD_KEY: dict[str, str] = {new: old for old, new, _ in _COMPAT}
_TO_NEW_KEY: dict[str, str] = {old: new for old, new, _ in _COMPAT}

#: All new names.
SETTING_KEYS: set[str] = set(DEFAULTS)
_OLD_SETTING_KEYS: set[str] = set(_TO_NEW_KEY)


def find_deprecated_settings(source: _T) -> _T:
    """Warn about each deprecated setting that `source` has as an attribute, and give `source` back."""
    for name, option in flatten(NAMESPACES):
        leaving = option.deprecate_by or option.remove_by
        if leaving and getattr(source, name, None) is not None:
            deprecated.warn(
                description=f"The {name!r} setting",
                deprecation=option.deprecate_by,
                removal=option.remove_by,
                alternative=f"Use the {option.alt} instead",
            )
    return source


@cache
def find(name: str, namespace: str = "celery") -> searchresult:
    """Find a setting by its name within a namespace, or by its full name. Case does not matter.

    The given namespace is searched first, then the others in the order of the table.
    Raises KeyError if no setting has that name.
    """
    namespace, name = namespace.lower(), name.lower()
    candidates = {namespace: _ALL.get(namespace), **_ALL}
    for space, entry in candidates.items():
        if isinstance(entry, dict) and name in entry:
            return searchresult(space, name, entry[name])
        if space == name and entry is not None:
            # As Celery: the name of a namespace finds the whole namespace.
            return searchresult(None, space, entry)
    return searchresult(None, name, _OPTIONS[name])
