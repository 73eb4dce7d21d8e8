"""Compressed results: payloads that say themselves how they were compressed, in Celery's format."""

from __future__ import annotations

from typing import Any

from kombu import compression as compressors

from celerylite.exceptions import ImproperlyConfigured

__all__ = ("COMPRESSED_PAYLOAD_MAGIC", "check_method", "compress_payload", "decompress_payload")

#: How a compressed payload begins; the method's content type, a NUL byte and the data follow. No serializer
#: begins with a NUL byte, so what was stored uncompressed is never taken for compressed.
COMPRESSED_PAYLOAD_MAGIC = b"\x00celery-compressed\x00"


def check_method(name: str) -> str:
    """`name` itself; raises ImproperlyConfigured when kombu has no such compression."""
    try:
        compressors.get_encoder(name)
    except KeyError as exc:
        known = ", ".join(sorted(compressors.encoders()))
        raise ImproperlyConfigured(
            f"Unknown compression method {name!r} configured in result_compression: expected one of {known}"
        ) from exc
    return name


def compress_payload(payload: Any, compression: str) -> bytes:
    """An encoded result, compressed by the method of that name."""
    body, content_type = compressors.compress(payload, compression)
    return b"".join((COMPRESSED_PAYLOAD_MAGIC, content_type.encode(), b"\x00", body))


def decompress_payload(payload: Any) -> Any:
    """What was compressed; anything that does not begin like a compressed payload as it is."""
    if isinstance(payload, memoryview):
        payload = payload.tobytes()
    if not isinstance(payload, bytes | bytearray) or not payload.startswith(COMPRESSED_PAYLOAD_MAGIC):
        return payload
    content_type, _, body = payload[len(COMPRESSED_PAYLOAD_MAGIC) :].partition(b"\x00")
    return compressors.decompress(body, content_type.decode())
