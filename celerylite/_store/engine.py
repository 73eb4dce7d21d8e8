"""The database under the store: connections, transactions, and statements compiled once."""

from __future__ import annotations

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import nullcontext, suppress
from operator import itemgetter
from typing import Any, TypeVar

import sqlalchemy as sa
from kombu.exceptions import OperationalError
from sqlalchemy.pool import NullPool

from celerylite import _clock
from celerylite._store import address, lostfile, schema
from celerylite._store.changes import Changes, payloads
from celerylite._store.lostfile import FileGone
from celerylite._store.unanswered import Attempts, CommitUnknown, OneStatement, Proof
from celerylite.exceptions import ImproperlyConfigured

__all__ = ("Changes", "Database", "Statement", "Transaction", "chunks")

T = TypeVar("T")
#: A database answers in real time, whatever clock a test has put in place.
_real = _clock.Clock()
logger = logging.getLogger("celery.store")

#: Where SQLAlchemy leaves room for the values of `IN`.
_IN = re.compile(r"__\[POSTCOMPILE_(\w+?)(?:~~.*?)?\]")

_DURABILITIES = ("memory", "normal", "full")

#: Idle connections kept for the next reader.
_KEEP = 8

#: Connections of a parent process. Closing them here would speak on the parent's sockets and remove
#: its SQLite write-ahead log, so they are kept from being collected.
_abandoned: list[Any] = []


class Statement:
    """One SQL statement, compiled by SQLAlchemy at its first use and then run on the raw cursor.

    Compiling costs some 200 us and SQLAlchemy's execution some 50 us, a bare INSERT of SQLite 10 us.
    """

    __slots__ = ("_build", "_fixed", "_lists", "_named", "_names", "_plain", "_processors", "_results", "sql")

    def __init__(self, build: Callable[[], Any]) -> None:
        self._build = build
        self.sql: str | None = None

    def compiled_for(self, dialect: sa.Dialect) -> Statement:
        """The same for a connection that is not ours, and may have another driver."""
        statement = Statement(self._build)
        statement.compile(dialect)
        return statement

    def compile(self, dialect: sa.Dialect) -> None:
        construct = self._build()
        compiled = construct.compile(dialect=dialect)
        self._named = not compiled.positional
        #: Values that are part of the statement.
        self._fixed = {name: value for name, value in compiled.params.items() if value is not None}
        self._names = tuple(compiled.positiontup or ())
        self._processors = [
            (name, processor)
            for name, bind in compiled.binds.items()
            if isinstance(bind.type, sa.DateTime)
            and (processor := bind.type.dialect_impl(dialect).bind_processor(dialect)) is not None
        ]
        columns = construct.selected_columns if isinstance(construct, sa.Select) else ()
        self._results = [
            (index, processor)
            for index, column in enumerate(columns)
            if isinstance(column.type, sa.DateTime)
            and (processor := column.type.dialect_impl(dialect).result_processor(dialect, None)) is not None
        ]
        self._lists = _IN.search(compiled.string) is not None
        #: Gets the parameters out of a mapping in one call, where they go to the driver as they are.
        self._plain: Callable[[Mapping[str, Any]], Any] | None = None
        if not (self._named or self._fixed or self._processors) and len(self._names) > 1:
            self._plain = itemgetter(*self._names)
        self.sql = compiled.string

    def bind(self, parameters: Mapping[str, Any]) -> Any:
        """The parameters as the driver wants them."""
        if self._plain is not None:
            return self._plain(parameters)
        if self._fixed:
            parameters = {**self._fixed, **parameters}
        if self._processors:
            parameters = dict(parameters)
            for name, processor in self._processors:
                parameters[name] = processor(parameters[name])
        if self._named:
            return parameters
        return [parameters[name] for name in self._names]

    def expand(self, parameters: Mapping[str, Any]) -> tuple[str, Any]:
        """SQL and parameters of a statement with `IN`, whose lists are one bind per value."""
        if not self._lists:
            return self.sql or "", self.bind(parameters)
        if self._fixed:
            parameters = {**self._fixed, **parameters}
        lists = {name: value for name, value in parameters.items() if isinstance(value, list)}
        if not lists:
            return self.sql or "", self.bind(parameters)
        if self._named:
            named = {f"{name}_{i}": each for name, values in lists.items() for i, each in enumerate(values)}
            sql = _IN.sub(
                lambda m: ", ".join(f"%({m[1]}_{i})s" for i in range(len(lists[m[1]]))), self.sql or ""
            )
            return sql, {**self.bind(parameters), **named}
        mark = "?" if "?" in (self.sql or "") or "%s" not in (self.sql or "") else "%s"
        sql = _IN.sub(lambda m: ", ".join([mark] * len(lists[m[1]])), self.sql or "")
        flat: list[Any] = []
        for name in self._names:
            flat.extend(lists[name]) if name in lists else flat.append(parameters[name])
        return sql, flat

    def convert(self, rows: list[Any]) -> list[Any]:
        """Rows with the values of SQLAlchemy's types."""
        if not self._results:
            return rows
        converted = [list(row) for row in rows]
        for row in converted:
            for index, processor in self._results:
                row[index] = processor(row[index])
        return converted


