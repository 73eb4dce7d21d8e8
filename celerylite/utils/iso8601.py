"""The old parser of ISO 8601; use `datetime.fromisoformat`."""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta, timezone

from .deprecated import warn

__all__ = ("parse_iso8601",)

_DATE = r"(?P<year>\d{4})(?:-(?P<month>\d{1,2})(?:-(?P<day>\d{1,2})"
_TIME = r"(?:.(?P<hour>\d\d):(?P<minute>\d\d)(?::(?P<second>\d\d)(?:\.(?P<microsecond>\d+))?)?"
_ZONE = r"(?P<zone>Z|(?P<sign>[+-])(?P<hours>\d\d):(?P<minutes>\d\d))?)?)?)?"
ISO8601_REGEX = re.compile(_DATE + _TIME + _ZONE)


def parse_iso8601(datestring: str) -> datetime:
    """The moment; naive where the text has no offset. Raises ValueError, and TypeError without a day."""
    warn("parse_iso8601", "v5.3", "v6", "datetime.datetime.fromisoformat or dateutil.parser.isoparse")
    match = ISO8601_REGEX.match(datestring)
    if match is None:
        raise ValueError(f"unable to parse date string {datestring!r}")
    # As Celery: a TypeError, as of None, where month or day is missing.
    numbers = [int(match[name]) for name in ("year", "month", "day")]
    numbers += [int(match[name] or 0) for name in ("hour", "minute", "second")]
    # As Celery: the digits after the point are taken as a number of microseconds, however many they are.
    return datetime(*numbers, int(match["microsecond"] or 0), tzinfo=_zone(match))  # type: ignore[arg-type,misc]


def _zone(match: re.Match[str]) -> timezone | None:
    if not match["zone"]:
        return None
    if match["zone"] == "Z":
        return UTC
    offset = timedelta(hours=int(match["hours"]), minutes=int(match["minutes"]))
    return timezone(-offset if match["sign"] == "-" else offset)
