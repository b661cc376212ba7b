"""API keys as their file has them: one line a key, and of the key only its hash, so that the file opens no door.

    TENANT sha256:HEX [EXPIRES]        # several lines of one tenant are several keys; EXPIRES is 2027-01-31T12:00:00Z

A plain hash does for keys that `headrace key new` made: nobody guesses 256 random bits, so nothing has to be slow.
"""

import hmac
import re
import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import blake2b, sha256

from headrace_server.errors import ModelRefused, Unauthenticated
from headrace_server.rpc.identity import Identity, check_tenant

PREFIX = "hr-"  # by it a secret scanner knows a key that was committed somewhere
DIGEST = re.compile(r"sha256:([0-9a-f]{64})")


@dataclass(frozen=True, slots=True)
class Entry:
    tenant: str
    digest: bytes  # SHA-256 of the key
    expires: float | None = None  # seconds since 1970; None = never


class Keys:
    def __init__(self, entries: Sequence[Entry]) -> None:
        # Found by a hash that only this process can compute, so that the time of a look-up says nothing of any key.
        self._salt = secrets.token_bytes(32)
        self._entries = {self._place(entry.digest): entry for entry in entries}

    def __len__(self) -> int:
        return len(self._entries)

    def identity(self, key: str, now: float) -> Identity:
        """`now`: seconds since 1970. Raises Unauthenticated."""
        digest = sha256(key.encode(errors="surrogateescape")).digest()
        entry = self._entries.get(self._place(digest))
        if entry is None or not hmac.compare_digest(entry.digest, digest):
            raise Unauthenticated("the API key is not known here; check that it was copied whole, or ask for a new one")
        if entry.expires is not None and now >= entry.expires:
            raise Unauthenticated(f"the API key expired on {_written(entry.expires)}; ask for a new one")
        return Identity(entry.tenant)

    def _place(self, digest: bytes) -> bytes:
        return blake2b(digest, key=self._salt, digest_size=16).digest()


def new_key() -> str:
    return PREFIX + secrets.token_urlsafe(32)


def line(tenant: str, key: str, expires: datetime | None = None) -> str:
    """What the file needs for the key. Raises ModelRefused for a name that no tenant can have."""
    _check_name(tenant, "--tenant")
    words = [tenant, f"sha256:{sha256(key.encode()).hexdigest()}"]
    return " ".join(words if expires is None else [*words, _written(expires.timestamp())])


def parse(text: str, source: str) -> Keys:
    """Raises ModelRefused naming the line; also for a file without keys, as a file that is being written may be."""
    numbered = ((number, words.partition("#")[0].split()) for number, words in enumerate(text.splitlines(), start=1))
    entries = [_entry(words, f"{source} line {number}") for number, words in numbered if words]
    if not entries:
        raise ModelRefused(f"{source}: holds no key; `headrace key new --tenant NAME` makes one")
    if len({entry.digest for entry in entries}) < len(entries):
        raise ModelRefused(f"{source}: has the same key twice; a key is of one tenant, and stands once")
    return Keys(entries)


def _entry(words: list[str], where: str) -> Entry:
    match words:
        case [tenant, digest, *rest] if len(rest) <= 1:
            _check_name(tenant, where)
            found = DIGEST.fullmatch(digest)
            if found is None:
                raise ModelRefused(f"{where}: the second word must be sha256: and 64 hex digits, never the key itself")
            return Entry(tenant, bytes.fromhex(found[1]), expiry(rest[0], where).timestamp() if rest else None)
        case _:
            raise ModelRefused(f"{where}: must be TENANT sha256:HEX [EXPIRES], as `headrace key new` prints it")


def _check_name(tenant: str, where: str) -> None:
    if trouble := check_tenant(tenant) or ("holds a space or a #" if re.search(r"[\s#]", tenant) else None):
        raise ModelRefused(f"{where}: the tenant's name {trouble}")


def expiry(word: str, where: str) -> datetime:
    """Of a date the first moment; in UTC where nothing else is said. Raises ModelRefused."""
    try:
        at = datetime.fromisoformat(word)
    except ValueError as error:
        raise ModelRefused(f"{where}: {word!r} is no date; write 2027-01-31 or 2027-01-31T12:00:00Z") from error
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _written(at: float) -> str:
    return datetime.fromtimestamp(at, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
