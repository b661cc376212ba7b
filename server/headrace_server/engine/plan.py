"""One step in the making: chunks, and the pages that they need."""

from headrace_server.engine.pages import PageLedger
from headrace_server.engine.sequence import Chunk, Grant, Sequence, Start, Step


class Plan:
    def __init__(self, pages: PageLedger) -> None:
        self._pages = pages
        self.starts: list[Start] = []
        self.sequences: list[Sequence] = []  # in the order of the chunks
        self.chunks: list[Chunk] = []
        self._grants: list[Grant] = []
        self.prompt_tokens = 0  # computed for the first time

    def step(self) -> Step:
        return Step(tuple(self.starts), tuple(self._grants), tuple(self.chunks))

    def pages_missing(self, sequence: Sequence, tokens: int) -> int:
        """Pages that it has to get before so many more tokens can be computed."""
        return max(0, self._pages.pages_for(sequence.planned + tokens) - len(sequence.pages))

    def has_room(self, sequence: Sequence) -> bool:
        return self.pages_missing(sequence, 1) <= self._pages.free

    def decode(self, sequence: Sequence) -> None:
        self._add(sequence, (), 1)

    def start(self, start: Start, sequence: Sequence) -> None:
        """With the pages of all that it has to fill in: half a prompt without the pages of its rest helps nobody."""
        self.starts.append(start)
        self._grant(sequence, self.pages_missing(sequence, len(sequence.fill)))

    def fill(self, sequence: Sequence, budget: int) -> int:
        """As many of its known tokens as the budget allows; returns how many."""
        tokens = max(0, min(sequence.fill_left, budget))
        if tokens:
            self._add(sequence, sequence.fill[sequence.planned : sequence.planned + tokens], tokens)
        return tokens

    def _add(self, sequence: Sequence, token_ids: tuple[int, ...], tokens: int) -> None:
        assert sequence.slot is not None
        self._grant(sequence, self.pages_missing(sequence, tokens))
        start = sequence.planned
        sequence.planned += tokens
        new = min(len(sequence.request.prompt), sequence.planned) - sequence.prompt_computed
        if new > 0:
            sequence.prompt_computed += new
            self.prompt_tokens += new
        self.sequences.append(sequence)
        samples = not sequence.fill_left
        mask = sequence.guide.mask if samples and sequence.guide is not None else None
        self.chunks.append(Chunk(sequence.slot, start, token_ids, samples, mask))

    def _grant(self, sequence: Sequence, count: int) -> None:
        assert sequence.slot is not None
        for page in self._pages.take(count):
            self._grants.append(Grant(sequence.slot, len(sequence.pages), page))
            sequence.pages.append(page)
