"""`headrace batch run`: a file of requests becomes a file of results, one each.

Killed at any moment and started again, it goes on where it was: what is in the results is not sent again.
"""

import argparse
import asyncio
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from headrace_server.client.connection import PLAIN, Connection, add_credential_options, connection_from
from headrace_server.client.offline import GaveUp, OfflineServer
from headrace_server.client.progress import Progress
from headrace_server.client.result_file import NotResults, ResultFile
from headrace_server.rpc.batches.lines import Fault, Line, read_lines

SHOWN_FAULTS = 20
UNUSABLE = 2  # exit status: one of the files
UNFINISHED = 1  # exit status: results are missing, or say that a request failed


class UnusableInput(Exception):
    """Says each line, its field and the remedy."""


@dataclass(frozen=True, slots=True)
class Job:
    source: Path
    results: Path
    server: str  # HOST:PORT or URL
    concurrency: int  # requests open at once
    attempt_timeout: float  # seconds one attempt may take
    patience: float  # seconds without any answer until the run ends
    connection: Connection = PLAIN


@dataclass(frozen=True, slots=True)
class Input:
    """What all lines together say."""

    line_of: Mapping[str, int]  # custom_id -> line
    first_line_of_model: Mapping[str, int]


def register(parser: argparse.ArgumentParser) -> None:
    """Run a file of requests offline, in OpenAI's batch format."""
    run_parser = parser.add_subparsers(required=True, metavar="run").add_parser(
        "run", help="send each line of a file, write a result for each", description=__doc__
    )
    add = run_parser.add_argument
    add("source", type=Path, metavar="IN.jsonl", help='lines {"custom_id", "method": "POST", "url", "body"}')
    add("results", type=Path, metavar="OUT.jsonl", help="one line a result; an unfinished file is completed")
    add("--server", required=True, metavar="HOST:PORT", help="HTTP address, or a URL")
    add("--concurrency", type=_positive, default=32, help="requests open at once (default %(default)s)")
    add("--timeout", type=float, default=3600.0, help="seconds one attempt may take (default %(default)s)")
    add("--patience", type=float, default=600.0, help="give up after so many seconds without any answer")
    add_credential_options(run_parser)
    run_parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """0: every request is answered with HTTP 200. 1: not all. 2: one of the files cannot be used."""
    job = Job(
        options.source,
        options.results,
        options.server,
        options.concurrency,
        options.timeout,
        options.patience,
        connection_from(options),
    )
    try:
        given = check_input(job.source)
        with ResultFile(job.results) as results:
            asyncio.run(run_job(job, given, results))
            return _conclude(results)
    except (UnusableInput, NotResults, OSError) as unusable:
        sys.stderr.write(f"headrace: {unusable}\n")
        return UNUSABLE
    except (GaveUp, KeyboardInterrupt) as stopped:
        reason = "interrupted" if isinstance(stopped, KeyboardInterrupt) else str(stopped)
        sys.stderr.write(f"headrace: {reason}; the same command goes on where this one stopped\n")
        return UNFINISHED


async def run_job(job: Job, given: Input, results: ResultFile) -> None:
    """Returns when every line has its result. Raises UnusableInput or NotResults before anything is sent, or GaveUp."""
    _check_results(job, given, results)
    progress = Progress(len(given.line_of), len(results.statuses), time.monotonic)
    server = OfflineServer(
        job.server,
        attempt_timeout=job.attempt_timeout,
        patience=job.patience,
        on_pause=progress.pause,
        connection=job.connection,
    )
    try:
        _check_models(job.source, given, await server.models())
        await _send_all(job, server, results, progress)
    finally:
        progress.close()
        await server.close()


def check_input(source: Path) -> Input:
    """Raises UnusableInput with every fault, up to SHOWN_FAULTS."""
    line_of: dict[str, int] = {}
    models: dict[str, int] = {}
    faults: list[Fault] = []
    with source.open("rb") as file:
        for line in read_lines(file):
            if isinstance(line, Fault):
                faults.append(line)
            else:
                line_of[line.custom_id] = line.number
                models.setdefault(line.body["model"], line.number)
    if faults:
        more = [f"and {len(faults) - SHOWN_FAULTS} more"] if len(faults) > SHOWN_FAULTS else []
        raise UnusableInput("\n".join([f"{source}: cannot run", *map(str, faults[:SHOWN_FAULTS]), *more]))
    if not line_of:
        raise UnusableInput(f"{source}: is empty; write one request a line")
    return Input(line_of, models)


def _check_results(job: Job, given: Input, results: ResultFile) -> None:
    for custom_id in results.statuses:
        if custom_id not in given.line_of:
            raise NotResults(
                f"{job.results}: holds a result of {custom_id!r}, for which {job.source} does not ask; name another"
            )


def _check_models(source: Path, given: Input, served: frozenset[str]) -> None:
    for model, number in given.first_line_of_model.items():
        if model not in served:
            names = ", ".join(sorted(served))
            raise UnusableInput(f"{source}: line {number}: body.model: {model!r} is not served there; it has {names}")


async def _send_all(job: Job, server: OfflineServer, results: ResultFile, progress: Progress) -> None:
    writing = asyncio.Lock()
    lines = _unanswered(job.source, frozenset(results.statuses))

    async def work() -> None:
        for line in lines:
            result = await server.result(line)
            async with writing:
                await asyncio.to_thread(results.append, result)
            progress.one()

    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(job.concurrency):
                group.create_task(work())
    except* (GaveUp, UnusableInput, OSError) as several:  # one says enough: the others were cancelled, or say the same
        raise several.exceptions[0] from None


def _unanswered(source: Path, answered: frozenset[str]) -> Iterator[Line]:
    with source.open("rb") as file:
        for line in read_lines(file):
            if isinstance(line, Fault):
                raise UnusableInput(f"{source}: was changed while it ran: {line}")
            if line.custom_id not in answered:
                yield line


def _conclude(results: ResultFile) -> int:
    failed = Counter(status for status in results.statuses.values() if status != 200)
    sys.stderr.write(f"headrace: {len(results.statuses)} results, {failed.total()} of them failed\n")
    for status, count in failed.items():
        name = "no answer" if status is None else f"HTTP {status}"
        sys.stderr.write(f"headrace:   {count} x {name}\n")
    return UNFINISHED if failed else 0


def _positive(word: str) -> int:
    value = int(word)
    if value < 1:
        raise argparse.ArgumentTypeError(f"is {word}; must be at least 1")
    return value
