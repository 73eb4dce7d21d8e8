"""Solar schedules, asked beside Celery's own: the same moments, also beyond the polar circles."""

from __future__ import annotations

import pickle
import sys
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from celerylite import Celery, schedules
from celerylite.exceptions import ImproperlyConfigured
from compat_tests.ours.ticks_fixtures import make_app, make_clock, make_starter, sent

pytest.importorskip("ephem", reason="the extra 'solar' is not installed")
theirs: Any = pytest.importorskip("celery.schedules")

PLACES = [(0.0, 0.0), (52.52, 13.4), (-37.81753, 144.96715), (69.65, 18.96), (-77.85, 166.67)]
EVENTS = sorted(schedules.solar._all_events)


@pytest.fixture
def app() -> Celery:
    return Celery("sun", broker="memory://", backend="cache+memory://")


@pytest.mark.parametrize("event", EVENTS)
@pytest.mark.parametrize("place", PLACES)
def test_an_event_of_the_sun_comes_when_celery_says(
    app: Celery, event: str, place: tuple[float, float]
) -> None:
    for month in (1, 4, 7, 10):
        last = datetime(2026, month, 5, 10, tzinfo=UTC)
        now = last + timedelta(hours=3)
        ours = schedules.solar(event, *place, app=app, nowfun=lambda now=now: now)
        other = theirs.solar(event, *place, app=app, nowfun=lambda now=now: now)
        assert ours.remaining_estimate(last) == other.remaining_estimate(last)
        assert tuple(ours.is_due(last)) == tuple(other.is_due(last))


def test_solar_schedules_print_compare_and_pickle_as_in_celery() -> None:
    ours = schedules.solar("sunrise", 52.52, 13.4)
    assert repr(ours) == repr(theirs.solar("sunrise", 52.52, 13.4))
    assert pickle.loads(pickle.dumps(ours)) == ours
    assert ours != schedules.solar("sunset", 52.52, 13.4)


def test_a_solar_entry_fires_once_a_day_by_two_processes() -> None:
    for clock in make_clock():
        for app in make_app():
            started = make_starter(app)
            tickers = [started(dusk=schedules.solar("sunset", 52.52, 13.4)), started()]
            for _ in range(4 * 24 * 6):
                clock.advance(600)
                for ticker in tickers:
                    ticker.fire_due(clock.time())
            fired = sent(app.store)
            assert len(fired) == 4
            # Berlin's sunsets of early March, each noticed at the next look.
            assert all("16:44" < each < "17:00" for each in fired)


def test_without_ephem_it_is_said_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ephem", None)
    with pytest.raises(ImproperlyConfigured, match="pip install ephem"):
        schedules.solar("sunset", 0, 0)


@pytest.mark.parametrize("wrong", [("sunrises", 0, 0), ("sunset", 91, 0), ("sunset", 0, -181)])
def test_what_is_no_event_or_no_place_is_refused_in_the_words_of_celery(wrong: Any) -> None:
    with pytest.raises(ValueError, match="is invalid") as ours:
        schedules.solar(*wrong)
    with pytest.raises(ValueError, match="is invalid") as other:
        theirs.solar(*wrong)
    assert str(ours.value) == str(other.value)
