"""The tables: Celery's two for results, ours for everything else, and their version."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import sqlalchemy as sa

from celerylite import exceptions

__all__ = ("SCHEMA_VERSION", "Tables", "prepare")

#: What this code writes. A database that says more was written by a newer celerylite.
SCHEMA_VERSION = 4

#: Columns of `celery_taskmeta` that Celery added over the years or keeps for `result_extended`.
_MAYBE_MISSING = ("children", "name", "args", "kwargs", "worker", "retries", "queue", "stamps")

# MySQL's BLOB and TEXT end at 64 KB. Who asks for more than 16 MB gets LONGBLOB and LONGTEXT, up to 4 GB.
_LONG = 2**24
_Blob = sa.LargeBinary().with_variant(sa.LargeBinary(_LONG), "mysql", "mariadb")
_LongText = sa.Text().with_variant(sa.Text(_LONG), "mysql", "mariadb")
_RowId = sa.BigInteger().with_variant(sa.Integer(), "sqlite")
_Key = sa.String(155)

# As the ids of tasks are compared exactly, MySQL's case-blind default collation will not do.
_OPTIONS: dict[str, Any] = {
    "mysql_engine": "InnoDB",
    "mysql_charset": "utf8mb4",
    "mysql_collate": "utf8mb4_bin",
    "mariadb_engine": "InnoDB",
    "mariadb_charset": "utf8mb4",
    "mariadb_collate": "utf8mb4_bin",
}


#: A row's number is not given to another row later on.
_NEVER_AGAIN: dict[str, Any] = {"sqlite_autoincrement": True}


class Tables:
    """All tables of one database, with the names that the configuration gives Celery's two."""

    def __init__(
        self,
        dialect: str,
        names: Mapping[str, str] | None = None,
        schemas: Mapping[str, str] | None = None,
    ) -> None:
        names, schemas = names or {}, schemas or {}
        self.metadata = sa.MetaData(info={"dialect": dialect})
        self.results = _results(self.metadata, names.get("task") or "celery_taskmeta", schemas.get("task"))
        self.groups = _groups(self.metadata, names.get("group") or "celery_tasksetmeta", schemas.get("group"))
        self.messages = _messages(self.metadata)
        self.runs = _runs(self.metadata)
        self.chords, self.chord_parts = _chords(self.metadata)
        self.periodic, self.ticks = _periodic(self.metadata)
        self.workers = _workers(self.metadata)
        self.revoked, self.mailbox = _control(self.metadata)
        self.unique = _unique(self.metadata)
        self.places, self.parked = _places(self.metadata)
        self.meta = sa.Table(
            "celerylite_meta",
            self.metadata,
            sa.Column("name", sa.String(50), primary_key=True),
            sa.Column("value", sa.String(255), nullable=False),
            **_for(self.metadata, _OPTIONS),
        )
        #: The columns of `results` that the database really has; see `prepare`.
        self.result_columns: tuple[str, ...] = tuple(c.name for c in self.results.c if c.name != "id")


def prepare(connection: sa.Connection, tables: Tables) -> None:
    """Create or migrate our tables, and see which columns Celery's have.

    The caller holds the lock that keeps other processes from doing the same. Raises SchemaTooNew.
    """
    version = _version(connection, tables)
    if version > SCHEMA_VERSION:
        raise exceptions.SchemaTooNew(version, SCHEMA_VERSION)
    if version < SCHEMA_VERSION:
        tables.metadata.create_all(connection, checkfirst=True)
        for step in range(version, SCHEMA_VERSION):
            _MIGRATIONS.get(step, _nothing)(connection, tables)
        _set_version(connection, tables, SCHEMA_VERSION)
    elif not sa.inspect(connection).has_table(tables.results.name, schema=tables.results.schema):
        # Celery's tables under names that were configured after ours were created.
        tables.metadata.create_all(connection, checkfirst=True)
    tables.result_columns = _result_columns(connection, tables)


