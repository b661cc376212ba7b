"""What one tenant may still ask for: requests inside, and tokens a second. Pure; O(1) a request."""

from collections import OrderedDict
from dataclasses import dataclass

from headrace_server.errors import Overloaded, Refusal
from headrace_server.tenants import Tenants

BURST_SECONDS = 10.0  # of its rate that a tenant may have saved up
AGAIN = 1.0  # seconds after which one with too many requests inside is asked to come back
RECENT = 60.0  # seconds in which a tenant that asked is thought to come again
REMEMBERED = 4096  # tenants; one that is forgotten has nothing inside, and its savings back


@dataclass(slots=True)
class Use:
    inside: int = 0
    tokens: float = 0.0  # saved up; below 0: owed, and to be waited for
    at: float = 0.0  # when `tokens` was true


class Allowances:
    def __init__(self, tenants: Tenants) -> None:
        self._tenants = tenants
        self._uses: dict[str, Use] = {}  # the one that came last is the last
        self._inside = 0  # requests, of all tenants
        self._recent: OrderedDict[str, float] = OrderedDict()  # who asked lately, and when; the latest is the last
        self._weight = 0.0  # of them all

    def check(self, tenant: str, now: float) -> None:
        """Raises Overloaded when the tenant has to wait, whoever else is there."""
        limits, use = self._tenants.of(tenant), self._uses.get(tenant)
        if use is None:
            return
        if limits.max_concurrent is not None and use.inside >= limits.max_concurrent:
            raise Overloaded(
                f"this tenant has {use.inside} requests inside already, as many as it may", AGAIN, Refusal.TENANT_LIMIT
            )
        if limits.tokens_per_second is not None:
            tokens = _saved(use, limits.tokens_per_second, now)
            if tokens < 0:
                raise Overloaded(
                    f"this tenant has used up its {limits.tokens_per_second:g} tokens a second",
                    -tokens / limits.tokens_per_second,
                    Refusal.TENANT_LIMIT,
                )

    def asked(self, tenant: str, now: float) -> None:
        """Whether or not it is let in."""
        if tenant not in self._recent:
            self._weight += self._tenants.of(tenant).weight
        self._recent[tenant] = now
        self._recent.move_to_end(tenant)
        while len(self._recent) > REMEMBERED or now - next(iter(self._recent.values())) > RECENT:
            gone, _ = self._recent.popitem(last=False)
            self._weight -= self._tenants.of(gone).weight

    def has_more_than_its_share(self, tenant: str) -> bool:
        """Of what is inside, by weight, among those who asked lately."""
        use = self._uses.get(tenant)
        return use is not None and use.inside * self._weight > self._inside * self._tenants.of(tenant).weight

    def admitted(self, tenant: str, tokens: int, now: float) -> None:
        """A request that may cost so many tokens. The last one may cost more than is left, else none could be large."""
        use = self._uses.pop(tenant, None)
        rate = self._tenants.of(tenant).tokens_per_second or 0.0
        if use is None:
            use = Use(tokens=BURST_SECONDS * rate, at=now)
        use.tokens, use.at = _saved(use, rate, now) - tokens, now
        self._inside += 1
        use.inside += 1
        self._uses[tenant] = use
        self._forget()

    def ended(self, tenant: str, unused: int) -> None:
        """`unused`: tokens of what it might have cost."""
        use = self._uses[tenant]
        use.inside -= 1
        self._inside -= 1
        use.tokens += unused

    def _forget(self) -> None:
        if len(self._uses) <= REMEMBERED:
            return
        idle = next((tenant for tenant, use in self._uses.items() if not use.inside), None)
        if idle is not None:
            del self._uses[idle]


def _saved(use: Use, rate: float, now: float) -> float:
    return min(BURST_SECONDS * rate, use.tokens + rate * max(0.0, now - use.at))
