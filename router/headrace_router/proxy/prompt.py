"""The beginning of a request's prompt, from the first bytes of its body: which replica may have it in its cache.

Bodies come as Envoy has them so far, perhaps cut off, and are never refused here: one that cannot be read has no
beginning, and the replica says what is wrong with it.
"""

import json
import re
from hashlib import blake2b

LENGTH = 256  # bytes of the prompt that count: short enough that the next turn of a conversation has them, too
FRAME = 5  # bytes before a gRPC message: compressed or not, and its length
LEN_WIRE_TYPE = 2
TEXT, TOKENS, CHAT = 1, 2, 23  # fields of headrace.v1.GenerateRequest
MOST_FIELDS = 64  # before the prompt; no client writes so many
STREAMED = re.compile(rb'"stream"\s*:\s*true')
JSON_PROMPT = re.compile(rb'"(?:prompt|messages|input)"\s*:\s*')


def affinity(caller: str, beginning: bytes | None) -> bytes | None:
    """A key that only requests of one caller with one beginning share: replicas keep prefixes apart by tenant."""
    if not beginning:
        return None
    return blake2b(beginning, key=caller.encode()[:64], digest_size=16).digest()


def of_json(body: bytes) -> bytes | None:
    found = JSON_PROMPT.search(body)
    return body[found.end() : found.end() + LENGTH] if found else None


def is_streamed(body: bytes) -> bool:
    """Of OpenAI's API; False where the beginning does not say so."""
    return STREAMED.search(body) is not None


def is_whole(body: bytes) -> bool:
    """A JSON document that is there to its end, and asks for one answer in one piece."""
    if is_streamed(body):
        return False
    try:
        return isinstance(json.loads(body), dict)
    except ValueError:
        return False


def length_of_grpc(body: bytes) -> int:
    """Bytes of a gRPC message, whose frame says so."""
    return int.from_bytes(body[1:FRAME], "big") if len(body) >= FRAME else len(body)


def of_grpc(body: bytes) -> bytes | None:
    """Of one GenerateRequest in its frame."""
    if len(body) <= FRAME or body[0]:  # compressed
        return None
    try:
        return _prompt(body[FRAME:])
    except IndexError:  # cut off before the prompt
        return None


def _prompt(message: bytes) -> bytes | None:
    """Walks over protobuf's fields (protobuf.dev/programming-guides/encoding) up to the prompt's."""
    at = 0
    for _ in range(MOST_FIELDS):
        if at >= len(message):
            return None
        tag, at = _varint(message, at)
        field, wire_type = tag >> 3, tag & 7
        if wire_type == LEN_WIRE_TYPE:
            length, at = _varint(message, at)
            if field == TOKENS:  # their ids lie in a field of their own, behind a length that grows with the prompt
                _, at = _varint(message, _varint(message, at)[1])
            if field in (TEXT, TOKENS, CHAT):
                return message[at : at + min(length, LENGTH)]
            at += length
        elif wire_type == 0:
            _, at = _varint(message, at)
        else:
            at += {1: 8, 5: 4}.get(wire_type, len(message))
    return None


def _varint(message: bytes, at: int) -> tuple[int, int]:
    """Value, and where the next thing begins. Raises IndexError for one that is cut off."""
    value = shift = 0
    while True:
        byte = message[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value, at
        shift += 7
