"""The interface of result backends, as Celery's: what to override, and what is built on it."""

from __future__ import annotations

import random
import threading
import warnings
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, NoReturn

from kombu.serialization import prepare_accept_content
from kombu.serialization import registry as serializer_registry
from kombu.utils.encoding import bytes_to_str, ensure_bytes
from kombu.utils.url import maybe_sanitize_url

from celerylite import _clock, _state, states
from celerylite.backends._codec import Codec
from celerylite.backends._compression import COMPRESSED_PAYLOAD_MAGIC as COMPRESSED_PAYLOAD_MAGIC
from celerylite.backends._compression import check_method
from celerylite.backends._compression import compress_payload as compress_payload
from celerylite.backends._compression import decompress_payload as decompress_payload
from celerylite.backends._waiting import SyncBackendMixin
from celerylite.exceptions import (
    BackendGetMetaError,
    BackendStoreError,
    TaskRevokedError,
    TimeoutError,
)
from celerylite.result import ResultSet, result_from_tuple
from celerylite.utils.collections import BufferMap
from celerylite.utils.functional import LRUCache, _regen
from celerylite.utils.log import get_logger
from celerylite.utils.serialization import raise_with_context

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = (
    "Backend",
    "BaseBackend",
    "BaseDictBackend",
    "BaseKeyValueStoreBackend",
    "DisabledBackend",
    "KeyValueStoreBackend",
    "SyncBackendMixin",
)

logger = get_logger(__name__)


class _NoCache(dict[str, Any]):
    """Forgets at once: ``result_cache_max=-1``."""

    def __setitem__(self, key: str, value: Any) -> None:
        """Keep nothing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PendingResult:
    """A result on its way into a backend that is not the app's own database."""

    backend: Backend
    task_id: str
    value: Any
    state: str
    traceback: str | None
    request: Any

    def save(self) -> None:
        """Store it; may block and raise what the backend raises."""
        self.backend.store_result(
            self.task_id, self.value, self.state, traceback=self.traceback, request=self.request
        )


def unpickle_backend(cls: type[Any], args: Any, kwargs: Any) -> Any:
    """A backend again, for the app that is current."""
    return cls(*args, app=_state.get_current_app(), **kwargs)


