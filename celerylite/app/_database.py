"""Which database an app uses, and what in its configuration names something that is not used."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ("DEFAULT_DATABASE", "Database", "choose", "is_unserved")

# Not one of the library's quiet loggers: what a program ought to know is seen where logging is not set up.
logger = logging.getLogger(__name__)

#: Where everything is kept when nothing else is said: a file in the working directory.
DEFAULT_DATABASE = "sqlite:///celerylite.sqlite3"
#: The environment variable that names another database.
VARIABLE = "CELERYLITE_DATABASE"
_IN_MEMORY = "sqlite://"

#: Servers that Celery would talk to and celerylite does not.
_UNSERVED = frozenset(
    [
        "amqp",
        "amqps",
        "pyamqp",
        "librabbitmq",
        "redis",
        "rediss",
        "sentinel",
        "rpc",
        "sqs",
        "sqlalchemy",
        "zookeeper",
        "confluentkafka",
        "kafka",
        "mongodb",
        "cassandra",
        "couchbase",
        "couchdb",
        "consul",
        "dynamodb",
        "elasticsearch",
        "arangodb",
        "azureblockblob",
        "azurestoragequeues",
        "azureservicebus",
        "cosmosdbsql",
        "memcached",
        "gcpubsub",
        "pyro",
        "slmq",
        "etcd",
        "qpid",
        "s3",
        "gs",
    ]
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Database:
    """Where an app keeps its queue and results."""

    url: str
    #: Celery's set-up for tests: gone with the process, and nothing runs until a worker is started.
    in_memory: bool = False
    #: Settings that name a server which is not used, with their values.
    ignored: tuple[tuple[str, str], ...] = ()


def is_unserved(url: Any) -> bool:
    """Whether `url` names a server that celerylite does not talk to."""
    if not isinstance(url, str):
        return False
    scheme = url.partition("://")[0]
    return scheme.partition("+")[0] in _UNSERVED or scheme == "cache+memcached"


def choose(conf: Any, environ: Mapping[str, str] = os.environ) -> Database:
    """The database that `conf` asks for.

    ``result_backend='db+...'``, else ``database_url``, else the variable CELERYLITE_DATABASE, else a SQLite
    file in the working directory. A broker ``memory://`` without a database keeps all in memory.
    """
    backend, broker = conf.result_backend, conf.broker_url
    ignored = tuple(
        (name, url) for name, url in (("broker_url", broker), ("result_backend", backend)) if is_unserved(url)
    )
    named = backend.removeprefix("db+") if isinstance(backend, str) and backend.startswith("db+") else None
    named = named or conf.database_url or environ.get(VARIABLE)
    if named:
        return Database(url=named.removeprefix("db+"), ignored=ignored)
    if isinstance(broker, str) and broker.startswith("memory:"):
        return Database(url=_IN_MEMORY, in_memory=True, ignored=ignored)
    return Database(url=DEFAULT_DATABASE, ignored=ignored)


def announce(database: Database, shown_url: str, warn: bool) -> None:
    """Log which database is used, and once what is not."""
    logger.info("celerylite keeps its queue and results in %s", shown_url, extra={"action": "database"})
    if database.ignored and warn:
        names = " and ".join(f"{name}={_scheme(url)}://..." for name, url in database.ignored)
        logger.warning(
            "%s not used: celerylite contacts no broker and keeps queue and results in %s. "
            "Remove the setting, or set celerylite_warn_ignored=False to silence this.",
            names,
            shown_url,
            extra={"action": "ignored-urls"},
        )


def _scheme(url: str) -> str:
    # Without the rest: it may hold a password.
    return url.partition("://")[0]
