"""The result backend as code reaches for it: `app.backend` and its methods."""

from __future__ import annotations

import sqlite3
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest


@pytest.fixture
def backend(app: Any) -> Any:
    return app.backend


def test_a_stored_result_is_read_by_state_result_and_meta(backend: Any) -> None:
    backend.store_result("id", [1, 2], "SUCCESS")
    assert backend.get_state("id") == backend.get_status("id") == "SUCCESS"
    assert backend.get_result("id") == [1, 2]
    meta = backend.get_task_meta("id")
    assert (meta["task_id"], meta["status"], meta["result"]) == ("id", "SUCCESS", [1, 2])


def test_an_unknown_id_reads_as_pending(backend: Any) -> None:
    assert backend.get_state("unknown") == "PENDING"
    assert backend.get_result("unknown") is None


def test_marking_as_done_stores_success(backend: Any) -> None:
    backend.mark_as_done("id", 5)
    assert (backend.get_state("id"), backend.get_result("id")) == ("SUCCESS", 5)


def test_marking_as_started_stores_its_meta(backend: Any) -> None:
    backend.mark_as_started("id", pid=1, hostname="here")
    assert backend.get_state("id") == "STARTED"
    assert backend.get_result("id") == {"pid": 1, "hostname": "here"}


def test_marking_as_failure_stores_exception_and_traceback(backend: Any) -> None:
    backend.mark_as_failure("id", ValueError("marked"), traceback="text")
    assert backend.get_state("id") == "FAILURE"
    assert repr(backend.get_result("id")) == "ValueError('marked')"
    assert backend.get_traceback("id") == "text"


def test_marking_as_retry_stores_the_exception(backend: Any) -> None:
    backend.mark_as_retry("id", ValueError("again"), traceback="text")
    assert backend.get_state("id") == "RETRY"
    assert repr(backend.get_result("id")) == "ValueError('again')"


def test_marking_as_revoked_stores_the_reason(backend: Any) -> None:
    backend.mark_as_revoked("id", "why")
    assert backend.get_state("id") == "REVOKED"
    assert str(backend.get_result("id")) == "why"


def test_a_success_is_never_overwritten(backend: Any) -> None:
    backend.store_result("id", "first", "SUCCESS")
    backend.store_result("id", "second", "STARTED")
    backend.store_result("id", "third", "SUCCESS")
    assert (backend.get_state("id"), backend.get_result("id")) == ("SUCCESS", "first")


def test_other_states_are_overwritten(backend: Any) -> None:
    for state in ("STARTED", "PROGRESS", "RETRY", "FAILURE"):
        value = ValueError("x") if state in ("RETRY", "FAILURE") else {"n": 1}
        backend.store_result("id", value, state)
        assert backend.get_state("id") == state
    backend.store_result("id", "done", "SUCCESS")
    assert backend.get_state("id") == "SUCCESS"


def test_forget_drops_what_was_stored(backend: Any) -> None:
    backend.store_result("id", 1, "SUCCESS")
    backend.forget("id")
    assert backend.get_state("id") == "PENDING"


def test_reloading_reads_what_others_stored(app: Any, backend: Any) -> None:
    result = app.AsyncResult("id")
    assert result.state == "PENDING"
    backend.store_result("id", 1, "SUCCESS")
    assert result.state == "SUCCESS"


def test_a_finished_result_is_read_once_and_kept(app: Any, backend: Any) -> None:
    backend.store_result("id", 1, "SUCCESS")
    result = app.AsyncResult("id")
    assert result.state == "SUCCESS"
    backend.forget("id")
    assert (result.state, result.result) == ("SUCCESS", 1)
    assert app.AsyncResult("id").state == "PENDING"


@pytest.mark.parametrize(
    ("returned", "read"),
    [
        ((1, 2), [1, 2]),
        ({1: "a"}, {"1": "a"}),
        (datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 2, tzinfo=UTC)),
        (Decimal("1.10"), Decimal("1.10")),
        (UUID("12345678-1234-5678-1234-567812345678"), UUID("12345678-1234-5678-1234-567812345678")),
        (b"bytes", b"bytes"),
    ],
    ids=str,
)
def test_values_are_read_as_the_serializer_gives_them_back(backend: Any, returned: Any, read: Any) -> None:
    backend.store_result("id", returned, "SUCCESS")
    assert backend.get_result("id") == read


def test_pickle_keeps_python_types(new_app: Callable[..., Any]) -> None:
    app = new_app(result_serializer="pickle", accept_content=["json", "pickle"])
    app.backend.store_result("id", (1, {2}), "SUCCESS")
    assert app.backend.get_result("id") == (1, {2})


