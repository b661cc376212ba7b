"""The SQLite database of a batch store: its tables, and what makes a commit last."""

import fcntl
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

VERSION = 1  # of the tables; raised with every change to them
TABLES = """
CREATE TABLE files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    purpose TEXT NOT NULL,
    filename TEXT NOT NULL,
    size INTEGER NOT NULL,
    created_at INTEGER NOT NULL
);
CREATE TABLE batches (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    endpoint TEXT NOT NULL,
    input_file_id TEXT NOT NULL,
    metadata TEXT NOT NULL,            -- JSON
    created_at INTEGER NOT NULL,
    expires_at INTEGER NOT NULL,
    state TEXT NOT NULL,
    ending TEXT NOT NULL DEFAULT 'completed',  -- the state after finalizing
    entered TEXT NOT NULL DEFAULT '{}',  -- JSON: state -> when
    faults TEXT NOT NULL DEFAULT '[]',   -- JSON
    total INTEGER NOT NULL DEFAULT 0,
    completed INTEGER NOT NULL DEFAULT 0,
    failed INTEGER NOT NULL DEFAULT 0,
    output_file_id TEXT,
    error_file_id TEXT,
    turn INTEGER NOT NULL DEFAULT 0    -- when a request of it was taken last: batches and tenants take turns
);
CREATE TABLE requests (                -- of unfinished batches only; afterwards the results are in files
    batch INTEGER NOT NULL,            -- its seq
    number INTEGER NOT NULL,           -- of its line
    custom_id TEXT NOT NULL,
    body TEXT NOT NULL,
    attempts INTEGER NOT NULL DEFAULT 0,  -- that were begun
    held INTEGER NOT NULL DEFAULT 0,      -- 1: it runs now
    result TEXT,                       -- the line of the output, once there is one
    is_ok INTEGER,                     -- 1: to the output file; 0: to the error file
    PRIMARY KEY (batch, number)
);
CREATE INDEX open_requests ON requests (batch, attempts, number) WHERE result IS NULL AND held = 0;
CREATE INDEX held_requests ON requests (attempts) WHERE held = 1;
"""


class Database:
    """Belongs to one process at a time, and to one thread of it at a time."""

    def __init__(self, directory: Path) -> None:
        """Makes the directory and the tables. Raises OSError with the remedy when it cannot be used."""
        try:
            directory.mkdir(parents=True, exist_ok=True)
            self._lock = os.open(directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            message = f"--batch-store={directory}: {error.strerror}; name a directory that the server may write to"
            raise OSError(message) from error
        try:
            _hold(self._lock, directory)
            self._connection = _connect(directory)
        except BaseException:
            os.close(self._lock)
            raise
        self.execute = self._connection.execute
        self.executemany = self._connection.executemany

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of it or nothing; it is on disk when the block is left."""
        self.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self.execute("ROLLBACK")
            raise
        self.execute("COMMIT")

    def close(self) -> None:
        self._connection.close()
        os.close(self._lock)


def _hold(lock: int, directory: Path) -> None:
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as held:
        raise OSError(f"--batch-store={directory}: another server uses it; give each server its own") from held


def _connect(directory: Path) -> sqlite3.Connection:
    path = directory / "batches.sqlite"
    try:
        # Autocommit: only `transaction` opens one. The executor that uses it has one thread, which is not this one.
        connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")  # WAL's own default may lose the last commits in a power cut
        version = connection.execute("PRAGMA user_version").fetchone()[0]
        if version == 0:
            connection.executescript(f"BEGIN; {TABLES} PRAGMA user_version = {VERSION}; COMMIT;")
            version = VERSION
    except sqlite3.Error as broken:
        raise OSError(f"--batch-store={directory}: {path.name} cannot be used: {broken}") from broken
    if version != VERSION:
        raise OSError(
            f"--batch-store={directory}: {path.name} has tables of version {version}, this server knows {VERSION}; "
            "name another directory, or use the release that made it"
        )
    return connection
