"""What the batch store promises, on a real SQLite file: one result each, turns, and no crash loop over one request."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from headrace_server.rpc.batches.database import Database
from headrace_server.rpc.batches.ledger import Ledger
from headrace_server.rpc.batches.lines import Code, answered
from headrace_server.rpc.batches.moves import Move, next_move
from headrace_server.rpc.batches.requests import MOST_ATTEMPTS
from headrace_server.rpc.batches.shelf import Shelf
from headrace_server.rpc.batches.values import WINDOW, Batch, File, Order, Page, Purpose, Row, State
from hypothesis import given, settings
from hypothesis import strategies as st

NOW = 1_800_000_000
BATCH = Batch(
    id="batch_1",
    order=Order("", "/v1/completions", "file-1", None),
    created_at=NOW,
    expires_at=NOW + WINDOW,
    state=State.IN_PROGRESS,
    entered={},
    faults=(),
    total=3,
    completed=0,
    failed=0,
    output_file_id=None,
    error_file_id=None,
)
IN_TIME, TOO_LATE = NOW + WINDOW - 1, NOW + WINDOW


@pytest.mark.parametrize(
    ("state", "done", "now", "move"),
    [
        pytest.param(State.VALIDATING, 0, IN_TIME, Move.VALIDATE, id="new"),
        pytest.param(State.VALIDATING, 0, TOO_LATE, Move.EXPIRE, id="never looked at"),
        pytest.param(State.IN_PROGRESS, 2, IN_TIME, Move.NONE, id="running"),
        pytest.param(State.IN_PROGRESS, 3, IN_TIME, Move.FINALIZE, id="answered"),
        pytest.param(State.IN_PROGRESS, 2, TOO_LATE, Move.EXPIRE, id="too late"),
        pytest.param(State.IN_PROGRESS, 3, TOO_LATE, Move.FINALIZE, id="answered at the last moment"),
        pytest.param(State.FINALIZING, 3, TOO_LATE, Move.FINALIZE, id="killed while finalizing"),
        pytest.param(State.CANCELLING, 2, IN_TIME, Move.CANCEL, id="told to stop"),
        pytest.param(State.CANCELLING, 3, IN_TIME, Move.FINALIZE, id="stopped"),
        *(
            pytest.param(state, 3, TOO_LATE, Move.NONE, id=f"{state} is final")
            for state in (State.COMPLETED, State.CANCELLED, State.EXPIRED, State.FAILED)
        ),
    ],
)
def test_the_next_move(state: State, done: int, now: int, move: Move) -> None:
    assert next_move(replace(BATCH, state=state, completed=done), now) is move


@contextmanager
def opened(directory: Path) -> Iterator[Ledger]:
    """As a process does that starts; leaving the block is a kill: nothing is tidied up."""
    database = Database(directory)
    try:
        yield Ledger(database, Shelf(database, directory / "files"))
    finally:
        database.close()


def a_batch(ledger: Ledger, requests: int, tenant: str = "") -> Batch:
    """In progress, with the requests r1, r2, ..."""
    shelf = ledger._shelf
    body = {"model": "tiny", "prompt": "In"}
    lines = [
        json.dumps({"custom_id": f"r{number}", "method": "POST", "url": "/v1/completions", "body": body})
        for number in range(1, requests + 1)
    ]
    written = shelf.write(lines)
    assert written is not None
    path, size = written
    shelf.add(File(path.name, tenant, Purpose.INPUT, "in.jsonl", size, NOW))
    batch = ledger.create(Order(tenant, "/v1/completions", path.name, None), NOW)
    ledger.validate(batch, ("tiny",), NOW)
    return now_of(ledger, batch)


def now_of(ledger: Ledger, batch: Batch) -> Batch:
    found = ledger.find(batch.order.tenant, batch.id)
    assert found is not None
    return found


def taken(ledger: Ledger) -> Row:
    row = ledger.requests.take()
    assert row is not None
    return row


def answer(ledger: Ledger, row: Row) -> None:
    ledger.requests.record(row, answered(row.custom_id, 200, "cmpl-1", {}), is_ok=True)


def test_tenants_take_turns_and_so_do_the_batches_of_each(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        first, second = a_batch(ledger, 50, "a"), a_batch(ledger, 50, "a")
        other = a_batch(ledger, 50, "b")
        order = [taken(ledger).batch_id for _ in range(40)]
    assert Counter(order) == {first.id: 10, second.id: 10, other.id: 20}
    assert set(order[:4]) == {first.id, second.id, other.id}


def test_what_is_given_back_is_next_again_and_counts_as_not_begun(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        a_batch(ledger, 1)
        for _ in range(MOST_ATTEMPTS + 1):
            row = taken(ledger)
            assert ledger.requests.take() is None
            ledger.requests.give_back(row)


def test_who_ran_when_the_server_ended_runs_alone_afterwards(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        a_batch(ledger, 4)
        suspects = {taken(ledger).custom_id, taken(ledger).custom_id}
    with opened(tmp_path) as ledger:
        fresh = [taken(ledger), taken(ledger)]
        assert suspects.isdisjoint(row.custom_id for row in fresh)
        assert ledger.requests.take() is None  # until those are done
        for row in fresh:
            answer(ledger, row)
        alone = taken(ledger)
        assert alone.custom_id in suspects
        assert ledger.requests.take() is None
        answer(ledger, alone)
        assert taken(ledger).custom_id in suspects - {alone.custom_id}


def test_a_request_that_always_ends_the_server_gets_a_result_and_its_neighbours_get_theirs(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        batch = a_batch(ledger, 6)
    starts = 0
    while True:
        starts += 1
        assert starts < 20
        with opened(tmp_path) as ledger:
            if now_of(ledger, batch).is_answered:
                break
            running = [row for _ in range(3) if (row := ledger.requests.take()) is not None]
            while running:
                if any(row.custom_id == "r2" for row in running):
                    break  # the server ends, and all that ran with it
                answer(ledger, running.pop())
                running += [row for row in [ledger.requests.take()] if row is not None]
    with opened(tmp_path) as ledger:
        found = now_of(ledger, batch)
        ledger.finalize(found, NOW)
        final = now_of(ledger, batch)
        assert final.error_file_id is not None
        error = json.loads(ledger._shelf.path(final.error_file_id).read_text())
    assert (final.state, final.completed, final.failed) == (State.COMPLETED, 5, 1)
    assert (error["custom_id"], error["error"]["code"]) == ("r2", Code.SERVER_FAILED)


@settings(deadline=None, max_examples=40)  # each one waits for the disk, often
@given(data=st.data())
def test_killed_between_any_two_commits_every_request_has_one_result(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    directory = tmp_path_factory.mktemp("store")
    requests = data.draw(st.integers(1, 6))
    with opened(directory) as ledger:
        batch = a_batch(ledger, requests)
    for _ in range(3):
        with opened(directory) as ledger:
            running: list[Row] = []
            for step in data.draw(st.lists(st.sampled_from(["take", "answer", "give back"]), max_size=8)):
                if step == "take" and (row := ledger.requests.take()) is not None:
                    running.append(row)
                elif step == "answer" and running:
                    answer(ledger, running.pop())
                elif step == "give back" and running:
                    ledger.requests.give_back(running.pop())
            counts = now_of(ledger, batch)
        with opened(directory) as ledger:
            assert now_of(ledger, batch) == counts
    with opened(directory) as ledger:
        while (row := ledger.requests.take()) is not None:
            answer(ledger, row)
        ledger.finalize(now_of(ledger, batch), NOW)
        final = now_of(ledger, batch)
        assert final.output_file_id is not None
        output = ledger._shelf.path(final.output_file_id).read_text().splitlines()
    assert [json.loads(line)["custom_id"] for line in output] == [f"r{number}" for number in range(1, requests + 1)]
    assert (final.state, final.total, final.completed) == (State.COMPLETED, requests, requests)


def test_killed_while_finalizing_it_finalizes_again_and_leaves_no_stray_file(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        batch = a_batch(ledger, 2)
        for _ in range(2):
            answer(ledger, taken(ledger))
        ledger._shelf.write(ledger.requests.results(batch.id, is_ok=True))  # the file is out, the commit is not
    with opened(tmp_path) as ledger:
        ledger.finalize(now_of(ledger, batch), NOW)
        known = {file.id for file in ledger._shelf.page("", None, Page(10))}
    assert {path.name for path in (tmp_path / "files").iterdir()} == known
    assert len(known) == 2


def test_a_second_result_changes_nothing(tmp_path: Path) -> None:
    with opened(tmp_path) as ledger:
        batch = a_batch(ledger, 2)
        row = taken(ledger)
        answer(ledger, row)
        ledger.requests.record(row, answered(row.custom_id, 500, "", {}), is_ok=False)
        found = now_of(ledger, batch)
        [line] = ledger.requests.results(batch.id, is_ok=True)
    assert (found.completed, found.failed) == (1, 0)
    assert json.loads(line)["response"]["status_code"] == 200


def test_a_store_of_another_release_is_refused_by_name(tmp_path: Path) -> None:
    Database(tmp_path).close()
    database = Database(tmp_path)
    database.execute("PRAGMA user_version = 99")
    database.close()
    with pytest.raises(OSError, match="tables of version 99, this server knows 1; name another directory"):
        Database(tmp_path)


def test_a_file_that_is_no_database_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "batches.sqlite").write_text("In the beginning " * 100)
    with pytest.raises(OSError, match=r"batches\.sqlite cannot be used: file is not a database"):
        Database(tmp_path)


def test_a_path_that_is_no_directory_is_refused_by_name(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(OSError, match=r"--batch-store=.*file: File exists; name a directory that the server may write"):
        Database(tmp_path / "file")