def test_the_content_of_results_may_be_accepted_apart_from_that_of_tasks(new_app: Callable[..., Any]) -> None:
    app = new_app(result_serializer="pickle", accept_content=["json"], result_accept_content=["pickle"])
    app.backend.store_result("id", (1, 2), "SUCCESS")
    assert app.backend.get_result("id") == (1, 2)


def test_groups_are_saved_restored_and_deleted(app: Any, backend: Any) -> None:
    group = app.GroupResult("group-id", [app.AsyncResult("a"), app.AsyncResult("b")])
    backend.save_group("group-id", group)
    assert backend.restore_group("group-id") == group
    backend.delete_group("group-id")
    assert backend.restore_group("group-id") is None


def test_a_meta_can_be_encoded_and_decoded(backend: Any) -> None:
    assert backend.decode(backend.encode({"a": [1]})) == {"a": [1]}


def test_an_exception_is_prepared_and_rebuilt(backend: Any) -> None:
    prepared = backend.prepare_exception(KeyError("k", 1))
    assert prepared["exc_type"] == "KeyError"
    rebuilt = backend.exception_to_python(prepared)
    assert (type(rebuilt), rebuilt.args) == (KeyError, ("k", 1))


def test_only_exceptions_are_rebuilt_from_names(backend: Any) -> None:
    evil = {"exc_type": "system", "exc_module": "os", "exc_message": ["true"]}
    with pytest.raises(Exception, match=r"Expected an exception class, got os\.system"):
        backend.exception_to_python(evil)


def test_the_disabled_backend_says_how_to_enable_one(lib: Any) -> None:
    with lib.Celery("none", backend="disabled://", broker="memory://", set_as_current=False) as app:
        with pytest.raises(NotImplementedError, match="No result backend is configured"):
            app.AsyncResult("id").get(timeout=1)
        assert app.backend.store_result("id", 1, "SUCCESS") is None


@pytest.mark.parametrize("name", ["Backend", "BaseBackend", "KeyValueStoreBackend", "DisabledBackend"])
def test_backends_of_ones_own_can_be_derived(submodule: Callable[[str], Any], name: str) -> None:
    base: Any = getattr(submodule("backends.base"), name)

    class Own(base):  # type: ignore[misc]
        pass

    assert issubclass(Own, base)


def test_a_backend_class_can_be_named_by_its_path(lib: Any, submodule: Callable[[str], Any]) -> None:
    path = f"{lib.__name__}.backends.base:DisabledBackend"
    with lib.Celery("path", backend=path, broker="memory://", set_as_current=False) as app:
        assert isinstance(app.backend, submodule("backends.base").DisabledBackend)


def test_an_unknown_backend_is_an_error_that_names_it(lib: Any, submodule: Callable[[str], Any]) -> None:
    app = lib.Celery("unknown", backend="nonesuch://", set_as_current=False)
    with pytest.raises((submodule("exceptions").ImproperlyConfigured, ImportError), match="nonesuch"):
        _ = app.backend


# -- backends of one's own ---------------------------------------------------------------------------


@pytest.fixture
def make_backend(app: Any, submodule: Callable[[str], Any]) -> Callable[..., Any]:
    """Make a key/value backend that keeps its payloads in `db`."""
    base: Any = submodule("backends.base").KeyValueStoreBackend

    class InDictionary(base):  # type: ignore[misc]
        def __init__(self, *args: Any, **kwargs: Any) -> None:
            self.db: dict[Any, Any] = {}
            super().__init__(*args, **kwargs)

        def get(self, key: Any) -> Any:
            return self.db.get(key)

        def mget(self, keys: Any) -> Any:
            return [self.db.get(key) for key in keys]

        def set(self, key: Any, value: Any) -> None:
            self.db[key] = value

    class Compressing(InDictionary):
        supports_result_compression = True

    def make(*, compresses: bool = False, **settings: Any) -> Any:
        app.conf.update(settings)
        return (Compressing if compresses else InDictionary)(app)

    return make


@pytest.mark.parametrize("method", ["gzip", "zlib", "bzip2"])
def test_a_backend_that_stores_bytes_compresses_results(make_backend: Any, method: str) -> None:
    backend = make_backend(compresses=True, result_compression=method)
    backend.store_result("id", ["the same"] * 100, "SUCCESS")
    stored = backend.db[backend.get_key_for_task("id")]
    assert stored.startswith(b"\x00celery-compressed\x00")
    assert len(stored) < 300
    assert backend.get_result("id") == ["the same"] * 100


