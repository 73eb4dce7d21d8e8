"""An entry as text: how the database keeps what was added to the schedule or changed at run time."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import tzinfo
from typing import TYPE_CHECKING, Any

from kombu.utils import json as kombu_json

from celerylite._entries import Entry, read_entry
from celerylite.schedules import crontab, maybe_schedule, schedule, solar

if TYPE_CHECKING:
    from celerylite.app.base import Celery

__all__ = ("is_of_configuration", "read_spec", "write_spec")

_FIELDS = ("minute", "hour", "day_of_week", "day_of_month", "month_of_year")


def write_spec(entry: Entry, configured: bool = False) -> str:
    """The entry as JSON; `configured`: the configuration has it too, until it is removed there.

    Raises TypeError for schedules and arguments that cannot be written down.
    """
    spec: dict[str, Any] = {
        "name": entry.name,
        "task": entry.task,
        "schedule": _write_schedule(entry),
        "args": list(entry.args),
        "kwargs": dict(entry.kwargs),
        "options": dict(entry.options),
        "catch_up": entry.catch_up,
        "overlap": entry.overlap,
    }
    if configured:
        spec["configured"] = True
    try:
        return str(kombu_json.dumps(spec))
    except TypeError as exc:
        raise TypeError(
            f"schedule entry {entry.name!r}: expected arguments and options that JSON can hold, got {exc}; "
            "an entry with others can be in beat_schedule"
        ) from exc


def read_spec(app: Celery, name: str, text: str) -> Entry:
    """The entry that `write_spec` wrote. Raises ValueError or TypeError when it is not usable."""
    values: dict[str, Any] = kombu_json.loads(text)
    name = values.pop("name", name)
    values.pop("configured", None)
    return read_entry(app, name, {**values, "schedule": _read_schedule(values["schedule"])})


def is_of_configuration(text: str) -> bool:
    """Whether that is an entry of the configuration that was changed. Does not raise."""
    try:
        return bool(json.loads(text).get("configured"))
    except (ValueError, AttributeError):
        return False


def _write_schedule(entry: Entry) -> dict[str, Any]:
    when = entry.schedule
    made: dict[str, Any] = {}
    # Of the very classes: a subclass may decide by more than these fields.
    if type(when) is schedule and when.nowfun is None:
        made = {"every": when.run_every.total_seconds(), "relative": when.relative}
    elif type(when) is solar:
        made = {"solar": [when.event, when.lat, when.lon]}
    elif isinstance(when, crontab) and hasattr(when, "_line"):
        made = {"cron": when._line}
    elif type(when) is crontab and when.nowfun is None:
        made = {"crontab": {field: _plain(getattr(when, f"_orig_{field}")) for field in _FIELDS}}
    if not made:
        raise TypeError(
            f"schedule entry {entry.name!r}: expected seconds, a timedelta, crontab(...), solar(...) or a "
            f"line of cron, got {when!r}; an entry with another schedule can be in beat_schedule"
        )
    if when._zone is not None:
        made["timezone"] = _zone_name(entry, when._zone)
    return made


def _plain(field: Any) -> Any:
    return field if isinstance(field, (int, str)) else sorted(field)


def _zone_name(entry: Entry, zone: tzinfo) -> str:
    name = getattr(zone, "key", None) or zone.tzname(None)
    if not name:
        raise TypeError(
            f"schedule entry {entry.name!r}: expected a zone with a name, as 'Europe/Berlin' is, got {zone!r}"
        )
    return str(name)


def _read_schedule(spec: Mapping[str, Any]) -> Any:
    zone = spec.get("timezone")
    if "every" in spec:
        return schedule(spec["every"], spec.get("relative", False), tz=zone)
    if "crontab" in spec:
        return crontab(**spec["crontab"], tz=zone)
    if "solar" in spec:
        return solar(*spec["solar"], tz=zone)
    if "cron" in spec:
        return maybe_schedule(spec["cron"], tz=zone)
    raise ValueError(f"expected a schedule of the kind every, crontab, cron or solar, got {json.dumps(spec)}")
