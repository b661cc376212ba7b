"""A file comes in: multipart, straight to disk, and only counted as there when all of it is."""

import asyncio
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from aiohttp import BodyPartReader, web

from headrace_server.errors import InvalidRequest
from headrace_server.rpc.batches.shelf import sync
from headrace_server.rpc.batches.values import Purpose

CHUNK = 256 * 2**10  # bytes in memory at once


@dataclass(frozen=True, slots=True)
class Upload:
    path: Path
    filename: str
    size: int  # bytes


async def receive(request: web.Request, path: Path, largest: int) -> Upload:
    """The file is on disk when this returns, and gone when it raises: InvalidRequest, or HTTPRequestEntityTooLarge."""
    if request.content_type != "multipart/form-data":
        raise InvalidRequest("body", f"is {request.content_type}; send multipart/form-data with `purpose` and `file`")
    with _whole_or_gone(path):
        try:
            return await _receive(request, path, largest)
        except ValueError as broken:  # aiohttp's, for a form that ends early or makes no sense
            raise InvalidRequest("body", f"is no whole form: {broken}") from broken


@contextmanager
def _whole_or_gone(path: Path) -> Iterator[None]:
    try:
        yield
    except BaseException:
        path.unlink(missing_ok=True)
        raise


async def _receive(request: web.Request, path: Path, largest: int) -> Upload:
    upload, purpose = None, None
    form = await request.multipart()
    while (part := await form.next()) is not None:
        if not isinstance(part, BodyPartReader):
            raise InvalidRequest("body", "has a form within the form; send `purpose` and `file`")
        match part.name:
            case "purpose":
                purpose = await part.text()
            case "file" if upload is None:
                upload = Upload(path, part.filename or "file.jsonl", await _write(part, path, largest))
            case other:
                raise InvalidRequest(str(other), "is not served here; send `purpose` and one `file`")
    if purpose != Purpose.INPUT:
        raise InvalidRequest("purpose", f"is {purpose!r}; must be {Purpose.INPUT.value!r}")
    if upload is None:
        raise InvalidRequest("file", "is missing; send a JSONL file")
    return upload


async def _write(part: BodyPartReader, path: Path, largest: int) -> int:
    size = 0
    with path.open("xb") as file:
        while chunk := await part.read_chunk(CHUNK):
            size += len(chunk)
            if size > largest:
                raise web.HTTPRequestEntityTooLarge(
                    largest, size, text=f"file: is larger than {largest} bytes; split it, or see --batch-file-mib"
                )
            await asyncio.to_thread(file.write, chunk)
        await asyncio.to_thread(file.flush)
        await asyncio.to_thread(sync, file.fileno())
    return size
