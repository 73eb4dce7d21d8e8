"""How values, exceptions and what goes with them are encoded, as Celery's backends do."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from kombu.utils.encoding import ensure_bytes

from celerylite import _state, states
from celerylite._message import deserialised, serialised
from celerylite.backends import _exceptions
from celerylite.backends._compression import compress_payload, decompress_payload
from celerylite.result import ResultBase

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("Codec",)


class Codec:
    """The encoding half of a backend; `celerylite.backends.base.Backend` sets its attributes."""

    READY_STATES = states.READY_STATES
    UNREADY_STATES = states.UNREADY_STATES
    EXCEPTION_STATES = states.EXCEPTION_STATES

    app: Celery
    serializer: str
    compression: str | None
    content_type: Any
    content_encoding: Any
    accept: Any
    persistent = True

    def encode(self, data: Any) -> Any:
        """`data` serialised, and compressed where that is set; raises kombu's EncodeError."""
        payload = self._encode(data)[2]
        return compress_payload(payload, self.compression) if self.compression else payload

    def _encode(self, data: Any) -> tuple[str, str, Any]:
        return serialised(data, self.serializer)

    def decode(self, payload: Any) -> Any:
        """What `payload` holds; raises kombu's DecodeError and ContentDisallowed."""
        if payload is None:
            return None
        # Whatever is set now: it may have been compressed by another process, or before the setting changed.
        return deserialised(
            decompress_payload(payload or str(payload)),
            self.content_type,
            self.content_encoding,
            self.accept,
        )

    def encode_result(self, result: Any, state: str) -> Any:
        """A value or exception in the form that the serializer can hold."""
        if state in self.EXCEPTION_STATES and isinstance(result, BaseException):
            return self.prepare_exception(result)
        return self.prepare_value(result)

    def decode_result(self, payload: Any) -> dict[str, Any]:
        """A meta that was encoded as a whole."""
        return self.meta_from_decoded(self.decode(payload))

    def meta_from_decoded(self, meta: dict[str, Any]) -> dict[str, Any]:
        """`meta` with its exception made again, if it holds one."""
        if meta["status"] in self.EXCEPTION_STATES:
            meta["result"] = self.exception_to_python(meta["result"])
        return meta

    def prepare_exception(self, exc: BaseException, serializer: str | None = None) -> Any:
        """An exception as it is stored."""
        return _exceptions.to_store(exc, serializer or self.serializer, self.encode)

    def exception_to_python(self, exc: Any) -> BaseException | None:
        """A stored exception as an instance of its own class, where that is loaded."""
        return _exceptions.from_stored(exc, self.serializer)

    def prepare_value(self, result: Any) -> Any:
        """A value as it is stored: result handles as tuples."""
        if self.serializer != "pickle" and isinstance(result, ResultBase):
            handle: Any = result
            return handle.as_tuple()
        return result

    def prepare_expires(self, value: Any, type: Callable[[Any], Any] | None = None) -> Any:
        """Seconds until results expire, converted by `type`."""
        if value is None:
            value = self.app.conf.result_expires
        if isinstance(value, timedelta):
            value = value.total_seconds()
        return type(value) if value is not None and type else value

    def prepare_persistent(self, enabled: bool | None = None) -> bool:
        """Whether results survive the process."""
        if enabled is not None:
            return enabled
        persistent = self.app.conf.result_persistent
        return self.persistent if persistent is None else bool(persistent)

    def current_task_children(self, request: Any = None) -> list[Any] | None:
        """The children of a call as tuples."""
        request = request or getattr(_state.get_current_task(), "request", None)
        if not request:
            return None
        return [child.as_tuple() for child in getattr(request, "children", [])]

    def _get_result_meta(
        self,
        result: Any,
        state: str,
        traceback: str | None,
        request: Any,
        format_date: bool = True,
        encode: bool = False,
    ) -> dict[str, Any]:
        done: Any = self.app.now() if state in self.READY_STATES else None
        meta = {
            "status": state,
            "result": result,
            "traceback": traceback,
            "children": self.current_task_children(request),
            "date_done": done.isoformat() if done is not None and format_date else done,
        }
        if request and getattr(request, "group", None):
            meta["group_id"] = request.group
        if request and getattr(request, "parent_id", None):
            meta["parent_id"] = request.parent_id
        if request and self.app.conf.find_value_for_key("extended", "result"):
            meta.update(self._extended_meta(request, encode))
        return meta

    def _extended_meta(self, request: Any, encode: bool) -> dict[str, Any]:
        info = getattr(request, "delivery_info", None) or {}
        meta = {
            "name": getattr(request, "task", None),
            "args": getattr(request, "args", None),
            "kwargs": getattr(request, "kwargs", None),
            "worker": getattr(request, "hostname", None),
            "retries": getattr(request, "retries", None),
            "queue": info.get("routing_key"),
        }
        if encode:
            for name in ("args", "kwargs"):
                meta[name] = ensure_bytes(self.encode(meta[name]))
        stamped = getattr(request, "stamped_headers", None) or ()
        if getattr(request, "stamps", None):
            meta["stamped_headers"] = stamped
            meta.update({key: value for key, value in request.stamps.items() if key in stamped})
        return meta
