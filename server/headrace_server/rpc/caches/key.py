"""What tells two requests apart: every field that could change the answer, and whose answer it is, as 256 bits.

A field that a later version adds counts from its first day: what does not count is named, not what does.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import fields, is_dataclass
from enum import Enum
from hashlib import sha256
from typing import Any

from headrace_server.embedding import EmbedAsk, Input
from headrace_server.rpc.ask import Ask

# When the answer is wanted and how it is traced changes nothing in it.
OF_THE_MOMENT = frozenset({"timeout", "priority", "came_with"})


def key_of(ask: Ask) -> bytes:
    """Raises TypeError for a value that has no form of its own to compare."""
    return _digest(ask, OF_THE_MOMENT)


def input_key(ask: EmbedAsk, one: Input) -> bytes:
    """Of one of its inputs. Likewise."""
    return sha256(_digest(ask, OF_THE_MOMENT | {"inputs"}) + b"".join(_written(one))).digest()


def _digest(ask: Ask | EmbedAsk, left_out: frozenset[str]) -> bytes:
    digest = sha256()
    for field in fields(ask):
        if field.name not in left_out:
            for part in (*_written(field.name), *_written(getattr(ask, field.name))):
                digest.update(part)
    return digest.digest()


def _written(value: Any) -> Iterator[bytes]:
    """Every value says its kind and its length, so that no two of them are written alike."""
    match value:
        case tuple() | list():
            yield b"l%d:" % len(value)
            for one in value:
                yield from _written(one)
        case Mapping():
            yield b"m%d:" % len(value)
            for name in sorted(value):
                yield from _written(name)
                yield from _written(value[name])
        case _ if is_dataclass(value):
            yield from _block(b"d", type(value).__name__.encode())
            for field in fields(value):
                yield from _written(getattr(value, field.name))
        case _:
            yield from _written_alone(value)


def _written_alone(value: Any) -> Iterator[bytes]:
    match value:
        case None | bool() | Enum():
            return _block(b"w", repr(value).encode())
        case int():
            return _block(b"i", str(value).encode())
        case float():
            return _block(b"f", struct.pack("<d", value))
        case str():
            return _block(b"s", value.encode(errors="surrogatepass"))
        case _:
            raise TypeError(f"{type(value).__name__} has no form to be compared by")


def _block(kind: bytes, content: bytes) -> Iterator[bytes]:
    yield kind + b"%d:" % len(content)
    yield content
