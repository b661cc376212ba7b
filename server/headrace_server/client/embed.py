"""`headrace embed`: texts to vectors, from any OpenAI server, or from a Headrace server over one gRPC stream.

Texts come from the command line, from lines of standard input, or from the field `text` of the lines of a JSONL file.
Each vector becomes a line of JSON, in the order of the texts; --npy writes them all as one array.
"""

import argparse
import asyncio
import json
import sys
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Iterator
from contextlib import aclosing
from itertools import count, islice
from pathlib import Path
from typing import Any

import aiohttp
import grpc
import numpy as np
from numpy.typing import NDArray

from headrace_server.client import failures
from headrace_server.client.connection import (
    Connection,
    add_connection_options,
    base_url,
    connection_from,
    first_model,
)
from headrace_server.rpc.pb import inference_pb2 as pb
from headrace_server.rpc.pb import inference_pb2_grpc

Line = dict[str, Any]  # with `text`; what else a JSONL file says of it is kept
Vectors = NDArray[np.float32]


class Refused(Exception):
    """Says which texts or which line, and why."""


def register(parser: argparse.ArgumentParser) -> None:
    """Turn texts into vectors."""
    add = parser.add_argument
    add("texts", nargs="*", metavar="TEXT", help="default: each line of standard input")
    add_connection_options(parser, default_target="127.0.0.1:50051")
    add("--jsonl", type=Path, metavar="FILE", help='lines {"text": ..., anything else}, instead of TEXT')
    add("--model", help="of an OpenAI API (default: the first that it lists)")
    add("--dimensions", type=int, help="the first so many numbers of each vector")
    add("--truncate", action="store_true", help="cut texts that are too long, instead of refusing them (gRPC)")
    add("--batch", type=int, default=32, help="texts in one request (default %(default)s)")
    add("--npy", type=Path, metavar="FILE", help="write one float32 array there, and no lines")
    add("--timeout", type=float, default=3600.0, help="seconds for all of them (default %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """0; 1 when a text was refused or no server answered, with all that came before it written."""
    connection = connection_from(options)
    try:
        rows = asyncio.run(_embed(options, connection))
    except Refused as refused:
        sys.stderr.write(f"headrace: {refused}\n")
        return 1
    except grpc.aio.AioRpcError as error:
        sys.stderr.write(f"headrace: {failures.words(error)}\n")
        return 1
    except (aiohttp.ClientError, TimeoutError) as error:
        sys.stderr.write(f"headrace: {type(error).__name__}: {error}\n")
        return 1
    if options.npy is not None:
        np.save(options.npy, np.concatenate(rows) if rows else np.zeros((0, 0), np.float32))
    return 0


async def _embed(options: argparse.Namespace, connection: Connection) -> list[Vectors]:
    """Writes each line as its vector comes, or returns them for one array."""
    batches = _batches(_lines(options), options.batch)
    answers = _over_http(options, connection, batches) if options.http else _over_grpc(options, connection, batches)
    rows: list[Vectors] = []
    async with aclosing(answers):
        async for lines, vectors in answers:
            if options.npy is not None:
                rows.append(vectors)
                continue
            for line, vector in zip(lines, vectors, strict=True):
                sys.stdout.write(json.dumps(line | {"embedding": vector.tolist()}, ensure_ascii=False) + "\n")
            sys.stdout.flush()
    return rows


def _lines(options: argparse.Namespace) -> Iterator[Line]:
    """Raises Refused."""
    if options.jsonl is not None:
        with options.jsonl.open(encoding="utf-8") as file:
            for number, raw in enumerate(file, start=1):
                yield _line(f"{options.jsonl}: line {number}", raw)
    elif options.texts:
        yield from ({"text": text} for text in options.texts)
    else:
        yield from ({"text": text} for raw in sys.stdin if (text := raw.strip()))


def _line(where: str, raw: str) -> Line:
    try:
        found = json.loads(raw)
    except ValueError as broken:
        raise Refused(f"{where}: is not JSON: {broken}") from broken
    if not isinstance(found, dict) or not isinstance(found.get("text"), str):
        raise Refused(f"{where}: has no `text`")
    return found


def _batches(lines: Iterable[Line], size: int) -> Iterator[list[Line]]:
    source = iter(lines)
    while batch := list(islice(source, max(1, size))):
        yield batch


async def _over_grpc(
    options: argparse.Namespace, connection: Connection, batches: Iterator[list[Line]]
) -> AsyncGenerator[tuple[list[Line], Vectors], None]:
    """The server reads as far ahead as it works: so does this."""
    sent: dict[str, list[Line]] = {}
    unreadable: list[Refused] = []  # gRPC would cancel the call for an error in here, and lose what it says

    async def requests() -> AsyncIterator[pb.EmbedStreamRequest]:
        for number in count():
            try:
                batch = await asyncio.to_thread(next, batches, None)  # standard input may be slow
            except Refused as refused:
                unreadable.append(refused)
                return
            if batch is None:
                return
            sent[str(number)] = batch
            request = pb.EmbedRequest(
                inputs=[pb.EmbedInput(text=line["text"]) for line in batch],
                dimensions=options.dimensions,
                truncate=options.truncate,
            )
            yield pb.EmbedStreamRequest(id=str(number), request=request)

    async with connection.channel(options.target) as channel:
        stub = inference_pb2_grpc.InferenceStub(channel)
        call = stub.EmbedStream(requests(), timeout=options.timeout, metadata=connection.metadata)
        try:
            async for reply in call:
                lines = sent.pop(reply.id)
                if reply.HasField("refused"):
                    raise Refused(f"{_shown(lines)}: {reply.refused.message}")
                yield lines, np.frombuffer(reply.reply.vectors, "<f4").reshape(len(lines), -1)
        finally:
            call.cancel()
    if unreadable:
        raise unreadable[0]


async def _over_http(
    options: argparse.Namespace, connection: Connection, batches: Iterator[list[Line]]
) -> AsyncGenerator[tuple[list[Line], Vectors], None]:
    base = base_url(options.http)
    async with connection.session(timeout=options.timeout) as session:
        model = options.model or await first_model(session, base)
        more = {} if options.dimensions is None else {"dimensions": options.dimensions}
        for lines in batches:
            body = {"model": model, "input": [line["text"] for line in lines], "encoding_format": "float"} | more
            async with session.post(f"{base}/v1/embeddings", json=body) as response:
                if response.status != 200:
                    raise Refused(f"{_shown(lines)}: HTTP {response.status}: {(await response.text())[:300]}")
                found = (await response.json())["data"]
            yield lines, np.array([one["embedding"] for one in found], np.float32)


def _shown(lines: list[Line]) -> str:
    first = lines[0]["text"]
    return f"{len(lines)} texts from {first[:40]!r} on"
