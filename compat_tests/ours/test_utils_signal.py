"""Signals: who is held, who is called, and what a failing receiver does."""

from __future__ import annotations

import gc
import logging
import weakref
from typing import Any

import pytest

from celerylite import signals
from celerylite.local import PromiseProxy
from celerylite.utils.dispatch import Signal


def _signals() -> dict[str, Signal]:
    return {name: value for name, value in vars(signals).items() if isinstance(value, Signal)}


def test_there_are_the_34_signals_of_celery_with_their_arguments() -> None:
    from celery import signals as theirs

    expected = {
        name: signal.providing_args
        for name, signal in vars(theirs).items()
        if type(signal).__name__ == "Signal" and name != "Signal"
    }
    assert {name: signal.providing_args for name, signal in _signals().items()} == expected
    assert len(expected) == 34


def test_a_receiver_that_nobody_else_holds_is_forgotten() -> None:
    signal = Signal(name="s")

    class Listener:
        def hear(self, **kwargs: Any) -> str:
            return "heard"

    listener = Listener()
    gone = weakref.ref(listener)
    signal.connect(listener.hear)
    assert [response for _, response in signal.send(None)] == ["heard"]
    del listener
    gc.collect()
    assert gone() is None
    assert signal.send(None) == []
    assert not signal.has_listeners()
    assert signal.receivers == []


def test_a_receiver_connected_strongly_stays() -> None:
    signal = Signal(name="s")
    signal.connect(lambda **kwargs: kwargs["x"], weak=False)
    gc.collect()
    assert [response for _, response in signal.send(None, x=3)] == [3]


def test_only_the_sender_asked_for_is_heard() -> None:
    signal, mine, other = Signal(), object(), object()
    heard: list[Any] = []

    @signal.connect(sender=mine)
    def of_mine(sender: Any, **kwargs: Any) -> None:
        heard.append("mine")

    @signal.connect(sender="proj.add")
    def of_name(sender: Any, **kwargs: Any) -> None:
        heard.append("name")

    signal.send(other)
    assert heard == []
    signal.send(mine)
    signal.send("".join(["proj", ".add"]))
    assert heard == ["mine", "name"]
    assert signal.has_listeners(mine)
    assert not signal.has_listeners(other)


def test_a_task_that_is_not_made_yet_can_be_the_sender() -> None:
    signal, task = Signal(), object()
    heard: list[Any] = []
    promise = PromiseProxy(lambda: task)

    @signal.connect(sender=promise)
    def receiver(sender: Any, **kwargs: Any) -> None:
        heard.append(sender)

    assert signal.receivers == []
    signal.send(promise._get_current_object())
    assert heard == [task]


def test_what_a_receiver_raises_is_logged_and_stops_nobody(caplog: pytest.LogCaptureFixture) -> None:
    signal = Signal()

    def broken(**kwargs: Any) -> None:
        raise KeyError("foo")

    def sound(**kwargs: Any) -> int:
        return 1

    signal.connect(broken)
    signal.connect(sound)
    with caplog.at_level(logging.ERROR):
        (_, failure), (_, response) = signal.send(None)
    assert isinstance(failure, KeyError)
    assert response == 1
    assert "raised: KeyError('foo')" in caplog.text


def test_one_dispatch_uid_is_connected_once_and_disconnected_by_it() -> None:
    signal = Signal()
    signal.connect(lambda **kwargs: 1, weak=False, dispatch_uid="once")
    signal.connect(lambda **kwargs: 2, weak=False, dispatch_uid="once")
    assert [response for _, response in signal.send(None)] == [1]
    assert signal.disconnect(dispatch_uid="once")
    assert not signal.disconnect(dispatch_uid="once")
    assert signal.send(None) == []


def test_a_receiver_that_may_retry_is_disconnected_by_its_own_function() -> None:
    signal = Signal()
    calls: list[int] = []

    def receiver(**kwargs: Any) -> None:
        calls.append(1)

    signal.connect(receiver, retry=True)
    signal.send(None)
    assert calls == [1]
    assert signal.disconnect(receiver)


def test_a_receiver_must_take_keyword_arguments() -> None:
    with pytest.raises(ValueError, match="must accept keyword arguments"):
        Signal().connect(lambda sender: None)
