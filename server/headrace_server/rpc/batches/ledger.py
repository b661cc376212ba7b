"""Batches: from the input file to requests, and from their results to the output files.

A request has at most one result, because there is one place for it; it has at least one, because a batch is not
finalized before all places are taken.
"""

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from itertools import islice
from typing import Any
from uuid import uuid4

from headrace_server.rpc.batches.database import Database
from headrace_server.rpc.batches.lines import Code, Fault, Line, read_lines
from headrace_server.rpc.batches.requests import Requests
from headrace_server.rpc.batches.shelf import Shelf
from headrace_server.rpc.batches.values import UNFINISHED, WINDOW, Batch, File, Order, Page, Purpose, State

MOST_REQUESTS = 50_000  # of one batch, as OpenAI's
MOST_FAULTS = 100  # that are kept of one input file
OUTPUTS: Mapping[str, bool] = {"output": True, "error": False}  # file -> whether it holds the answers of status 200
COLUMNS = (
    "id, tenant, endpoint, input_file_id, metadata, created_at, expires_at, state, entered, faults, total, completed, "
    "failed, output_file_id, error_file_id"
)


class CannotCancel(Exception):
    pass


class Ledger:
    def __init__(self, database: Database, shelf: Shelf) -> None:
        self._database = database
        self._shelf = shelf
        self.requests = Requests(database)

    def create(self, order: Order, now: int) -> Batch:
        batch_id = f"batch_{uuid4().hex}"
        self._database.execute(
            "INSERT INTO batches (id, tenant, endpoint, input_file_id, metadata, created_at, expires_at, state) "
            "VALUES (:id, :tenant, :endpoint, :input, :metadata, :now, :expires, :state)",
            {
                "id": batch_id,
                "tenant": order.tenant,
                "endpoint": order.endpoint,
                "input": order.input_file_id,
                "metadata": json.dumps(order.metadata),
                "now": now,
                "expires": now + WINDOW,
                "state": State.VALIDATING,
            },
        )
        return self._one(batch_id)

    def find(self, tenant: str, batch_id: str) -> Batch | None:
        query = f"SELECT {COLUMNS} FROM batches WHERE id = ? AND tenant = ?"
        row = self._database.execute(query, (batch_id, tenant)).fetchone()
        return None if row is None else _batch(row)

    def page(self, tenant: str, page: Page) -> list[Batch]:
        """One more than `page.limit`, if there are more."""
        query = (
            f"SELECT {COLUMNS} FROM batches WHERE tenant = :tenant AND (:after IS NULL OR seq < "
            "(SELECT seq FROM batches WHERE id = :after)) ORDER BY seq DESC LIMIT :limit + 1"
        )
        given = {"tenant": tenant, "after": page.after, "limit": page.limit}
        return [_batch(row) for row in self._database.execute(query, given)]

    def unfinished(self) -> list[Batch]:
        places = ", ".join("?" * len(UNFINISHED))
        query = f"SELECT {COLUMNS} FROM batches WHERE state IN ({places}) ORDER BY seq"
        return [_batch(row) for row in self._database.execute(query, UNFINISHED)]

    def needs_input(self, file_id: str) -> bool:
        """Whether the file is still to be read; afterwards its requests are here."""
        query = "SELECT 1 FROM batches WHERE input_file_id = ? AND state = ?"
        return self._database.execute(query, (file_id, State.VALIDATING)).fetchone() is not None

    def cancel(self, batch: Batch, now: int) -> Batch:
        """Raises CannotCancel when it is as good as finished."""
        with self._database.transaction():
            state = self._one(batch.id).state
            if state in {State.VALIDATING, State.IN_PROGRESS}:
                self._enter(batch.id, State.CANCELLING, now, ending=State.CANCELLED)
            elif state not in {State.CANCELLING, State.CANCELLED}:
                raise CannotCancel(f"batch {batch.id} is {state} and cannot be cancelled any more")
        return self._one(batch.id)

    def validate(self, batch: Batch, models: Sequence[str], now: int) -> None:
        """Takes the requests in, all or none. `models`: names that are served."""
        with self._database.transaction():
            faults = list(islice(self._take_in(batch, models), MOST_FAULTS))
            if faults:
                self.requests.forget(batch.id)
                kept = json.dumps([asdict(fault) for fault in faults])
                self._database.execute("UPDATE batches SET faults = ?, total = 0 WHERE id = ?", (kept, batch.id))
            self._enter(batch.id, State.FAILED if faults else State.IN_PROGRESS, now)

    def cut_short(self, batch: Batch, code: Code, message: str, now: int) -> None:
        """What has no result gets this one. None of the batch's requests may be running."""
        with self._database.transaction():
            self.requests.close(batch.id, code, message)
            if code is Code.EXPIRED:
                self._enter(batch.id, State.FINALIZING, now, ending=State.EXPIRED)

    def finalize(self, batch: Batch, now: int) -> None:
        """Writes the files. A process that is killed in here does it again."""
        if batch.state is State.IN_PROGRESS:
            self._enter(batch.id, State.FINALIZING, now)
        written = {
            name: self._shelf.write(self.requests.results(batch.id, is_ok=is_ok)) for name, is_ok in OUTPUTS.items()
        }
        with self._database.transaction():
            for name, found in written.items():
                if found is not None:
                    path, size = found
                    filename = f"{batch.id}_{name}.jsonl"
                    self._shelf.add(File(path.name, batch.order.tenant, Purpose.OUTPUT, filename, size, now))
                    self._database.execute(f"UPDATE batches SET {name}_file_id = ? WHERE id = ?", (path.name, batch.id))
            ending = self._database.execute("SELECT ending FROM batches WHERE id = ?", (batch.id,)).fetchone()[0]
            self._enter(batch.id, State(ending), now)
            self.requests.forget(batch.id)

    def _take_in(self, batch: Batch, models: Sequence[str]) -> Iterator[Fault]:
        """Yields faults; without any, all requests are in."""
        file = self._shelf.find(batch.order.tenant, batch.order.input_file_id)
        if file is None:
            yield Fault(Code.EMPTY, f"the input file {batch.order.input_file_id} was deleted")
            return
        total = 0
        with self._shelf.path(file.id).open("rb") as raw:
            for line in checked(read_lines(raw, batch.order.endpoint), models):
                if isinstance(line, Fault):
                    yield line
                else:
                    total += 1
                    self.requests.add(batch.id, line)
        if total == 0:
            yield Fault(Code.EMPTY, "the input file holds no request that can run")
        self._database.execute("UPDATE batches SET total = ? WHERE id = ?", (total, batch.id))

    def _enter(self, batch_id: str, state: State, now: int, *, ending: State | None = None) -> None:
        self._database.execute(
            "UPDATE batches SET state = :state, ending = coalesce(:ending, ending), "
            "entered = json_set(entered, '$.' || :state, :now) WHERE id = :id",
            {"state": state, "ending": ending, "now": now, "id": batch_id},
        )

    def _one(self, batch_id: str) -> Batch:
        return _batch(self._database.execute(f"SELECT {COLUMNS} FROM batches WHERE id = ?", (batch_id,)).fetchone())


def checked(lines: Iterable[Line | Fault], models: Sequence[str]) -> Iterator[Line | Fault]:
    """What only this server knows."""
    for count, line in enumerate(lines, start=1):
        if count > MOST_REQUESTS:
            yield Fault(Code.TOO_MANY, f"the input file has more than {MOST_REQUESTS} requests; split it")
            return
        if isinstance(line, Line) and line.body["model"] not in models:
            known = ", ".join(map(repr, models))
            message = f"body.model: {line.body['model']!r} is not served here; this server serves {known}"
            yield Fault(Code.UNKNOWN_MODEL, message, line.number, "body.model")
        else:
            yield line


def _batch(row: tuple[Any, ...]) -> Batch:
    batch_id, tenant, endpoint, input_file_id, metadata, created_at, expires_at, state, entered, faults, *rest = row
    return Batch(
        batch_id,
        Order(tenant, endpoint, input_file_id, json.loads(metadata)),
        created_at,
        expires_at,
        State(state),
        json.loads(entered),
        tuple(json.loads(faults)),
        *rest,
    )
