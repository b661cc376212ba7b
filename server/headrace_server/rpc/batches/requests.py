"""The requests of unfinished batches: who runs next, and the one place that each has for its result."""

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from headrace_server.rpc.batches.database import Database
from headrace_server.rpc.batches.lines import Code, Line, unanswered
from headrace_server.rpc.batches.values import Row, State

# Times that a request is begun before it counts as what ends the server. A request that was running when the server
# ended runs alone afterwards, so that it is not taken for its neighbour.
MOST_ATTEMPTS = 5
SEQ = "(SELECT seq FROM batches WHERE id = ?)"


class Requests:
    """Only `take` and `record` open a transaction; the others belong into one of the caller's."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self._judge_interrupted()

    def add(self, batch_id: str, line: Line) -> None:
        self._database.execute(
            f"INSERT INTO requests (batch, number, custom_id, body) VALUES ({SEQ}, ?, ?, ?)",
            (batch_id, line.number, line.custom_id, json.dumps(line.body)),
        )

    def take(self) -> Row | None:
        """The next request to run, now held; None when there is none, or when it has to wait until others are done."""
        with self._database.transaction():
            held = self._database.execute("SELECT count(*), max(attempts) FROM requests WHERE held = 1").fetchone()
            if held[0] and held[1] > 1:
                return None  # a suspect runs alone
            row = self._next("attempts = 0") or (None if held[0] else self._next("attempts > 0"))
            if row is None:
                return None
            seq, number, custom_id, body, batch_id, tenant, endpoint = row
            self._database.execute(
                "UPDATE requests SET held = 1, attempts = attempts + 1 WHERE batch = ? AND number = ?", (seq, number)
            )
            self._database.execute(
                "UPDATE batches SET turn = (SELECT max(turn) + 1 FROM batches) WHERE seq = ?", (seq,)
            )
        return Row(batch_id, number, custom_id, tenant, endpoint, body)

    def give_back(self, row: Row) -> None:
        """It ended through no fault of its own, such as a drain."""
        self._database.execute(
            f"UPDATE requests SET held = 0, attempts = attempts - 1 WHERE batch = {SEQ} AND number = ?",
            (row.batch_id, row.number),
        )

    def record(self, row: Row, result: Mapping[str, Any], *, is_ok: bool) -> None:
        with self._database.transaction():
            self._settle(row.batch_id, [(row.number, result)], is_ok=is_ok)

    def close(self, batch_id: str, code: Code, message: str) -> None:
        """Every request without a result gets this one."""
        query = f"SELECT number, custom_id FROM requests WHERE result IS NULL AND batch = {SEQ}"
        rows = self._database.execute(query, (batch_id,)).fetchall()
        results = [(number, unanswered(custom_id, code, message)) for number, custom_id in rows]
        self._settle(batch_id, results, is_ok=False)

    def results(self, batch_id: str, *, is_ok: bool) -> Iterator[str]:
        """JSON, in the order of the input."""
        query = f"SELECT result FROM requests WHERE batch = {SEQ} AND is_ok = ? ORDER BY number"
        return (result for (result,) in self._database.execute(query, (batch_id, is_ok)))

    def forget(self, batch_id: str) -> None:
        self._database.execute(f"DELETE FROM requests WHERE batch = {SEQ}", (batch_id,))

    def _next(self, which: str) -> tuple[Any, ...] | None:
        """Tenants take turns, and so do the batches of each."""
        is_open = f"result IS NULL AND held = 0 AND {which}"
        found = self._database.execute(
            "SELECT seq FROM batches b WHERE state = ? "
            f"AND EXISTS (SELECT 1 FROM requests WHERE batch = b.seq AND {is_open}) "
            "ORDER BY (SELECT max(turn) FROM batches o WHERE o.tenant = b.tenant), turn, seq LIMIT 1",
            (State.IN_PROGRESS,),
        ).fetchone()
        if found is None:
            return None
        row: tuple[Any, ...] = self._database.execute(
            "SELECT batch, number, custom_id, body, id, tenant, endpoint FROM requests JOIN batches ON seq = batch "
            f"WHERE batch = ? AND {is_open} ORDER BY attempts, number LIMIT 1",
            found,
        ).fetchone()
        return row

    def _settle(self, batch_id: str, results: Iterable[tuple[int, Mapping[str, Any]]], *, is_ok: bool) -> None:
        settled = self._database.executemany(
            f"UPDATE requests SET result = ?, is_ok = ?, held = 0 WHERE batch = {SEQ} AND number = ? "
            "AND result IS NULL",
            [(json.dumps(result, ensure_ascii=False), is_ok, batch_id, number) for number, result in results],
        ).rowcount
        column = "completed" if is_ok else "failed"
        count = max(0, settled)  # -1 when there were none
        self._database.execute(f"UPDATE batches SET {column} = {column} + ? WHERE id = ?", (count, batch_id))

    def _judge_interrupted(self) -> None:
        """What was running when the last process ended may be what ended it."""
        message = f"the server ended {MOST_ATTEMPTS} times while this request was running"
        with self._database.transaction():
            guilty = self._database.execute(
                "SELECT id, number, custom_id FROM requests JOIN batches ON seq = batch "
                "WHERE held = 1 AND attempts >= ?",
                (MOST_ATTEMPTS,),
            ).fetchall()
            for batch_id, number, custom_id in guilty:
                result = unanswered(custom_id, Code.SERVER_FAILED, message)
                self._settle(batch_id, [(number, result)], is_ok=False)
            self._database.execute("UPDATE requests SET held = 0 WHERE held = 1")