class Backend(Codec):
    """Stores and reads results. Subclasses override the methods that begin with an underscore.

    ``_store_result``, ``_get_task_meta_for``, ``_forget``, ``_save_group``, ``_restore_group`` and
    ``_delete_group``. A *meta* is a dict with ``status``, ``result``, ``traceback``, ``children``,
    ``date_done``, ``task_id``.
    """

    TimeoutError = TimeoutError

    #: Seconds between looks at single results in `ResultSet.iterate`.
    subpolling_interval: float | None = None
    #: The backend has `get_many`.
    supports_native_join = False
    #: Results vanish by themselves: the daily clean-up is not needed.
    supports_autoexpire = False
    #: Results survive the process.
    persistent = True
    #: It stores any bytes and gives them back unchanged, so that `result_compression` can be honoured.
    supports_result_compression = False
    #: It lets failed results vanish after `result_failure_expires`.
    supports_failure_expires = False
    #: One instance may be used by all threads.
    thread_safe = False

    retry_policy = {  # noqa: RUF012  (Celery's attribute, changed by subclasses)
        "max_retries": 20,
        "interval_start": 0,
        "interval_step": 1,
        "interval_max": 1,
    }

    def __init__(
        self,
        app: Celery,
        serializer: str | None = None,
        max_cached_results: int | None = None,
        accept: Any = None,
        expires: Any = None,
        expires_type: Callable[[Any], Any] | None = None,
        url: str | None = None,
        **kwargs: Any,
    ) -> None:
        self.app = app
        conf = app.conf
        self.serializer: str = serializer or conf.result_serializer
        self.content_type, self.content_encoding, self.encoder = serializer_registry._encoders[
            self.serializer
        ]
        self.compression = self.prepare_compression(conf.get("result_compression"))
        limit = max_cached_results or conf.result_cache_max
        self._cache: Any = _NoCache() if limit == -1 else LRUCache(limit=limit)
        self.expires = self.prepare_expires(expires, expires_type)
        accept = conf.result_accept_content if accept is None else accept
        self.accept = prepare_accept_content(conf.accept_content if accept is None else accept)
        if conf.get("result_failure_expires") is not None and not self.supports_failure_expires:
            self._warn_unsupported("does not support result_failure_expires: failures expire as all results")
        self.always_retry = conf.get("result_backend_always_retry", False)
        self.max_sleep_between_retries_ms = conf.get("result_backend_max_sleep_between_retries_ms", 10000)
        self.base_sleep_between_retries_ms = conf.get("result_backend_base_sleep_between_retries_ms", 10)
        self.max_retries = conf.get("result_backend_max_retries", float("inf"))
        self.thread_safe = self.thread_safe or conf.get("result_backend_thread_safe", False)
        self._pending_messages: Any = BufferMap(8192)
        self.url = url

    def as_uri(self, include_password: bool = False) -> str | None:
        """The URL of the backend, without its password unless asked for."""
        if include_password or self.url is None:
            return self.url
        url = str(maybe_sanitize_url(self.url))
        return url[:-1] if url.endswith(":///") else url

    def prepare_compression(self, compression: str | None) -> str | None:
        """The method by which results are compressed; None, with a warning, where they cannot be stored.

        Raises ImproperlyConfigured for a method that kombu does not have.
        """
        if not compression:
            return None
        if not self.supports_result_compression:
            self._warn_unsupported("cannot store compressed payloads: result_compression has no effect")
            return None
        return check_method(compression)

    def _warn_unsupported(self, what: str) -> None:
        # From whoever makes the backend.
        warnings.warn(f"The {type(self).__name__} result backend {what}.", UserWarning, stacklevel=4)

    # -- writing ---------------------------------------------------------------------------------------

    def store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        """Store state and value of a task; returns the value as it was stored. May block."""
        result = self.encode_result(result, state)
        self._ensure_retryable(
            self._store_result,
            task_id,
            result,
            state,
            traceback,
            fallback_exc=partial(BackendStoreError, task_id=task_id, state=state),
            fallback_msg="failed to store result on the backend",
            request=request,
            **kwargs,
        )
        return result

    def result_row(
        self, task_id: Any, value: Any, state: str, *, traceback: str | None = None, request: Any = None
    ) -> Any:
        """A result that is stored when its call is settled; see `PendingResult`."""
        return PendingResult(
            backend=self, task_id=task_id, value=value, state=state, traceback=traceback, request=request
        )

    def save_row(self, row: Any) -> None:
        """Store what `result_row` gave, now. May block."""
        row.save()

    def mark_as_started(self, task_id: str, **meta: Any) -> Any:
        """Store that a task has started."""
        return self.store_result(task_id, meta, states.STARTED)

    def mark_as_done(
        self,
        task_id: str,
        result: Any,
        request: Any = None,
        store_result: bool = True,
        state: str = states.SUCCESS,
    ) -> None:
        """Store that a task succeeded."""
        if store_result and not (request and request.ignore_result):
            self.store_result(task_id, result, state, request=request)

    def mark_as_failure(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        call_errbacks: bool = True,
        state: str = states.FAILURE,
    ) -> None:
        """Store that a task failed. What follows a failure is the runtime's to do, with the settlement."""
        if store_result:
            self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def mark_as_revoked(
        self,
        task_id: str,
        reason: str = "",
        request: Any = None,
        store_result: bool = True,
        state: str = states.REVOKED,
    ) -> None:
        """Store that a task was revoked."""
        if store_result:
            exc = TaskRevokedError(reason)
            self.store_result(task_id, exc, state, traceback=None, request=request)

    def mark_as_retry(
        self,
        task_id: str,
        exc: BaseException,
        traceback: str | None = None,
        request: Any = None,
        store_result: bool = True,
        state: str = states.RETRY,
    ) -> Any:
        """Store that a task is to be tried again."""
        return self.store_result(task_id, exc, state, traceback=traceback, request=request)

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        raise NotImplementedError("backend does not implement store_result.")

    def forget(self, task_id: str) -> None:
        """Delete a result. May block."""
        self._cache.pop(task_id, None)
        self._ensure_retryable(self._forget, task_id)

    def _forget(self, task_id: str) -> None:
        raise NotImplementedError("backend does not implement forget.")

    # -- reading ---------------------------------------------------------------------------------------

    def get_state(self, task_id: str) -> str:
        """The state of a task; PENDING for an id that nobody knows. May block."""
        state: str = self.get_task_meta(task_id)["status"]
        return state

    get_status = get_state

    def get_traceback(self, task_id: str) -> Any:
        """The traceback of a failed task, a text."""
        return self.get_task_meta(task_id).get("traceback")

    def get_result(self, task_id: str) -> Any:
        """The value of a task, or its exception."""
        return self.get_task_meta(task_id).get("result")

    def get_children(self, task_id: str) -> Any:
        """The results that a task launched."""
        return self.get_task_meta(task_id).get("children")

    def get_task_meta(self, task_id: str, cache: bool = True) -> dict[str, Any]:
        """All that is known of a task. A success is remembered. May block."""
        self._ensure_not_eager()
        if cache and task_id in self._cache:
            cached: dict[str, Any] = self._cache[task_id]
            return cached
        meta: dict[str, Any] = self._ensure_retryable(
            self._get_task_meta_for,
            task_id,
            fallback_exc=partial(BackendGetMetaError, task_id=task_id),
            fallback_msg="failed to get meta",
        )
        if cache and meta.get("status") == states.SUCCESS:
            self._cache[task_id] = meta
        return meta

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        raise NotImplementedError("backend does not implement get_task_meta_for.")

    def is_cached(self, task_id: str) -> bool:
        """Whether a result is remembered."""
        return task_id in self._cache

    def reload_task_result(self, task_id: str) -> None:
        """Read a result again."""
        self._cache[task_id] = self.get_task_meta(task_id, cache=False)

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is stored for a task."""
        return bool(self._get_task_meta_for(task_id)["status"] != states.PENDING)

    def reload_group_result(self, group_id: str) -> None:
        """Read a group again."""
        self._cache[group_id] = self.get_group_meta(group_id, cache=False)

    def get_group_meta(self, group_id: str, cache: bool = True) -> Any:
        """All that is known of a saved group, or None."""
        self._ensure_not_eager()
        if cache and group_id in self._cache:
            return self._cache[group_id]
        meta = self._ensure_retryable(self._restore_group, group_id)
        if cache and meta is not None:
            self._cache[group_id] = meta
        return meta

    def restore_group(self, group_id: str, cache: bool = True) -> Any:
        """A saved group's GroupResult, or None."""
        meta = self.get_group_meta(group_id, cache=cache)
        return meta["result"] if meta else None

    def _restore_group(self, group_id: str) -> Any:
        raise NotImplementedError("backend does not implement restore_group.")

    def save_group(self, group_id: str, result: Any) -> Any:
        """Store a group."""
        return self._ensure_retryable(self._save_group, group_id, result)

    def _save_group(self, group_id: str, result: Any) -> Any:
        raise NotImplementedError("backend does not implement save_group.")

    def delete_group(self, group_id: str) -> Any:
        """Delete a saved group."""
        self._cache.pop(group_id, None)
        return self._ensure_retryable(self._delete_group, group_id)

    def _delete_group(self, group_id: str) -> Any:
        raise NotImplementedError("backend does not implement delete_group.")

    def _ensure_not_eager(self) -> None:
        if self.app.conf.task_always_eager and not self.app.conf.task_store_eager_result:
            warnings.warn(
                "Results are not stored in backend and should not be retrieved when "
                "task_always_eager is enabled, unless task_store_eager_result is enabled.",
                RuntimeWarning,
                stacklevel=3,
            )

    # -- trying again ----------------------------------------------------------------------------------

    def exception_safe_to_retry(self, exc: BaseException) -> bool:
        """Whether an operation that raised `exc` may be tried again; for subclasses."""
        return False

    def on_backend_retryable_error(self, exc: BaseException) -> None:
        """Called before an operation is tried again; for subclasses."""

    def _ensure_retryable(
        self,
        func: Callable[..., Any],
        *args: Any,
        fallback_exc: Any = None,
        fallback_msg: Any = None,
        max_retries: float | None = None,
        **kwargs: Any,
    ) -> Any:
        retries, limit = 0, self.max_retries if max_retries is None else max_retries
        while True:
            try:
                return func(*args, **kwargs)
            except Exception as exc:
                if not (self.always_retry and self.exception_safe_to_retry(exc)):
                    raise
                if retries >= limit:
                    if fallback_exc:
                        raise_with_context(fallback_exc(fallback_msg))
                    raise
                retries += 1
                self._prepare_retry(func, exc, retries, limit)

    def _prepare_retry(self, func: Callable[..., Any], exc: Exception, retries: int, limit: float) -> None:
        name = getattr(func, "__name__", repr(func))
        logger.warning("Failed operation %s. Retrying %s more times.", name, limit - retries, exc_info=True)
        try:
            self.on_backend_retryable_error(exc)
        except Exception:
            logger.exception("on_backend_retryable_error failed; trying again all the same")
        longest = min(self.base_sleep_between_retries_ms * 2**retries, self.max_sleep_between_retries_ms)
        self._sleep(random.uniform(0, longest) / 1000)

    def _sleep(self, amount: float) -> None:
        threading.Event().wait(amount)

    # -- the rest of the interface ---------------------------------------------------------------------

    def cleanup(self) -> None:
        """Delete what has expired."""

    def process_cleanup(self) -> None:
        """Called after each task; for subclasses."""

    def on_task_call(self, producer: Any, task_id: str) -> Any:
        """Called before a task is sent; for subclasses."""
        return {}

    def add_to_chord(self, chord_id: str, result: Any) -> None:
        """Make a chord wait for one more member, which the task that calls this adds.

        It counts from the moment at which that task is settled; until then the chord cannot be complete.
        """
        task: Any = _state.get_current_worker_task()
        if task is None or task.request.group != chord_id:
            raise NotImplementedError("Backend does not support add_to_chord")
        task.request.chord_added = task.request.get("chord_added", 0) + 1

    def set_chord_size(self, group_id: str, chord_size: int) -> None:
        """Tell how many members a chord's header has."""

    def on_chord_part_return(self, request: Any, state: str, result: Any, **kwargs: Any) -> None:
        """Called by Celery when a member of a chord has ended. Here the settlement counts: not called."""

    def ensure_chords_allowed(self) -> None:
        """Raise when chords cannot work with this backend."""

    def apply_chord(self, header_result_args: Any, body: Any, **kwargs: Any) -> None:
        """Prepare for the results of a chord's header. The settlement of its members does the counting."""
        self.ensure_chords_allowed()
        group_id, results = header_result_args
        # A header made while it is sent is not looked at, that would start it.
        known = isinstance(results, list) and not isinstance(results, _regen)
        if known and any(isinstance(result, ResultSet) for result in results):
            # The parts do not tell which of them belong together; the saved group does.
            self.app.GroupResult(group_id, results).save(backend=self)

    def __reduce__(self, args: Any = (), kwargs: Any = None) -> Any:
        return unpickle_backend, (self.__class__, args, kwargs or {})