def _result_columns(connection: sa.Connection, tables: Tables) -> tuple[str, ...]:
    # A table without the extended columns is left as it is: a Celery that runs beside us inserts
    # without column names it does not know, but one that is upgraded adds them itself.
    found = {
        column["name"]
        for column in sa.inspect(connection).get_columns(tables.results.name, schema=tables.results.schema)
    }
    missing = {name for name in _MAYBE_MISSING if name not in found}
    return tuple(c.name for c in tables.results.c if c.name != "id" and c.name not in missing)


def _version(connection: sa.Connection, tables: Tables) -> int:
    if not sa.inspect(connection).has_table(tables.meta.name):
        return 0
    value = connection.scalar(sa.select(tables.meta.c.value).where(tables.meta.c.name == "schema_version"))
    return int(value or 0)


def _set_version(connection: sa.Connection, tables: Tables, version: int) -> None:
    where = tables.meta.c.name == "schema_version"
    done = connection.execute(tables.meta.update().where(where).values(value=str(version)))
    if not done.rowcount:
        connection.execute(tables.meta.insert().values(name="schema_version", value=str(version)))


def _nothing(connection: sa.Connection, tables: Tables) -> None:
    """Version 0 is an empty database: creating the tables was all."""


def _know_more_of_entries(connection: sa.Connection, tables: Tables) -> None:
    """Version 2: whose an entry is, what it sent last, and the run of it that waits."""
    _add_columns(connection, tables.periodic)


def _keep_calls(connection: sa.Connection, tables: Tables) -> None:
    """Version 3: the history knows the message of a run, so that the call can be sent again."""
    _add_columns(connection, tables.runs)


def _add_columns(connection: sa.Connection, table: sa.Table) -> None:
    """Add the columns that the database's table lacks; all of them may be null."""
    # Looked at, not assumed: where DDL commits by itself, an attempt before this one may have got halfway.
    found = {column["name"] for column in sa.inspect(connection).get_columns(table.name)}
    for column in table.columns:
        if column.name not in found:
            of_type = column.type.compile(dialect=connection.dialect)
            connection.exec_driver_sql(f"ALTER TABLE {table.name} ADD COLUMN {column.name} {of_type}")


#: From which version, what leads to the next one. Tables that are new are there already (version 4: the
#: keys of unique calls, and the places of limited ones).
_MIGRATIONS: dict[int, Callable[[sa.Connection, Tables], None]] = {
    1: _know_more_of_entries,
    2: _keep_calls,
}


