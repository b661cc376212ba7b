"""One step in the making: chunks, and the pages that they need."""

from headrace_server.engine.pages import PageLedger
from headrace_server.engine.prefix import PrefixCache
from headrace_server.engine.sequence import Chunk, Grant, Guess, Guesser, Scoring, Sequence, Start, Step
from headrace_server.engine.speculation import NO_ROOM, GuessRoom
from headrace_server.request import Priority


class Plan:
    def __init__(self, pages: PageLedger, cache: PrefixCache | None, guesses: GuessRoom = NO_ROOM) -> None:
        self._pages = pages
        self._cache = cache
        self._guesses = guesses
        self._guess_room = guesses.tokens
        self.starts: list[Start] = []
        self.sequences: list[Sequence] = []  # in the order of the chunks
        self.chunks: list[Chunk] = []
        self._grants: list[Grant] = []
        self.known_tokens = 0  # of all chunks that fill in
        self.prompt_tokens = 0  # of them, those computed for the first time
        self.decoding = 0  # chunks that fill in nothing
        self.guessed = 0  # tokens of theirs that are guesses
        self.tokens = dict.fromkeys(Priority, 0)  # of all chunks

    @property
    def total(self) -> int:
        return self.decoding + self.guessed + self.known_tokens

    def step(self) -> Step:
        """Those who decode come first, in whatever order they were added."""
        if self.known_tokens:
            pairs = sorted(zip(self.chunks, self.sequences, strict=True), key=lambda pair: bool(pair[0].token_ids))
            self.chunks, self.sequences = [chunk for chunk, _ in pairs], [sequence for _, sequence in pairs]
        return Step(tuple(self.starts), tuple(self._grants), tuple(self.chunks), self._guesses.each)

    def pages_missing(self, sequence: Sequence, tokens: int) -> int:
        """Pages that it has to get before so many more tokens can be computed."""
        return max(0, self._pages.pages_for(sequence.planned + tokens) - len(sequence.pages))

    def has_room(self, sequence: Sequence) -> bool:
        return self.pages_missing(sequence, 1) <= self._pages.available

    def has_room_for(self, decoding: list[Sequence]) -> bool:
        """One token each. A page lasts for many tokens, so few of them need one."""
        available = self._pages.available
        if len(decoding) <= available:
            return True
        return sum(bool(self.pages_missing(sequence, 1)) for sequence in decoding) <= available

    def guess_at_most(self, tokens: int) -> None:
        """From now on: prompts have had their share of the step."""
        self._guess_room = min(self._guess_room, self.guessed + tokens)

    def decode(self, sequence: Sequence) -> None:
        self.decoding += 1
        guess = None if sequence.guesser is None else self._guess(sequence, sequence.guesser)
        if guess is None:
            self._feed(sequence)
        else:
            self._add(sequence, (), 1 + guess.count, guess)
            self.guessed += guess.count

    def start(self, start: Start, sequence: Sequence) -> None:
        """With the pages of all that it has to fill in: half a prompt without the pages of its rest helps nobody."""
        self.starts.append(start)
        sequence.draft_read = sequence.planned  # with what is found of the one model comes the other's
        for index, page in enumerate(sequence.pages):  # found in the prefix cache
            self._grants.append(Grant(start.slot, index, page))
        self._grant(sequence, self.pages_missing(sequence, sequence.fill_left))

    def fill(self, sequence: Sequence, room: int) -> None:
        """As many of its known tokens as there is room for; none when there is none."""
        tokens = min(sequence.fill_left, room)
        if tokens > 0:
            self._add(sequence, sequence.fill[sequence.planned : sequence.planned + tokens], tokens)
            self.known_tokens += tokens
            sequence.draft_read = sequence.planned

    def _feed(self, sequence: Sequence) -> None:
        """Its last token, and nothing else: what `_add` does of that. Most steps consist of hundreds of these."""
        assert sequence.slot is not None
        start, size = sequence.planned, self._pages.page_size
        if start >= len(sequence.pages) * size:
            self._grant(sequence, 1)
        sequence.planned = start + 1
        self.tokens[sequence.request.priority] += 1
        if sequence.chain is not None and start + 1 >= (sequence.chain.pages + 1) * size:
            self._register(sequence)
        self.sequences.append(sequence)
        mask = None if sequence.guide is None else sequence.guide.mask
        self.chunks.append(Chunk(sequence.slot, start, (), True, mask, adapter=sequence.request.adapter))

    def _guess(self, sequence: Sequence, guesser: Guesser) -> Guess | None:
        most = min(self._guesses.each, self._guess_room - self.guessed, sequence.most_guesses)
        if self._pages.available - self.pages_missing(sequence, 1 + most) < self._guesses.pages_kept:
            most = min(most, len(sequence.pages) * self._pages.page_size - sequence.planned - 1)
        return guesser.guess(sequence, most) if most > 0 else None

    def _add(self, sequence: Sequence, token_ids: tuple[int, ...], tokens: int, guess: Guess | None = None) -> None:
        assert sequence.slot is not None
        start = sequence.planned
        if start + tokens > len(sequence.pages) * self._pages.page_size:  # seldom: one page lasts for many tokens
            self._grant(sequence, self.pages_missing(sequence, tokens))
        sequence.planned += tokens
        self.tokens[sequence.request.priority] += tokens
        self._count_prompt(sequence)
        self._register(sequence)
        self.sequences.append(sequence)
        samples = not sequence.fill_left
        mask = sequence.guide.mask if samples and sequence.guide is not None else None
        scoring, adapter = _scoring(sequence, start), sequence.request.adapter
        self.chunks.append(Chunk(sequence.slot, start, token_ids, samples, mask, scoring, guess, adapter))

    def _count_prompt(self, sequence: Sequence) -> None:
        new = min(len(sequence.request.prompt), sequence.planned) - sequence.prompt_seen
        if new > 0:
            sequence.prompt_seen += new
            sequence.prompt_computed += new
            self.prompt_tokens += new

    def _register(self, sequence: Sequence) -> None:
        """Full pages may be found from the next step on: the device computes this one first."""
        if self._cache is None or sequence.chain is None:
            return
        size = self._pages.page_size
        full = min(sequence.planned, sequence.known) // size
        if full <= sequence.chain.pages:
            return
        for index in range(sequence.chain.pages, full):
            page_tokens = sequence.tokens(index * size, (index + 1) * size)
            sequence.chain = self._cache.insert(sequence.chain, page_tokens, sequence.pages[index])
            if sequence.chain.ended:
                sequence.chain = None
                return

    def _grant(self, sequence: Sequence, count: int) -> None:
        assert sequence.slot is not None
        if not count:  # nearly always: one page lasts for many tokens
            return
        for page in self._pages.take(count):
            self._grants.append(Grant(sequence.slot, len(sequence.pages), page))
            sequence.pages.append(page)


def _scoring(sequence: Sequence, start: int) -> Scoring | None:
    """Of what a chunk brings from `start` on, as far as it has not been told before a preemption."""
    request = sequence.request
    if request.prompt_logprobs is None or start >= len(request.prompt) - 1:
        return None
    return Scoring(request.prompt[start + 1 : sequence.planned + 1], request.prompt_logprobs)