class BaseBackend(Backend, SyncBackendMixin):
    """The base of backends that look for results."""


BaseDictBackend = BaseBackend


class BaseKeyValueStoreBackend(Backend):
    """The base of backends on a key/value store: override `get`, `mget`, `set` and `delete`."""

    key_t: Any = staticmethod(ensure_bytes)
    task_keyprefix: Any = "celery-task-meta-"
    group_keyprefix: Any = "celery-taskset-meta-"
    chord_keyprefix: Any = "chord-unlock-"
    implements_incr = False

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        options = self.app.conf.get("result_backend_transport_options") or {}
        prefix = options.get("global_keyprefix") or ""
        if prefix and prefix[-1] not in ":_-.":
            prefix += "_"
        for name in ("task_keyprefix", "group_keyprefix", "chord_keyprefix"):
            setattr(self, name, self.key_t(prefix + bytes_to_str(getattr(self, name))))

    def get(self, key: Any) -> Any:
        """The value under `key`, or None."""
        raise NotImplementedError("Must implement the get method.")

    def mget(self, keys: Any) -> Any:
        """The values under `keys`: a list in their order, or a mapping."""
        raise NotImplementedError("Does not support get_many")

    def set(self, key: Any, value: Any) -> Any:
        """Put `value` under `key`."""
        raise NotImplementedError("Must implement the set method.")

    def _set_with_state(self, key: Any, value: Any, state: str) -> Any:
        return self.set(key, value)

    def delete(self, key: Any) -> Any:
        """Remove `key`."""
        raise NotImplementedError("Must implement the delete method")

    def incr(self, key: Any) -> Any:
        """Count up under `key`."""
        raise NotImplementedError("Does not implement incr")

    def expire(self, key: Any, value: Any) -> None:
        """Let `key` vanish in `value` seconds."""

    def get_key_for_task(self, task_id: Any, key: str = "") -> Any:
        """The key of a result."""
        return self._get_key_for(self.task_keyprefix, "task_id", task_id, key)

    def get_key_for_group(self, group_id: Any, key: str = "") -> Any:
        """The key of a saved group."""
        return self._get_key_for(self.group_keyprefix, "group_id", group_id, key)

    def get_key_for_chord(self, group_id: Any, key: str = "") -> Any:
        """The key of a chord."""
        return self._get_key_for(self.chord_keyprefix, "group_id", group_id, key)

    def _get_key_for(self, prefix: Any, what: str, id: Any, key: str) -> Any:
        if not id:
            raise ValueError(f"{what} must not be empty. Got {id} instead.")
        return self.key_t("").join([prefix, self.key_t(str(id)), self.key_t(key)])

    def _strip_prefix(self, key: Any) -> str:
        key = self.key_t(key)
        for prefix in (self.task_keyprefix, self.group_keyprefix):
            if key.startswith(prefix):
                return str(bytes_to_str(key[len(prefix) :]))
        return str(bytes_to_str(key))

    def _mget_to_results(self, values: Any, keys: list[str], ready: Any) -> dict[str, Any]:
        if hasattr(values, "items"):
            pairs = [(self._strip_prefix(key), value) for key, value in values.items()]
        else:
            pairs = list(zip((bytes_to_str(key) for key in keys), values, strict=False))
        metas = {key: self.decode_result(value) for key, value in pairs if value is not None}
        return {key: meta for key, meta in metas.items() if meta["status"] in ready}

    def get_many(
        self,
        task_ids: Iterable[str],
        timeout: float | None = None,
        interval: float | None = 0.5,
        no_ack: bool = True,
        on_message: Any = None,
        on_interval: Any = None,
        max_iterations: int | None = None,
        READY_STATES: Any = states.READY_STATES,
    ) -> Iterator[tuple[str, Any]]:
        """Ids and metas of results, as they become ready. Looks every `interval` seconds. Blocks.

        Raises celerylite's TimeoutError after `timeout` seconds, and not later.
        """
        left_ids = set(task_ids)
        end = None if timeout is None else _clock.monotonic() + timeout
        rounds = 0
        while left_ids:
            keys = list(left_ids)
            found = self._mget_to_results(
                self.mget([self.get_key_for_task(key) for key in keys]), keys, READY_STATES
            )
            self._cache.update(found)
            for task_id, meta in found.items():
                left_ids.discard(task_id)
                if on_message is not None:
                    on_message(meta)
                yield task_id, meta
            rounds += 1
            if not left_ids or (max_iterations and rounds >= max_iterations):
                return
            pause = interval or 0.5
            if end is not None:
                pause = min(pause, end - _clock.monotonic())
                if pause <= 0:
                    raise TimeoutError(f"Operation timed out ({timeout})")
            if on_interval:
                on_interval()
            self._sleep(pause)

    def _forget(self, task_id: str) -> None:
        self.delete(self.get_key_for_task(task_id))

    def _store_result(
        self,
        task_id: str,
        result: Any,
        state: str,
        traceback: str | None = None,
        request: Any = None,
        **kwargs: Any,
    ) -> Any:
        if self._get_task_meta_for(task_id)["status"] == states.SUCCESS:
            return result  # As Celery: a success is never overwritten.
        meta = self._get_result_meta(result=result, state=state, traceback=traceback, request=request)
        meta["task_id"] = bytes_to_str(task_id)
        self._set_with_state(self.get_key_for_task(task_id), self.encode(meta), state)
        return result

    def _get_task_meta_for(self, task_id: str) -> dict[str, Any]:
        stored = self.get(self.get_key_for_task(task_id))
        return self.decode_result(stored) if stored else {"status": states.PENDING, "result": None}

    def task_result_exists(self, task_id: str) -> bool:
        """Whether anything is stored for a task."""
        return bool(self.get(self.get_key_for_task(task_id)))

    def _save_group(self, group_id: str, result: Any) -> Any:
        payload = self.encode({"result": result.as_tuple()})
        self._set_with_state(self.get_key_for_group(group_id), payload, states.SUCCESS)
        return result

    def _restore_group(self, group_id: str) -> Any:
        stored = self.get(self.get_key_for_group(group_id))
        if not stored:
            return None
        meta = self.decode(stored)
        meta["result"] = result_from_tuple(meta["result"], self.app)
        return meta

    def _delete_group(self, group_id: str) -> None:
        self.delete(self.get_key_for_group(group_id))


class KeyValueStoreBackend(BaseKeyValueStoreBackend, SyncBackendMixin):
    """The base of key/value backends that look for results."""


class DisabledBackend(BaseBackend):
    """Keeps nothing, and says so when asked."""

    _cache: Any = {}  # noqa: RUF012  (Celery's attribute)

    def store_result(self, *args: Any, **kwargs: Any) -> None:
        """Keep nothing."""

    def ensure_chords_allowed(self) -> NoReturn:
        """Chords need results."""
        raise NotImplementedError("Starting chords requires a result backend to be configured.")

    def _is_disabled(self, *args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            "No result backend is configured.\nPlease see the documentation for more information."
        )

    def as_uri(self, *args: Any, **kwargs: Any) -> str:
        """A name for it."""
        return "disabled://"

    get_state = get_status = get_result = get_traceback = _is_disabled
    get_task_meta_for = wait_for = get_many = _is_disabled