def _results(metadata: sa.MetaData, name: str, schema: str | None) -> sa.Table:
    # Celery's names, types, sequence and index, so that each side reads what the other wrote.
    return sa.Table(
        name,
        metadata,
        sa.Column(
            "id",
            sa.Integer(),
            sa.Sequence("task_id_sequence", schema=schema, metadata=metadata),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("task_id", sa.String(155), unique=True),
        sa.Column("status", sa.String(50)),
        sa.Column("result", _Blob),
        sa.Column("date_done", sa.DateTime(), index=True),
        sa.Column("traceback", _LongText),
        sa.Column("children", _Blob),
        sa.Column("name", sa.String(155)),
        sa.Column("args", _Blob),
        sa.Column("kwargs", _Blob),
        sa.Column("worker", sa.String(155)),
        sa.Column("retries", sa.Integer()),
        sa.Column("queue", sa.String(155)),
        sa.Column("stamps", _Blob),
        schema=schema,
        **_for(metadata, _NEVER_AGAIN),
    )


def _groups(metadata: sa.MetaData, name: str, schema: str | None) -> sa.Table:
    return sa.Table(
        name,
        metadata,
        sa.Column(
            "id",
            sa.Integer(),
            sa.Sequence("taskset_id_sequence", schema=schema, metadata=metadata),
            primary_key=True,
            autoincrement=True,
        ),
        sa.Column("taskset_id", sa.String(155), unique=True),
        sa.Column("result", _Blob),
        sa.Column("date_done", sa.DateTime(), index=True),
        schema=schema,
        **_for(metadata, _NEVER_AGAIN),
    )


def _messages(metadata: sa.MetaData) -> sa.Table:
    table = sa.Table(
        "celerylite_messages",
        metadata,
        sa.Column("id", _RowId, primary_key=True, autoincrement=True),
        sa.Column("task_id", _Key, nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queue", _Key, nullable=False),
        # Minus the priority: what is lower goes first. MariaDB before 10.8 has no descending indexes.
        sa.Column("turn", sa.SmallInteger(), nullable=False),
        sa.Column("state", sa.SmallInteger(), nullable=False),
        sa.Column("due_at", sa.Double()),
        sa.Column("expires_at", sa.Double()),
        sa.Column("owner", _Key),
        sa.Column("token", sa.String(200)),
        sa.Column("deliveries", sa.Integer(), nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False),
        sa.Column("content_type", sa.String(255), nullable=False),
        sa.Column("content_encoding", sa.String(255), nullable=False),
        sa.Column("headers", _LongText, nullable=False),
        sa.Column("properties", _LongText, nullable=False),
        sa.Column("body_is_text", sa.SmallInteger(), nullable=False),
        sa.Column("body", _Blob, nullable=False),
        **_for(metadata, _OPTIONS),
    )
    c = table.c
    # Where an index can be partial it holds only the rows it is for: publishing pays for one, not four.
    sa.Index("celerylite_messages_ready", c.queue, c.turn, c.id, **_only(metadata, "state = 1")).ddl_if(
        callable_=_has_partial
    )
    sa.Index("celerylite_messages_due", c.due_at, **_only(metadata, "state = 0")).ddl_if(
        callable_=_has_partial
    )
    sa.Index("celerylite_messages_claim", c.state, c.queue, c.turn, c.id).ddl_if(callable_=_has_no_partial)
    sa.Index("celerylite_messages_time", c.state, c.due_at).ddl_if(callable_=_has_no_partial)
    sa.Index("celerylite_messages_task", c.task_id, **_only(metadata, "state = 0"))
    sa.Index("celerylite_messages_owner", c.owner, **_only(metadata, "state > 1"))
    return table


def _has_partial(*_: Any, **context: Any) -> bool:
    return context["dialect"].name in ("sqlite", "postgresql")


def _has_no_partial(*_: Any, **context: Any) -> bool:
    return not _has_partial(**context)


def _only(metadata: sa.MetaData, condition: str) -> dict[str, Any]:
    where = sa.text(condition)
    return _for(metadata, {"sqlite_where": where, "postgresql_where": where})


def _for(metadata: sa.MetaData, options: Mapping[str, Any]) -> dict[str, Any]:
    """Those of the options that are for this database; the others would load its dialect to be checked."""
    prefix = f"{metadata.info['dialect']}_"
    return {name: value for name, value in options.items() if name.startswith(prefix)}


def _runs(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "celerylite_runs",
        metadata,
        sa.Column("id", _RowId, primary_key=True, autoincrement=True),
        sa.Column("task_id", _Key, nullable=False, index=True),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("queue", sa.Text()),
        sa.Column("worker", sa.Text()),
        sa.Column("retries", sa.Integer(), nullable=False),
        sa.Column("started_at", sa.Double()),
        sa.Column("finished_at", sa.Double(), index=True),
        sa.Column("state", sa.String(50), nullable=False),
        sa.Column("error", _LongText),
        sa.Column("message", _LongText),
        **_for(metadata, _OPTIONS),
    )


def _chords(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    chords = sa.Table(
        "celerylite_chords",
        metadata,
        sa.Column("group_id", _Key, primary_key=True),
        sa.Column("size", sa.Integer(), nullable=False),
        sa.Column("done", sa.Integer(), nullable=False),
        sa.Column("awaited", sa.Integer(), nullable=False),
        sa.Column("body", _LongText, nullable=False),
        sa.Column("created_at", sa.Double(), nullable=False, index=True),
        sa.Column("closed_at", sa.Double(), index=True),
        **_for(metadata, _OPTIONS),
    )
    parts = sa.Table(
        "celerylite_chord_parts",
        metadata,
        sa.Column("group_id", _Key, primary_key=True),
        sa.Column("task_id", _Key, primary_key=True),
        sa.Column("part", sa.Integer(), nullable=False),
        sa.Column("state", sa.String(50), nullable=False),
        sa.Column("result", _Blob),
        **_for(metadata, _OPTIONS),
    )
    return chords, parts


def _periodic(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    periodic = sa.Table(
        "celerylite_periodic",
        metadata,
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("spec", _LongText),
        sa.Column("enabled", sa.SmallInteger(), nullable=False),
        sa.Column("last_run_at", sa.Double()),
        sa.Column("next_run_at", sa.Double()),
        sa.Column("total_run_count", sa.Integer(), nullable=False),
        sa.Column("app", sa.String(255)),
        sa.Column("task", sa.Text()),
        sa.Column("last_task_id", _Key),
        sa.Column("buffered_at", sa.Double()),
        **_for(metadata, _OPTIONS),
    )
    ticks = sa.Table(
        "celerylite_ticks",
        metadata,
        sa.Column("name", sa.String(255), primary_key=True),
        sa.Column("due_at", sa.Double(), primary_key=True),
        sa.Column("created_at", sa.Double(), nullable=False, index=True),
        **_for(metadata, _OPTIONS),
    )
    return periodic, ticks


def _workers(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "celerylite_workers",
        metadata,
        sa.Column("owner", _Key, primary_key=True),
        sa.Column("hostname", sa.Text(), nullable=False),
        sa.Column("machine", sa.Text(), nullable=False),
        sa.Column("pid", sa.BigInteger(), nullable=False),
        sa.Column("pid_started", sa.Double()),
        sa.Column("queues", _LongText),
        sa.Column("lease_until", sa.Double(), nullable=False),
        sa.Column("departed", sa.SmallInteger(), nullable=False),
        **_for(metadata, _OPTIONS),
    )


def _control(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    revoked = sa.Table(
        "celerylite_revoked",
        metadata,
        sa.Column("task_id", _Key, primary_key=True),
        sa.Column("until", sa.Double(), nullable=False, index=True),
        **_for(metadata, _OPTIONS),
    )
    mailbox = sa.Table(
        "celerylite_mailbox",
        metadata,
        sa.Column("id", _RowId, primary_key=True, autoincrement=True),
        sa.Column("topic", _Key, nullable=False, index=True),
        sa.Column("payload", _LongText, nullable=False),
        sa.Column("until", sa.Double(), nullable=False, index=True),
        # A letter's row is how a reader knows that it has read it: never used twice.
        **_for(metadata, _OPTIONS | _NEVER_AGAIN),
    )
    return revoked, mailbox


def _unique(metadata: sa.MetaData) -> sa.Table:
    return sa.Table(
        "celerylite_unique",
        metadata,
        sa.Column("unique_key", sa.String(255), primary_key=True),
        sa.Column("task_id", _Key, nullable=False, index=True),
        # The row of the message: without it, and without a time, the key is free whatever became of it.
        sa.Column("message", sa.BigInteger(), nullable=False),
        sa.Column("until", sa.Double(), index=True),
        **_for(metadata, _OPTIONS),
    )


def _places(metadata: sa.MetaData) -> tuple[sa.Table, sa.Table]:
    places = sa.Table(
        "celerylite_places",
        metadata,
        sa.Column("limit_key", sa.String(255), primary_key=True),
        sa.Column("number", sa.Integer(), primary_key=True, autoincrement=False),
        # A place counts while this message is RUNNING: whatever happens to it, the place is free.
        sa.Column("message", sa.BigInteger(), nullable=False),
        **_for(metadata, _OPTIONS),
    )
    parked = sa.Table(
        "celerylite_parked",
        metadata,
        sa.Column("message", sa.BigInteger(), primary_key=True, autoincrement=False),
        sa.Column("limit_key", sa.String(255), nullable=False),
        sa.Column("turn", sa.SmallInteger(), nullable=False),
        sa.Column("places", sa.Integer(), nullable=False),
        **_for(metadata, _OPTIONS),
    )
    sa.Index("celerylite_parked_turn", parked.c.limit_key, parked.c.turn, parked.c.message)
    return places, parked