def test_results_are_read_whatever_is_set_now(make_backend: Any) -> None:
    plain, packed = make_backend(compresses=True), make_backend(compresses=True, result_compression="gzip")
    plain.store_result("plain", 1, "SUCCESS")
    packed.store_result("packed", 2, "SUCCESS")
    plain.db.update(packed.db)
    packed.db.update(plain.db)
    for backend in (plain, packed):
        assert (backend.get_result("plain"), backend.get_result("packed")) == (1, 2)


def test_a_backend_that_does_not_store_bytes_warns_and_stores_plain_results(make_backend: Any) -> None:
    with pytest.warns(UserWarning, match="cannot store compressed payloads"):
        backend = make_backend(result_compression="gzip")
    assert backend.compression is None
    assert backend.encode([1]) == "[1]"


def test_an_unknown_compression_is_refused(make_backend: Any, submodule: Callable[[str], Any]) -> None:
    with pytest.raises(
        submodule("exceptions").ImproperlyConfigured, match="Unknown compression method 'zip'"
    ):
        make_backend(compresses=True, result_compression="zip")


def test_a_backend_that_cannot_expire_failures_on_their_own_warns(make_backend: Any) -> None:
    with pytest.warns(UserWarning, match="does not support result_failure_expires"):
        make_backend(result_failure_expires=60)


def test_waiting_for_many_results_ends_when_the_time_is_up(
    make_backend: Any, submodule: Callable[[str], Any]
) -> None:
    backend = make_backend()
    began = time.monotonic()
    with pytest.raises(submodule("exceptions").TimeoutError):
        list(backend.get_many(["a", "b"], timeout=0.05, interval=5))
    assert time.monotonic() - began < 2.5


def test_many_results_are_given_in_the_states_that_are_asked_for(make_backend: Any) -> None:
    backend = make_backend()
    backend.store_result("good", 1, "SUCCESS")
    backend.store_result("bad", ValueError("x"), "FAILURE")
    found = backend.get_many(["good", "bad"], max_iterations=1, READY_STATES={"SUCCESS"})
    assert [task_id for task_id, _ in found] == ["good"]


#: How long a result is tried to be stored in one attempt: Celery's by the driver's time, ours by our own.
_BRIEFLY: dict[str, Any] = {
    "database_engine_options": {"connect_args": {"timeout": 0.05}},
    "broker_connection_timeout": 0.1,
    "result_backend_base_sleep_between_retries_ms": 1,
    "result_backend_max_sleep_between_retries_ms": 5,
}


@pytest.fixture
def file_app(new_app: Callable[..., Any], tmp_path: Path) -> Any:
    """An app with results in a file, whose tables are there, that tries again twice."""
    app = new_app(
        result_backend=f"db+sqlite:///{tmp_path / 'results.db'}",
        result_backend_always_retry=True,
        result_backend_max_retries=2,
        **_BRIEFLY,
    )
    app.backend.store_result("before", 1, "SUCCESS")
    return app


@pytest.fixture
def lock(file_app: Any, tmp_path: Path) -> Iterator[sqlite3.Connection]:
    """A connection of somebody else that keeps the file locked until its transaction ends."""
    connection = sqlite3.connect(tmp_path / "results.db", isolation_level=None, check_same_thread=False)
    connection.execute("BEGIN IMMEDIATE")
    yield connection
    connection.close()


def _retries(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [line for line in caplog.messages if "more times" in line]


def test_a_result_that_cannot_be_stored_is_tried_again_as_often_as_is_set(
    lib: Any, file_app: Any, lock: sqlite3.Connection, caplog: pytest.LogCaptureFixture, submodule: Any
) -> None:
    with pytest.raises(submodule("exceptions").BackendStoreError) as raised:
        file_app.backend.store_result("locked out", 2, "SUCCESS")
    assert (raised.value.task_id, raised.value.state) == ("locked out", "SUCCESS")
    assert len(_retries(caplog)) == 2
    lock.execute("ROLLBACK")
    assert file_app.AsyncResult("locked out").state == "PENDING"


def test_a_result_is_stored_when_the_trouble_has_passed_meanwhile(
    file_app: Any, lock: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    file_app.backend.on_backend_retryable_error = lambda exc: lock.execute("ROLLBACK")
    file_app.backend.store_result("late", {"foo": "bar"}, "SUCCESS")
    assert len(_retries(caplog)) == 1
    assert file_app.AsyncResult("late").get(timeout=10) == {"foo": "bar"}


def test_without_the_setting_a_result_that_cannot_be_stored_is_not_tried_again(
    file_app: Any, lock: sqlite3.Connection, caplog: pytest.LogCaptureFixture
) -> None:
    file_app.backend.always_retry = False
    with pytest.raises(Exception, match="locked"):
        file_app.backend.store_result("locked out", 2, "SUCCESS")
    assert _retries(caplog) == []
