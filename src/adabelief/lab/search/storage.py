"""Where the trials are kept: a journal in a file, a database, or optuna's proxy; and what is said where it is gone."""

from __future__ import annotations

import re
import time
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import optuna
from optuna.exceptions import ExperimentalWarning, StorageInternalError
from optuna.storages import BaseStorage, GrpcStorageProxy, JournalStorage, RDBStorage
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock
from sqlalchemy.exc import ArgumentError, SQLAlchemyError

JOURNAL = "trials.journal"
"""A search's own store, in its folder."""

PROXY = "grpc"

DRIVERS = {
    "postgresql": ("psycopg[binary]", {"psycopg": "psycopg", "psycopg2": "psycopg2"}),
    "mysql": ("pymysql", {"pymysql": "pymysql", "mysqldb": "MySQLdb"}),
}
"""For each kind of database the package to install, and the drivers as SQLAlchemy and as Python call them."""

EXAMPLES = "postgresql://USER@HOST/NAME, mysql://USER@HOST/NAME, grpc://HOST:PORT, or a file in a shared folder"


TRIES, RETRY = 5, 1.0
"""So often, and so many seconds later, the tables of a new database are looked for."""


class StoreGone(OSError):
    """The store does not answer."""


class Journal(JournalFileBackend):
    """A journal that says when its file is gone, instead of beginning another one that has nothing of it."""

    def __init__(self, path: Path) -> None:
        super().__init__(str(path), JournalFileOpenLock(str(path)))
        self._path, self._inode = path, path.stat().st_ino

    def read_logs(self, log_number_from: int) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        """As the file has them.

        Raises:
            ValueError: If it is damaged.
        """
        self._check()
        try:
            yield from super().read_logs(log_number_from)
        except ValueError as error:
            raise ValueError(
                f"{self._path} is damaged ({error}); put a copy of it back, or remove it: trials are planned anew, and "
                "finished runs are not run again"
            ) from None

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Appends them, on the disk when it returns."""
        self._check()
        super().append_logs(logs)

    def _check(self) -> None:
        if self._path.stat().st_ino != self._inode:
            raise FileNotFoundError(f"{self._path} is another file than before")


def connect(storage: str, out: Path) -> BaseStorage:
    """The storage of a search.

    Args:
        storage: The URL of a database or of optuna's gRPC proxy, or the path of a journal; empty for the search's own.
        out: The folder of the search.

    Raises:
        ValueError: If it is no such thing, or its driver is missing.
        StoreGone: If it does not answer.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    with answering(storage), unwarned():
        if "://" not in storage:
            path = Path(storage) if storage else out / JOURNAL
            if not path.parent.is_dir():
                raise ValueError(
                    f"storage={storage!r}: there is no folder {path.parent}; make it, or name another file"
                )
            return JournalStorage(Journal(path))
        if urlsplit(storage).scheme == PROXY:
            return _proxy(storage)
        url, patience = _with_driver(storage), {}
        if storage.startswith((*DRIVERS, "mariadb")):
            patience = {"connect_timeout": 10}
        try:
            return _database(url, {"pool_pre_ping": True, "connect_args": patience})
        except (ArgumentError, ImportError, ValueError) as error:
            raise ValueError(f"storage={shown(storage)!r}: {_line(error)}; give, say, {EXAMPLES}") from None


def _database(url: str, options: dict[str, Any], tries: int = TRIES) -> RDBStorage:
    """A database, whose tables another machine may be making at this very moment."""
    try:
        return RDBStorage(url, engine_kwargs=options)
    except (SQLAlchemyError, StorageInternalError) as error:
        if tries == 1 or not re.search("already exists|unique|duplicate", _line(error), re.IGNORECASE):
            raise
    time.sleep(RETRY)
    return _database(url, options, tries - 1)


def _with_driver(storage: str) -> str:
    """The URL of a database with a driver that is installed, where it names none."""
    kind, _, rest = storage.partition("://")
    if kind not in DRIVERS:
        return storage
    package, drivers = DRIVERS[kind]
    for name, module in drivers.items():
        if find_spec(module):
            return f"{kind}+{name}://{rest}"
    raise ValueError(f"storage={shown(storage)!r} needs a driver: pip install '{package}'")


def _proxy(storage: str) -> BaseStorage:
    try:
        host, port = urlsplit(storage).hostname, urlsplit(storage).port
    except ValueError:
        host = port = None
    if not (host and port):
        raise ValueError(f"storage={storage!r}: give host and port, as in grpc://HOST:13000")
    if not find_spec("grpc"):
        raise ValueError(f"storage={storage!r} needs grpc: pip install grpcio protobuf")
    found = GrpcStorageProxy(host=host, port=port)
    found.wait_server_ready(timeout=10)
    return found


def disconnect(storage: BaseStorage) -> None:
    """Closes what a storage keeps open."""
    storage.remove_session()
    if isinstance(storage, RDBStorage):
        storage.engine.dispose()
    elif isinstance(storage, GrpcStorageProxy):
        storage.close()


@contextmanager
def answering(storage: str) -> Iterator[None]:
    """Says in one message that a store does not answer.

    Raises:
        StoreGone: In place of what its driver says.
    """
    try:
        yield
    except StoreGone:
        raise
    except Exception as error:
        of_driver = isinstance(error, (OSError, SQLAlchemyError, StorageInternalError))
        if not of_driver and not type(error).__module__.startswith("grpc"):
            raise
        raise StoreGone(
            f"storage={shown(storage) or JOURNAL!r} does not answer ({_line(error)}); see that it is there and "
            "give the same command again: runs are kept, and go on from their checkpoints"
        ) from error


def shown(storage: str) -> str:
    """A store's address without its password."""
    parts = urlsplit(storage) if "://" in storage else None
    if parts is None or parts.password is None:
        return storage
    return parts._replace(netloc=parts.netloc.replace(f":{parts.password}@", ":***@")).geturl()


@contextmanager
def unwarned() -> Iterator[None]:
    """Optuna warns of what it calls experimental: its proxy, and samplers that know of trials in progress."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        yield


def difference(then: Mapping[str, Any], now: Mapping[str, Any]) -> str:
    """The first thing that differs between two plans; empty where nothing does."""
    for name in {**then, **now}:
        if then.get(name) != now.get(name):
            return f"another {name} ({then.get(name)!r}, now {now.get(name)!r})"
    return ""


def _line(error: BaseException) -> str:
    """The first line of the innermost cause: drivers wrap what they say."""
    while error.__cause__ is not None:
        error = error.__cause__
    details = getattr(error, "details", None)  # of gRPC
    text = str(details()) if callable(details) else str(error)
    return text.strip().partition("\n")[0] or type(error).__name__
