"""One call of a task as a frozen record: Celery's protocol 2, headers and serialised body."""

from __future__ import annotations

from base64 import b64decode, b64encode
from collections.abc import Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, tzinfo
from json import JSONDecoder
from typing import Any, NamedTuple

from kombu import compression as compressors
from kombu.exceptions import ContentDisallowed, DecodeError
from kombu.serialization import dumps, loads, registry
from kombu.utils import json

from celerylite.exceptions import InvalidTaskError

__all__ = (
    "Body",
    "Message",
    "decode_body",
    "deserialised",
    "encode_body",
    "epoch",
    "from_text",
    "header_texts",
    "keep_texts",
    "serialised",
    "to_text",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    """What waits in the store until somebody runs it."""

    id: str
    name: str
    queue: str
    #: Celery's protocol 2 headers, and whatever publish handlers added.
    headers: dict[str, Any]
    properties: dict[str, Any]
    #: Serialised ``(args, kwargs, embed)``; see `encode_body`.
    body: str | bytes
    content_type: str
    content_encoding: str
    #: 0 to 9, higher first.
    priority: int = 0
    #: Seconds since the epoch; None is now.
    due_at: float | None = None
    #: Seconds since the epoch; None is never.
    expires_at: float | None = None
    #: Headers and properties as JSON, once somebody has needed them; see `header_texts`.
    _texts: tuple[str, str] | None = field(default=None, init=False, repr=False, compare=False)


class Body(NamedTuple):
    """What the task is called with, and what follows it."""

    args: list[Any]
    kwargs: dict[str, Any]
    #: callbacks, errbacks, chain, chord.
    embed: dict[str, Any]


def encode_body(
    body: Any, serializer: str, compression: str | None
) -> tuple[str, str, str | bytes, str | None]:
    """Serialise `body`: content type, content encoding, data, and the compression's own content type.

    Raises kombu's EncodeError for what the serializer cannot hold.
    """
    content_type, content_encoding, data = serialised(body, serializer)
    if not compression:
        return content_type, content_encoding, data, None
    packed, packed_type = compressors.compress(data, compression)
    return content_type, content_encoding, packed, packed_type


def serialised(body: Any, serializer: str | None) -> tuple[str, str, str | bytes]:
    """What kombu's `dumps` gives: content type, content encoding and data. Raises kombu's EncodeError."""
    # kombu makes a new encoder for each text, and that takes as long as the encoding.
    known = registry._encoders.get(serializer)
    if known is not None and known.encoder is json.dumps:
        # What JSON cannot hold is kombu's to name, below.
        with suppress(Exception):
            return known.content_type, known.content_encoding, _encode_json(body)
    encoded: tuple[str, str, str | bytes] = dumps(body, serializer=serializer)
    return encoded


def deserialised(data: Any, content_type: Any, content_encoding: Any, accept: Collection[str] | None) -> Any:
    """What kombu's `loads` gives. Raises kombu's ContentDisallowed and DecodeError."""
    # Without the types that only kombu's JSON has: then its hook need not look at each object.
    if (
        content_type == _JSON_TYPE
        and (accept is None or _JSON_TYPE in accept)
        and registry._decoders.get(_JSON_TYPE) is json.loads
    ):
        with suppress(Exception):
            text = data if isinstance(data, str) else bytes(data).decode(content_encoding)
            if "__type__" not in text:
                return _decode_json(text)
    return loads(data, content_type, content_encoding, accept=accept)


_JSON_TYPE = "application/json"
_encode_json = json.JSONEncoder().encode
_decode_json = JSONDecoder().decode


def decode_body(message: Message, accept: Collection[str] | None) -> Body:
    """Read the body of `message`.

    Raises kombu's ContentDisallowed when its content type is not among `accept`, its DecodeError for
    what cannot be read, and InvalidTaskError for what is no body of a task.
    """
    body = _unpacked(message, accept)
    try:
        args, kwargs, embed = body
    except (TypeError, ValueError):
        raise InvalidTaskError(
            f"task {message.id}: expected a body of (args, kwargs, embed), got {type(body).__name__}"
        ) from None
    if not isinstance(kwargs, Mapping):
        # As Celery: the sentence users match.
        raise InvalidTaskError("Task keyword arguments is not a mapping")
    if not isinstance(args, list | tuple):
        raise InvalidTaskError(f"task {message.id}: expected a list of arguments, got {type(args).__name__}")
    if not isinstance(embed or {}, Mapping):
        raise InvalidTaskError(
            f"task {message.id}: expected a mapping of options, got {type(embed).__name__}"
        )
    return Body(list(args), dict(kwargs), dict(embed or {}))


def uncompressed_body(message: Message) -> bytes | str:
    """The serialised body as it was before it was compressed. Raises whatever the compression raises."""
    packed_type = message.headers.get("compression")
    if not packed_type:
        return message.body
    data: bytes | str = compressors.decompress(message.body, packed_type)
    return data


def _unpacked(message: Message, accept: Collection[str] | None) -> Any:
    try:
        data = uncompressed_body(message)
        return deserialised(data, message.content_type, message.content_encoding, accept)
    except (ContentDisallowed, DecodeError):
        raise
    except Exception as exc:
        # An unknown or wrong compression, encoding or content type: kombu lets each pass as it comes.
        raise DecodeError(f"task {message.id}: expected a body that can be read, got {exc!r}") from exc


def header_texts(message: Message) -> tuple[str, str]:
    """Headers and properties as JSON, as they are when they are first asked for."""
    # Once: a call is encoded to be sent, and its history keeps the same.
    texts = message._texts
    if texts is None:
        texts = _encode_json(message.headers), _encode_json(message.properties)
        keep_texts(message, *texts)
    return texts


def keep_texts(message: Message, headers: str, properties: str) -> None:
    """Give `message` the texts that it was read from, or written as, for `header_texts`."""
    # Past the frozen dataclass: a cache, which changes nothing that can be seen.
    object.__setattr__(message, "_texts", (headers, properties))


def to_text(message: Message) -> str:
    """`message` as JSON, to be read by `from_text`; its times are left out: it is to be sent anew."""
    body = message.body
    if isinstance(body, bytes):
        body = b64encode(body).decode("ascii")
    fields = {name: getattr(message, name) for name in _KEPT}
    rest = _encode_json({**fields, "body": body, "is_text": isinstance(message.body, str)})
    headers, properties = header_texts(message)
    return f'{{"headers": {headers}, "properties": {properties}, {rest[1:]}'


def from_text(text: str) -> Message:
    """The message that `to_text` wrote."""
    fields = json.loads(text)
    if not fields.pop("is_text"):
        fields["body"] = b64decode(fields["body"])
    return Message(**fields)


_KEPT = ("id", "name", "queue", "content_type", "content_encoding", "priority")


def epoch(moment: Any, zone: tzinfo = UTC, what: str = "date") -> float | None:
    """Seconds since the epoch of an ISO 8601 text, datetime or number; naive times are in `zone`.

    Raises InvalidTaskError for anything else, about `what` it was.
    """
    if moment is None or isinstance(moment, int | float):
        return moment
    try:
        when = moment if isinstance(moment, datetime) else datetime.fromisoformat(moment)
    except (TypeError, ValueError):
        raise InvalidTaskError(
            f"{what}: expected an ISO 8601 date such as '2026-11-21T09:00:00+00:00', got {moment!r}"
        ) from None
    return (when if when.tzinfo else when.replace(tzinfo=zone)).timestamp()
