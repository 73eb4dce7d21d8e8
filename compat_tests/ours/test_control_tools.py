"""What tests of users hold: what waits is looked at, and the clock is moved."""

from __future__ import annotations

import pytest

from celerylite.contrib.testing import assert_enqueued, enqueued, manual_clock
from compat_tests.ours.runtime_fixtures import DEADLINE_S, MakeApp


def test_what_was_sent_can_be_asserted(make_app: MakeApp) -> None:
    app = make_app(celerylite_runtime=False)

    @app.task(name="mails")
    def mails(to: str, *, urgent: bool = False) -> None: ...

    result = mails.delay("a@b", urgent=True)
    call = assert_enqueued(app, mails, "a@b", urgent=True)
    assert (call.id, call.queue, call.due_at) == (result.id, "celery", None)
    assert [one.name for one in enqueued(app)] == ["mails"]
    with pytest.raises(AssertionError, match="expected a call mails with"):
        assert_enqueued(app, mails, "c@d")
    with pytest.raises(AssertionError, match=r"expected a call other .*got \[Enqueued"):
        assert_enqueued(app, "other")


def test_a_countdown_passes_when_the_clock_is_moved(make_app: MakeApp) -> None:
    app = make_app()

    @app.task(name="reminds")
    def reminds() -> str:
        return "now"

    with manual_clock() as clock:
        result = reminds.apply_async(countdown=3600)
        assert result.state == "PENDING"
        clock.advance(3601)
        assert result.get(timeout=DEADLINE_S) == "now"
        app.close()