class Transaction:
    """Statements on one connection. Used by one thread at a time."""

    def __init__(self, database: Database, connection: Any) -> None:
        self.database = database
        self.connection = connection
        self.cursor = connection.cursor()
        self.changes = Changes()
        #: Set by who writes something that can be looked up by key; see `unanswered`.
        self.proof: Proof | None = None
        self._deferred: list[tuple[str, Callable[[], None]]] = []

    def defer(self, key: str, work: Callable[[], None]) -> None:
        """Run `work` at the end of the transaction, in the order of the keys.

        For rows that several processes write: everybody locks them in the same order, so that nobody
        deadlocks (which costs PostgreSQL a second each time), and only for a short while.
        """
        self._deferred.append((key, work))

    def close(self) -> None:
        """No more statements."""
        with suppress(Exception):
            self.cursor.close()

    def finish(self) -> None:
        """Run what was deferred."""
        for _, work in sorted(self._deferred, key=lambda pair: pair[0]):
            work()

    def run(self, statement: Statement, **parameters: Any) -> int:
        """Execute; the number of rows it touched."""
        return self.run_with(statement, parameters)

    def run_with(self, statement: Statement, parameters: Mapping[str, Any]) -> int:
        """As `run`, of parameters that are in a mapping already."""
        if statement.sql is None:
            statement.compile(self.database.engine.dialect)
        self.execute_text(*statement.expand(parameters))
        return int(self.cursor.rowcount)

    def run_many(self, statement: Statement, parameters: Sequence[Mapping[str, Any]]) -> int:
        """Execute for each of the parameters, in as few round trips as the driver can; the rows touched."""
        if len(parameters) == 1:
            return self.run_with(statement, parameters[0])
        if statement.sql is None:
            statement.compile(self.database.engine.dialect)
        sql, bound = statement.sql or "", [statement.bind(each) for each in parameters]
        if self.database.on_statement is not None:
            self.database.on_statement(sql)
        try:
            self.cursor.executemany(sql, bound)
        except Exception as error:
            self._raise_if_too_large(error, sql, bound)
            raise
        return int(self.cursor.rowcount)

    def insert(self, statement: Statement, parameters: Mapping[str, Any]) -> int:
        """Insert one row; its id."""
        if statement.sql is None:
            statement.compile(self.database.engine.dialect)
        self.execute_text(statement.sql or "", statement.bind(parameters))
        return self.database.dialect.last_id(self.cursor)

    def rows(self, statement: Statement, **parameters: Any) -> list[Any]:
        self.run(statement, **parameters)
        return statement.convert(list(self.cursor.fetchall()))

    def one(self, statement: Statement, **parameters: Any) -> Any | None:
        rows = self.rows(statement, **parameters)
        return rows[0] if rows else None

    def scalar(self, statement: Statement, **parameters: Any) -> Any:
        row = self.one(statement, **parameters)
        return None if row is None else row[0]

    def execute_text(self, sql: str, parameters: Any = ()) -> None:
        # The seam for tests: what it raises happens between two statements.
        if self.database.on_statement is not None:
            self.database.on_statement(sql)
        try:
            self.cursor.execute(sql, parameters)
        except Exception as error:
            self._raise_if_too_large(error, sql, [parameters])
            raise

    def _raise_if_too_large(self, error: Exception, sql: str, rows: Sequence[Any]) -> None:
        for parameters in rows:
            refused = self.database.dialect.too_large(self.cursor, error, sql, parameters)
            if refused is not None:
                raise refused from error


