"""What a request says of its caller outside its body: who asks, and how long the answer is of use.

Both doors read the same names: HTTP headers and gRPC metadata are lower case here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from headrace_server.came_with import came_with
from headrace_server.embedding import EmbedAsk
from headrace_server.errors import InvalidRequest, PermissionDenied, Unauthenticated
from headrace_server.rpc.ask import Ask
from headrace_server.rpc.identity import IDENTITY, LONGEST_TENANT

TENANT = "x-headrace-tenant"
# Envoy tells the server behind it how long it will wait, in milliseconds; Gateway API implementations build on it, and
# a client may send it just as well. The OpenAI SDK's `x-stainless-timeout` is no deadline: it limits the silence
# between two bytes, and when it passes the SDK hangs up, which ends the request here too.
EXPECTED_TIMEOUT = "x-envoy-expected-rq-timeout-ms"
MOST_DIGITS = 15  # of its value: 31,000 years, and no more than a float holds

Asked = TypeVar("Asked", Ask, EmbedAsk)


@dataclass(frozen=True, slots=True)
class Caller:
    tenant: str  # whose limits hold and whose turn it is; "" = nobody said, or nobody who is believed
    cache_scope: str = ""  # caches are shared within it only; "" = within the whole tenant


@dataclass(frozen=True, slots=True)
class Callers:
    trust_tenant_header: bool  # True only behind a gateway that authenticates, and sets or removes the header
    authenticates: bool = False  # True: whoever has no identity is refused, also by a door without a gate

    def tenant(self, headers: Mapping[str, str]) -> str:
        """Raises InvalidRequest, Unauthenticated, PermissionDenied."""
        return self.caller(headers).tenant

    def caller(self, headers: Mapping[str, str]) -> Caller:
        """Likewise."""
        identity = IDENTITY.get()
        if self.authenticates and identity is None:
            raise Unauthenticated("this server needs an API key or a client certificate, and the request came without")
        if identity is None and not self.trust_tenant_header:
            return Caller("")
        said = headers.get(TENANT, "")
        if len(said) > LONGEST_TENANT or not said.isprintable():
            raise InvalidRequest(TENANT, f"must be at most {LONGEST_TENANT} printable characters")
        return Caller(said) if identity is None or self.trust_tenant_header else _narrowed(identity.tenant, said)

    def complete(self, ask: Asked, headers: Mapping[str, str], time_remaining: float | None = None) -> Asked:
        """With tenant and timeout; the earliest of several deadlines holds. `time_remaining`: gRPC's own, in seconds.

        Raises InvalidRequest, Unauthenticated, PermissionDenied.
        """
        timeouts = [seconds for seconds in (ask.timeout, _expected(headers), time_remaining) if seconds is not None]
        caller = self.caller(headers)
        return replace(
            ask,
            tenant=caller.tenant,
            cache_scope=caller.cache_scope,
            timeout=min(timeouts, default=None),
            came_with=came_with(headers),
        )


def _narrowed(tenant: str, said: str) -> Caller:
    if said in ("", tenant):
        return Caller(tenant)
    if said.startswith(f"{tenant}/"):
        return Caller(tenant, said.removeprefix(f"{tenant}/"))
    raise PermissionDenied(
        f"{TENANT}: is {said!r}, and the caller is {tenant!r}; leave it out, or name a part of it as {tenant}/NAME"
    )


def _expected(headers: Mapping[str, str]) -> float | None:
    word = headers.get(EXPECTED_TIMEOUT)
    if word is None:
        return None
    if not (word.isascii() and word.isdigit() and len(word) <= MOST_DIGITS):
        raise InvalidRequest(EXPECTED_TIMEOUT, f"is {word[:40]!r}; must be whole milliseconds")
    return int(word) / 1000 or None  # 0: Envoy has no limit
