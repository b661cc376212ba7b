"""Uploaded and written files: their bytes beside the database, what is known of them in it.

A file is there once its row is. Bytes without a row are what a killed process left, and go at the next start.
"""

import os
from collections.abc import Iterable
from pathlib import Path
from uuid import uuid4

from headrace_server.rpc.batches.database import Database
from headrace_server.rpc.batches.values import File, Page, Purpose

COLUMNS = "id, tenant, purpose, filename, size, created_at"


class Shelf:
    def __init__(self, database: Database, directory: Path) -> None:
        self._database = database
        self._directory = directory
        directory.mkdir(exist_ok=True)
        self._forget_strays()

    def new_path(self) -> Path:
        """Where the bytes of a new file go; its name is the file's id."""
        return self._directory / f"file-{uuid4().hex}"

    def path(self, file_id: str) -> Path:
        return self._directory / file_id

    def write(self, lines: Iterable[str]) -> tuple[Path, int] | None:
        """Path and size; None when there are no lines. Call `add` in the transaction that needs the file."""
        path, size = self.new_path(), 0
        with path.open("wb") as file:
            for line in lines:
                size += file.write(line.encode() + b"\n")
            sync(file.fileno())
        self.sync_directory()
        if size:
            return path, size
        path.unlink()
        return None

    def add(self, file: File) -> None:
        self._database.execute(
            f"INSERT INTO files ({COLUMNS}) VALUES (?, ?, ?, ?, ?, ?)",
            (file.id, file.tenant, file.purpose, file.filename, file.size, file.created_at),
        )

    def find(self, tenant: str, file_id: str) -> File | None:
        query = f"SELECT {COLUMNS} FROM files WHERE id = ? AND tenant = ?"
        row = self._database.execute(query, (file_id, tenant)).fetchone()
        return None if row is None else _file(row)

    def page(self, tenant: str, purpose: str | None, page: Page) -> list[File]:
        """One more than `page.limit`, if there are more."""
        sign, order = (">", "ASC") if page.ascending else ("<", "DESC")
        query = (
            f"SELECT {COLUMNS} FROM files WHERE tenant = :tenant AND (:purpose IS NULL OR purpose = :purpose) "
            f"AND (:after IS NULL OR seq {sign} (SELECT seq FROM files WHERE id = :after)) "
            f"ORDER BY seq {order} LIMIT :limit + 1"
        )
        given = {"tenant": tenant, "purpose": purpose, "after": page.after, "limit": page.limit}
        return [_file(row) for row in self._database.execute(query, given)]

    def delete(self, file: File) -> None:
        self._database.execute("DELETE FROM files WHERE id = ?", (file.id,))
        self.path(file.id).unlink(missing_ok=True)

    def sync_directory(self) -> None:
        """Without it a power cut may take a new file's name away."""
        descriptor = os.open(self._directory, os.O_RDONLY)
        try:
            sync(descriptor)
        finally:
            os.close(descriptor)

    def _forget_strays(self) -> None:
        known = {file_id for (file_id,) in self._database.execute("SELECT id FROM files")}
        for path in self._directory.iterdir():
            if path.name not in known:
                path.unlink()


def sync(descriptor: int) -> None:
    os.fsync(descriptor)


def _file(row: tuple[str, str, str, str, int, int]) -> File:
    file_id, tenant, purpose, filename, size, created_at = row
    return File(file_id, tenant, Purpose(purpose), filename, size, created_at)