class Database:
    """Connections to one database, and transactions on them. Thread-safe, fork-safe."""

    def __init__(
        self,
        url: str,
        *,
        durability: str = "normal",
        patience_s: float = 4.0,
        engine_options: Mapping[str, Any] | None = None,
        engine_callback: Callable[[Any], Any] | None = None,
    ) -> None:
        if durability not in _DURABILITIES:
            expected = " or ".join(map(repr, _DURABILITIES))
            raise ImproperlyConfigured(f"durability: expected {expected}, got {durability!r}")
        parsed = address.parse(url)
        self.dialect = address.load_dialect(parsed.get_backend_name())
        self.url = self.dialect.url(parsed)
        self.durability = durability
        self.patience_s = patience_s
        #: Everything goes through one connection: the database vanishes with it.
        self.memory = self.dialect.in_memory(self.url)
        #: Called with the SQL before each statement; tests raise in it.
        self.on_statement: Callable[[str], None] | None = None
        options = address.usable(engine_options or {})
        for name, value in self.dialect.engine_options(self.url).items():
            options[name] = {**value, **options.get(name, {})} if isinstance(value, dict) else value
        options.setdefault("poolclass", NullPool)
        # AUTOCOMMIT: we say BEGIN ourselves, in the words each database needs.
        self.engine = sa.create_engine(self.url, isolation_level="AUTOCOMMIT", **options)
        if engine_callback is not None:
            engine_callback(self.engine)
        self._file = self.dialect.file(self.url)
        #: The file that the connections have open; None until the tables were made.
        self._opened: tuple[int, int] | None = None
        self._tables: schema.Tables | None = None
        self._operational: type[Exception] = self.engine.dialect.loaded_dbapi.OperationalError
        #: What the database did not answer the last time: "read", "write", or None if all is well.
        self._away: str | None = None
        self._away_mutex = threading.Lock()
        self._idle: list[Any] = []
        self._writer: Any = None
        self._data_version: int | None = None
        #: Closed while the process forks; see `before_fork`.
        self._gate = threading.Condition(threading.Lock())
        self._reading = 0
        #: Tells our own notifications from those of others.
        self.uid = os.urandom(6).hex()
        #: Guards `_writer` where there is only one; see `Writer`.
        self.shared = threading.RLock()
        self.closed = False

    # -- transactions -------------------------------------------------------------------------------

    def write(self, work: Callable[[Transaction], T], one: OneStatement[T] | None = None) -> T:
        """Run `work` in one transaction, again and again while locks or a lost connection prevent it.

        `one` is given when `work` is a single statement that commits itself, without BEGIN and COMMIT. Raises
        kombu's OperationalError after `patience_s` seconds; then nothing was written, unless the connection
        was lost during the commit and could not be made again. Other errors pass at once, nothing written.
        """
        try:
            result = self.write_once(work, one)
        except Exception as error:
            unknown = error if isinstance(error, CommitUnknown) else None
            return self._persist(Attempts(self, work, one, unknown).once, True, _driver_error(error))
        if self._away is not None:
            self._note_answer(True)
        return result

    def read(self, work: Callable[[Transaction], T]) -> T:
        """Run `work` on a connection that commits each statement by itself. Retries as `write` does."""
        if self.memory:
            return self._persist(lambda: self._read_shared(work))
        return self._persist(lambda: self.read_once(work))

    def write_once(self, work: Callable[[Transaction], T], one: OneStatement[T] | None = None) -> T:
        try:
            return self._write_once(work, one)
        except FileGone:
            self._find_file()
            return self._write_once(work, one)

    def _write_once(self, work: Callable[[Transaction], T], one: OneStatement[T] | None) -> T:
        with self.shared if self.memory else nullcontext():
            connection = self._take_writer()
            try:
                result = self._commit(connection, work, one)
            except BaseException as error:
                self._undo(connection, error)
                raise
            self._put_writer(connection)
            return result

    def _commit(self, connection: Any, work: Callable[[Transaction], T], one: OneStatement[T] | None) -> T:
        tx = Transaction(self, connection)
        try:
            return self._commit_in(tx, work) if one is None else self._run_alone(tx, work, one)
        finally:
            # Also after an error, which keeps `tx` alive as long as somebody has it: an SQLite connection is
            # not really closed while a cursor has a statement, and with it the way the file was opened.
            tx.close()

    def _commit_in(self, tx: Transaction, work: Callable[[Transaction], T]) -> T:
        tx.cursor.execute(self.dialect.begin)
        # Under the lock: who is about to put the file back holds it too.
        self._check_file()
        result = work(tx)
        tx.finish()
        if tx.changes and self.dialect.notifies:
            self.dialect.notify(tx, payloads(tx.changes, self.uid))
        try:
            tx.execute_text("COMMIT")
        except Exception as error:
            if tx.proof is not None and self.dialect.is_disconnect(error):
                raise CommitUnknown(tx.proof.of(result)) from error
            raise
        return result

    def _run_alone(self, tx: Transaction, work: Callable[[Transaction], T], one: OneStatement[T]) -> T:
        try:
            return work(tx)
        except Exception as error:
            if self.dialect.is_disconnect(error):
                raise CommitUnknown(one.found) from error
            raise

    def read_once(self, work: Callable[[Transaction], T]) -> T:
        with self._gate:
            self._reading += 1
        try:
            return self._read(work)
        finally:
            with self._gate:
                self._reading -= 1
                self._gate.notify_all()

    def _read(self, work: Callable[[Transaction], T]) -> T:
        connection = self.take()
        try:
            tx = Transaction(self, connection)
            try:
                result = work(tx)
            finally:
                tx.close()
        except BaseException as error:
            self.discard(connection)
            self._drop_if_lost(error)
            raise
        self.put(connection)
        return result

    def _read_shared(self, work: Callable[[Transaction], T]) -> T:
        with self.shared:
            tx = Transaction(self, self.take())
            try:
                return work(tx)
            finally:
                tx.cursor.close()

    def _persist(
        self, attempt: Callable[[], T], writes: bool = False, error: BaseException | None = None
    ) -> T:
        """Attempt until it succeeds or the time is up. `error` is what an attempt before this raised."""
        deadline = _real.monotonic() + self.patience_s
        pause = threading.Event()
        pause_s = 0.005
        while True:
            if error is None:
                try:
                    result = attempt()
                except Exception as raised:
                    error = raised
                else:
                    if self._away is not None:
                        self._note_answer(writes)
                    return result
            self._raise_if_final(error, writes, is_late=_real.monotonic() + pause_s >= deadline)
            error = None
            pause.wait(pause_s)
            pause_s = min(pause_s * 2, 0.5)

    def _raise_if_final(self, error: BaseException, writes: bool, is_late: bool) -> None:
        if not self._worth_another(error):
            if isinstance(_driver_error(error), self._operational):
                raise self.unreachable(error, writes) from error
            raise error
        if is_late:
            raise self.unreachable(error, writes) from error

    def _worth_another(self, error: BaseException) -> bool:
        cause = _driver_error(error)
        gone = isinstance(error, FileGone)  # Who writes, or looks for changes, puts it back.
        return gone or self.dialect.is_transient(cause) or self.dialect.is_disconnect(cause)

    def unreachable(self, error: BaseException, writes: bool) -> OperationalError:
        """kombu's error for what publishing raises, as in Celery."""
        self._note_away(error, writes)
        where = self.engine.url.render_as_string(hide_password=True)
        return OperationalError(
            f"database {where}: expected it to answer within {self.patience_s:g} s, got {error}; "
            "check that it runs and is not locked, then try again"
        )

    def is_outage(self, error: BaseException) -> bool:
        """Whether the error says that the database is away (or locked), and nothing worse."""
        return isinstance(error, OperationalError) or self._worth_another(error)

    def _note_away(self, error: BaseException, writes: bool) -> None:
        # Here and nowhere else: many threads meet the same outage, the log shall tell of it once.
        with self._away_mutex:
            before, self._away = self._away, "write" if writes or self._away == "write" else "read"
        if before is None:
            logger.warning("the database does not answer, waiting for it: %s", error)

    def _note_answer(self, writes: bool) -> None:
        # A full disk can still be read: that does not end it.
        with self._away_mutex:
            over = self._away == "read" or (self._away == "write" and writes)
            self._away = None if over else self._away
        if over:
            logger.warning("the database answers again")

    # -- connections --------------------------------------------------------------------------------

    def take(self) -> Any:
        """A connection for the caller alone (in memory: the one there is, guarded by `shared`)."""
        if self.memory:
            return self._take_writer()
        try:
            return self._idle.pop()
        except IndexError:
            return self._connect()

    def put(self, connection: Any) -> None:
        """Hand back a connection that is in no transaction."""
        if self.memory:
            return
        if self.closed or len(self._idle) >= _KEEP or connection.file != self._opened:
            self.discard(connection)
        else:
            self._idle.append(connection)

    def discard(self, connection: Any) -> None:
        if self.memory:
            return  # the database would go with it
        if connection is self._writer:
            self._writer = None
        with suppress(Exception):
            connection.close()

    def _take_writer(self) -> Any:
        # SQLite keeps one for writing: what it sees change was changed by others (`changed_elsewhere`).
        if not self.dialect.single_writer:
            return self.take()
        if self._writer is None:
            self._writer = self._connect()
        return self._writer

    def _put_writer(self, connection: Any) -> None:
        if connection is not self._writer:
            self.put(connection)

    def changed_elsewhere(self) -> bool:
        """SQLite: whether another connection has committed since the last call. Only for who leads."""
        try:
            self._check_file()
        except FileGone:
            self._find_file()
        cursor = self._take_writer().cursor()
        version = cursor.execute("PRAGMA data_version").fetchone()[0]
        cursor.close()
        changed = bool(version != self._data_version)
        self._data_version = version
        return changed

    def forget_changes(self) -> None:
        """Have `changed_elsewhere` say yes the next time: nobody has looked for a while."""
        self._data_version = None

    def _connect(self) -> Any:
        if self.closed:
            raise OperationalError("the store is closed: expected no more calls; open a new one")
        self._check_file()  # Opening it would make an empty one.
        proxied = self.engine.raw_connection()
        connection: Any = proxied.driver_connection
        try:
            self.dialect.on_connect(connection, self.durability, self.patience_s)
        except BaseException:
            proxied.invalidate()  # Whoever keeps the error would keep it open.
            raise
        if self.memory:
            return _Kept(proxied, connection, proxied.close, None)
        # From here on it is ours: SQLAlchemy's pool would reset it at each return, a round trip on MySQL.
        proxied.detach()
        return _Kept(proxied, connection, connection.close, self._opened)

    def _undo(self, connection: Any, error: BaseException) -> None:
        try:
            cursor = connection.cursor()
            cursor.execute("ROLLBACK")
            cursor.close()
        except Exception:
            self.discard(connection)
        else:
            if self.dialect.is_disconnect(_driver_error(error)):
                self.discard(connection)
            else:
                self._put_writer(connection)
        self._drop_if_lost(error)

    def _drop_if_lost(self, error: BaseException) -> None:
        # A server that closed one connection has most likely closed them all.
        if self.dialect.is_disconnect(_driver_error(error)):
            while self._idle:
                self.discard(self._idle.pop())

    def prepare(self, tables: schema.Tables) -> None:
        """Create or migrate the tables, one process at a time."""
        self._persist(lambda: self._prepare_once(tables))
        self._tables = tables
        self._opened = None if self._file is None else lostfile.identity(self._file)

    def _check_file(self) -> None:
        if self._opened is not None and self._file and lostfile.identity(self._file) != self._opened:
            raise FileGone(self._file)

    def _find_file(self) -> None:
        """Put back the deleted file, from what we still see of it; or go on with the one that is there."""
        assert self._file is not None
        assert self._tables is not None
        put_back = False
        if self._writer is not None:
            put_back = lostfile.put_back(self._writer.connection, self._file)
        self._opened = None
        self._close_all()
        self._prepare_once(self._tables)
        self._opened = lostfile.identity(self._file)
        now = "it was put back with all that was in it" if put_back else "going on with the one there is now"
        logger.error("the database file %s was deleted or replaced: %s", self._file, now)

    def _prepare_once(self, tables: schema.Tables) -> None:
        with self.engine.connect() as connection:
            self.dialect.on_connect(connection.connection.driver_connection, self.durability, self.patience_s)
            self.dialect.lock_schema(connection)
            try:
                schema.prepare(connection, tables)
            except BaseException:
                with suppress(sa.exc.DBAPIError):
                    self.dialect.unlock_schema(connection, True)
                raise
            self.dialect.unlock_schema(connection, False)

    def close(self) -> None:
        """Close what nobody uses, the rest when it is handed back. Only for who leads."""
        self.closed = True
        with self.shared:
            self._close_all()
        self.engine.dispose()

    def _close_all(self) -> None:
        while self._idle:
            self.discard(self._idle.pop())
        writer, self._writer = self._writer, None
        if writer is not None:
            with suppress(Exception):
                writer.close()

    def before_fork(self) -> None:
        """SQLite: close everything, and keep readers out until the fork is over. The caller leads.

        SQLite remembers per process which locks it holds on a file. A child inherits the memory but
        not the locks, so its new connections would write without any, into a log that the parent
        may delete. There must be nothing to inherit.
        """
        self._gate.acquire()
        if self.dialect.single_writer and not self.memory:
            self._gate.wait_for(lambda: self._reading == 0, self.patience_s)
            self._close_all()

    def after_fork_in_parent(self) -> None:
        self._gate.release()

    def after_fork(self) -> None:
        """Leave the parent's connections alone and begin without any."""
        if not self.memory:
            _abandoned.extend([*self._idle, self._writer])
            self._idle, self._writer = [], None
            self.engine.dispose(close=False)
        self._away_mutex = threading.Lock()
        self.shared = threading.RLock()
        self._gate = threading.Condition(threading.Lock())
        self._reading = 0
        self._data_version = None
        self.uid = os.urandom(6).hex()


class _Kept:
    """A raw connection, and what keeps SQLAlchemy from collecting it."""

    __slots__ = ("_proxied", "close", "connection", "cursor", "file")

    def __init__(
        self, proxied: Any, connection: Any, close: Callable[[], None], file: tuple[int, int] | None
    ) -> None:
        #: The file that it has open; see `lostfile`.
        self.file = file
        self._proxied = proxied
        self.connection = connection
        self.cursor = connection.cursor
        self.close = close


def _driver_error(error: BaseException) -> BaseException:
    if isinstance(error, CommitUnknown) and error.__cause__ is not None:
        return error.__cause__
    return error.orig if isinstance(error, sa.exc.DBAPIError) and error.orig is not None else error


def chunks(values: Iterable[T], size: int) -> Iterable[list[T]]:
    """Lists of at most `size` values."""
    rest = list(values)
    for start in range(0, len(rest), size):
        yield rest[start : start + size]
