"""ExceptionInfo: the traceback as text, and as something that can be sent on."""

from __future__ import annotations

import pickle
import traceback

from celerylite._einfo import DEFAULT_MAX_FRAMES, ExceptionInfo, Traceback


def _fail(depth: int = 0) -> None:
    secret = "do not tell"  # noqa: F841 - must not be found in the pickle
    if depth:
        _fail(depth - 1)
    raise KeyError("foo")


def _einfo(depth: int = 0) -> ExceptionInfo:
    try:
        _fail(depth)
    except KeyError:
        return ExceptionInfo()
    raise AssertionError("expected _fail to fail")


def test_it_shows_class_exception_and_text() -> None:
    einfo = _einfo()
    assert einfo.type is KeyError
    assert einfo.exception.exc.args == ("foo",)
    assert str(einfo) == einfo.traceback
    assert einfo.traceback.startswith("Traceback (most recent call last):")
    assert einfo.traceback.endswith("KeyError: 'foo'\n")
    assert einfo.exc_info == (einfo.type, einfo.exception, einfo.tb)
    assert not einfo.internal


def test_it_survives_pickling_and_its_exception_becomes_the_original() -> None:
    einfo = _einfo()
    copy = pickle.loads(pickle.dumps(einfo))
    assert copy.traceback == einfo.traceback
    assert isinstance(copy.exception, KeyError)
    assert copy.exception.args == ("foo",)
    assert einfo.traceback in str(copy.exception.__cause__)


def test_no_local_variable_goes_with_it() -> None:
    assert b"do not tell" not in pickle.dumps(_einfo())


def test_the_copied_traceback_can_be_printed() -> None:
    copy = pickle.loads(pickle.dumps(_einfo()))
    lines = "".join(traceback.format_tb(copy.tb))
    assert f"Traceback (most recent call last):\n{lines}" in copy.traceback
    assert "in _fail" in lines


def test_a_traceback_that_is_too_deep_is_cut() -> None:
    tb = _einfo(DEFAULT_MAX_FRAMES + 10).tb
    names = [frame.f_code.co_name for frame, _ in traceback.walk_tb(tb)]
    assert len(names) == DEFAULT_MAX_FRAMES + 3
    assert names[-1] == "[rest of traceback truncated]"


def test_an_exception_without_traceback_is_fine() -> None:
    exc = ValueError("bar")
    einfo = ExceptionInfo((type(exc), exc, None))
    assert einfo.tb is None
    assert einfo.traceback == "ValueError: bar\n"
    assert Traceback.__name__ == "Traceback"
