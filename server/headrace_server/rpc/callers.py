"""What a request says of its caller outside its body: who asks, and how long the answer is of use.

Both doors read the same names: HTTP headers and gRPC metadata are lower case here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import TypeVar

from headrace_server.embedding import EmbedAsk
from headrace_server.errors import InvalidRequest
from headrace_server.rpc.ask import Ask

TENANT = "x-headrace-tenant"
LONGEST_TENANT = 128  # characters
# Envoy tells the server behind it how long it will wait, in milliseconds; Gateway API implementations build on it, and
# a client may send it just as well. The OpenAI SDK's `x-stainless-timeout` is no deadline: it limits the silence
# between two bytes, and when it passes the SDK hangs up, which ends the request here too.
EXPECTED_TIMEOUT = "x-envoy-expected-rq-timeout-ms"

Asked = TypeVar("Asked", Ask, EmbedAsk)


@dataclass(frozen=True, slots=True)
class Callers:
    trust_tenant_header: bool  # True only behind a gateway that authenticates, and sets or removes the header

    def tenant(self, headers: Mapping[str, str]) -> str:
        """ "" when nobody said, or nobody who is believed. Raises InvalidRequest."""
        name = headers.get(TENANT, "") if self.trust_tenant_header else ""
        if len(name) > LONGEST_TENANT or not name.isprintable():
            raise InvalidRequest(TENANT, f"must be at most {LONGEST_TENANT} printable characters")
        return name

    def complete(self, ask: Asked, headers: Mapping[str, str], time_remaining: float | None = None) -> Asked:
        """With tenant and timeout; the earliest of several deadlines holds. `time_remaining`: gRPC's own, in seconds.

        Raises InvalidRequest.
        """
        timeouts = [seconds for seconds in (ask.timeout, _expected(headers), time_remaining) if seconds is not None]
        return replace(ask, tenant=self.tenant(headers), timeout=min(timeouts, default=None))


def _expected(headers: Mapping[str, str]) -> float | None:
    word = headers.get(EXPECTED_TIMEOUT)
    if word is None:
        return None
    if not word.isascii() or not word.isdigit():
        raise InvalidRequest(EXPECTED_TIMEOUT, f"is {word!r}; must be whole milliseconds")
    return int(word) / 1000 or None  # 0: Envoy has no limit
