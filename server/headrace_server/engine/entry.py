"""How a waiting request gets its place: whether its pages are there, and what the prefix cache has of it already."""

from headrace_server.engine.pages import PageLedger
from headrace_server.engine.prefix import PrefixCache
from headrace_server.engine.sequence import Sequence, Start


class Entry:
    def __init__(self, pages: PageLedger, cache: PrefixCache | None) -> None:
        self._pages = pages
        self._cache = cache

    def pages_short(self, sequence: Sequence) -> int:
        """Pages that have to become available before it can begin: all that it has to fill in, and a token to decode,
        else it is back at once."""
        needed = self._pages.pages_for(sequence.known + 1)
        if needed <= self._pages.free:
            return 0
        if self._cache is None or sequence.request.prompt_logprobs is not None:
            return max(0, needed - self._pages.available)
        if sequence.prefix is None:
            _hash_again(sequence, self._cache)
        assert sequence.prefix is not None
        found = self._cache.found(sequence.prefix)
        return max(0, needed - found.pages - (self._pages.available - found.cached))

    def enter(self, sequence: Sequence, slot: int, now: float) -> Start:
        request = sequence.request
        sequence.slot, sequence.fill = slot, (*request.prompt, *sequence.answer)
        self._match(sequence)
        first_time = sequence.queue_wait is None
        if sequence.queue_wait is None:
            sequence.queue_wait = max(0.0, now - request.arrived_at)
        return Start(
            slot=slot,
            tokens=sequence.fill,
            prompt_tokens=len(request.prompt),
            sampling=request.sampling,
            stop_token_ids=request.stop_token_ids,
            queue_wait=sequence.queue_wait if first_time else None,
            priority=request.priority,
            tenant=request.tenant,
        )

    def _match(self, sequence: Sequence) -> None:
        if self._cache is None:
            return
        if sequence.request.prompt_logprobs is not None:
            sequence.chain = self._cache.match(
                self._cache.prefix(sequence.request.cache_owner, sequence.fill[:1])
            ).chain
            return
        if sequence.prefix is None:
            _hash_again(sequence, self._cache)
        assert sequence.prefix is not None
        match = self._cache.match(sequence.prefix)
        sequence.chain, sequence.pages = match.chain, [*match.pages]
        sequence.planned = len(match.pages) * self._pages.page_size
        sequence.prompt_seen = max(sequence.prompt_seen, min(len(sequence.request.prompt), sequence.planned))


def _hash_again(sequence: Sequence, cache: PrefixCache) -> None:
    """After a preemption: it begins with its answer so far, too."""
    tokens = (*sequence.request.prompt, *sequence.answer)
    sequence.prefix = cache.prefix(sequence.request.cache_owner, tokens)
