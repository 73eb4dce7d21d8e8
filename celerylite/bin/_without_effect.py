"""What is accepted and does nothing here: options of commands and settings, each with the reason."""

from __future__ import annotations

from typing import Any

import click

__all__ = ("OPTIONS", "PREFIXES", "SETTINGS", "add_remarks", "reason_of_setting")

_LEASE = "a process renews its lease in the database"
_NO_GOSSIP = "processes find each other in the database"
_LAST_RUNS = "the database remembers the last runs; a scheduler of your own finds the name"

#: Path of the command -> option -> why it has no effect. `--help` says so, and a test compares.
OPTIONS: dict[tuple[str, ...], dict[str, str]] = {
    (): {
        "--broker": "a server is not contacted; memory:// keeps everything in memory",
    },
    ("worker",): {
        "--statedb": "the database remembers what was revoked",
        "--optimization": "calls are always given to a child that is free",
        "--disable-prefetch": "what is claimed ahead goes back when the process stops",
        "--without-gossip": _NO_GOSSIP,
        "--without-mingle": _NO_GOSSIP,
        "--without-heartbeat": _LEASE,
        "--heartbeat-interval": _LEASE,
        "--schedule-filename": _LAST_RUNS,
    },
    ("beat",): {
        "--schedule": _LAST_RUNS,
    },
    ("events",): {
        "--executable": "the camera goes on in a fork of this program",
    },
    ("migrate",): {
        "--timeout": "a database says at once what it has",
        "--forever": "what is sent later is sent to DESTINATION",
    },
}

_READ_BY_A_BACKEND = "a result backend class that is loaded by its path can read it"

#: Settings of backends that are not here.
PREFIXES = (
    *("arangodb_", "azureblockblob_", "cache_", "cassandra_", "cosmosdbsql_", "couchbase_"),
    *("elasticsearch_", "gcs_", "mongodb_", "redis_", "s3_"),
)

#: Setting -> why it has no effect, as `docs/settings.md` says it.
SETTINGS: dict[str, str] = {
    "task_create_missing_queue_type": "shows in the declaration of the queue",
    "task_create_missing_queue_exchange_type": "shows in the declaration of the queue",
    "task_default_delivery_mode": "every message is stored",
    "task_default_queue_type": "shows in the declaration of the queue",
    "task_default_exchange_type": "shows in the declaration of the queue",
    "task_protocol": "messages are always of protocol 2",
    "task_publish_retry": (
        "a call tries to reach the database for 4 seconds before it raises `OperationalError`"
    ),
    "task_publish_retry_policy": (
        "a call tries to reach the database for 4 seconds before it raises `OperationalError`"
    ),
    "task_queue_max_priority": "every queue has priorities 0 to 9",
    "worker_agent": "a runtime has no agent",
    "worker_autoscaler": "threads are made as they are needed, up to `worker_concurrency`",
    "worker_cancel_long_running_tasks_on_connection_loss": (
        "running tasks go on while the database is away, their outcome is stored when it is back"
    ),
    "worker_enable_soft_shutdown_on_idle": "an idle runtime has nothing to wait for",
    "worker_consumer": "messages are claimed from the database",
    "worker_deduplicate_successful_tasks": (
        "a message is removed in the transaction that stores its success, so it is not delivered again"
    ),
    "worker_enable_remote_control": "every runtime reads the mailbox",
    "worker_lost_wait": "a lost process is found by its lease, `celerylite_lease`",
    "worker_pool_putlocks": "a call is given to a child process that waits for one",
    "worker_eta_task_limit": "tasks with an eta wait in the database, not in memory",
    "worker_enable_prefetch_count_reduction": "nothing is prefetched from a broker",
    "worker_disable_prefetch": "what is claimed ahead goes back when the process stops",
    "worker_state_db": "revoked tasks are in the database",
    "worker_timer": "the runtime sleeps until the next row is due",
    "worker_timer_precision": "the runtime sleeps until the next row is due",
    "worker_detect_quorum_queues": "there is no broker",
    "result_exchange": "results are rows",
    "result_exchange_type": "results are rows",
    "result_chord_expires": "the count of a chord lives until its body is sent",
    "result_failure_expires": "as in Celery's database backend: failures expire with `result_expires`",
    "result_persistent": "results are rows",
    "result_backend_transport_options": "results are rows",
    "database_short_lived_sessions": "connections are kept by the store, no session is left open",
    "database_create_tables_at_setup": "the tables are always made, at the first use",
    "beat_schedule_filename": "last runs are in the database; a scheduler of your own finds it",
    "broker_read_url": "there is no broker",
    "broker_write_url": "there is no broker",
    "broker_transport": "there is no broker",
    "broker_transport_options": (
        "there is no broker; a message is held by a lease, `celerylite_lease`, not by a visibility timeout"
    ),
    "broker_connection_retry": "the database is always tried again",
    "broker_connection_retry_on_startup": "the database is always tried again",
    "broker_connection_max_retries": "the database is always tried again",
    "broker_channel_error_retry": "there is no broker",
    "broker_failover_strategy": "there is no broker",
    "broker_heartbeat": "see `celerylite_lease`",
    "broker_heartbeat_checkrate": "see `celerylite_lease`",
    "broker_login_method": "there is no broker",
    "broker_native_delayed_delivery_queue_type": "an eta is a column of the message",
    "broker_pool_limit": "there is no broker",
    "broker_pool_acquire_timeout": "there is no broker",
    "broker_use_ssl": "there is no broker",
    "broker_host": "there is no broker",
    "broker_port": "there is no broker",
    "broker_user": "there is no broker",
    "broker_password": "there is no broker",
    "broker_vhost": "there is no broker",
    "event_queue_expires": "events have no queue",
    "event_queue_prefix": "events have no queue",
    "event_queue_exclusive": "events have no queue",
    "event_queue_durable": "events have no queue",
    "event_serializer": "events have no queue",
    "event_exchange": "events have no queue",
    "control_queue_ttl": "the mailbox is a table",
    "control_queue_expires": "the mailbox is a table",
    "control_queue_exclusive": "the mailbox is a table",
    "control_queue_durable": "the mailbox is a table",
    "control_exchange": "the mailbox is a table",
    "security_certificate": "messages do not leave the database; `app.setup_security()` is refused",
    "security_cert_store": "messages do not leave the database; `app.setup_security()` is refused",
    "security_key": "messages do not leave the database; `app.setup_security()` is refused",
    "security_key_password": "messages do not leave the database; `app.setup_security()` is refused",
    "security_digest": "messages do not leave the database; `app.setup_security()` is refused",
}


def reason_of_setting(name: str) -> str | None:
    """Why a setting does nothing here; None if it does something."""
    return _READ_BY_A_BACKEND if name.startswith(PREFIXES) else SETTINGS.get(name)


def add_remarks(group: click.Group) -> None:
    """Have `--help` say of each option without effect that it has none. Raises KeyError for a wrong name."""
    for path, options in OPTIONS.items():
        command: click.Command = group
        for name in path:
            assert isinstance(command, click.Group)
            command = command.commands[name]
        params = {name: param for param in command.params for name in (*param.opts, *param.secondary_opts)}
        for name, reason in options.items():
            option: Any = params[name]
            option.help = f"{option.help or ''} No effect here: {reason}.".strip()
