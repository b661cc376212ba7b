"""A Step as numbers that travel to the device in one piece, and the ring of two in which they travel.

One is written while the device still reads the other; a third is never needed, because a step is launched only when the
one before the last has been waited for.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from headrace_server.engine.sequence import READ_AT_ONCE, Chunk, Guess, Step

Ints = npt.NDArray[np.int32]
KNOWN_THERE = -1  # instead of a token id in a step with guesses: the device has it


@dataclass(frozen=True, slots=True)
class Fill:
    """A chunk of known tokens: part of a prompt, or of what a preemption undid."""

    row: int  # its first one in the packed step
    tokens: int
    slot: int
    start: int  # position of its first token

    @property
    def rows(self) -> slice:
        return slice(self.row, self.row + self.tokens)

    @property
    def end(self) -> int:
        """The position after its last token."""
        return self.start + self.tokens


@dataclass(frozen=True, slots=True)
class Scored:
    """Rows of a prompt whose next tokens' logprobs are wanted."""

    row: int  # the first one in the packed step
    tokens: int
    top: int  # how many of the likeliest beside each


@dataclass(frozen=True, slots=True)
class Drafting:
    """What the draft model does in a step."""

    reads: int  # rows that it reads before the first guess: of each sequence those that it has not read yet
    counts: tuple[int, ...]  # of those that are guessed for, the most first: how many tokens
    guessed_rows: tuple[int, ...]  # of the packed step, in its order: what is fed there is a guess

    @property
    def numbers(self) -> int:
        return 2 * self.reads + len(self.counts)


@dataclass(frozen=True, slots=True)
class Layout:
    """Where what is in the numbers: known to the host without asking the device."""

    grants: int
    tokens: int  # rows of the packed step: decode first, one each, and one for each guess
    decoding: int  # of them, the rows of those who decode
    sampled: int
    masked: int  # of those sampled, the ones that a mask is for
    mask_words: int  # int32 of one mask; 0 without any
    scored: tuple[Scored, ...]
    longest: int  # tokens that the longest decoding sequence reads, its own included
    fills: tuple[Fill, ...]
    sampling_slots: tuple[int, ...]
    guesses: bool = False  # some of the rows that decode feed tokens that the host brings
    drafting: Drafting | None = None
    adapted: tuple[tuple[str, tuple[int, ...]], ...] = ()  # adapters, and which rows of the packed step are theirs

    @property
    def numbers(self) -> int:
        targets = sum(scored.tokens for scored in self.scored)
        masks = self.masked * (1 + self.mask_words)
        drafting = self.drafting.numbers if self.drafting is not None else 0
        return 3 * self.grants + 3 * self.tokens + self.sampled + self.bounds + targets + masks + drafting

    @property
    def bounds(self) -> int:
        return len(self.fills) + 1 if self.fills else 0


@dataclass(frozen=True, slots=True)
class Described:
    """A step on the device, all int32."""

    layout: Layout
    grants: Tensor  # (3, grants): slot, index, page
    rows: Tensor  # (3, tokens): slot, position, token id (where the device knows it 0, or KNOWN_THERE)
    sampled_rows: Tensor  # (sampled)
    fill_bounds: Tensor  # (fills + 1): where each begins among the rows after those that decode, and the last one's end
    targets: Tensor  # token ids of all scored rows, one after the other
    masked_rows: Tensor  # (masked), of those sampled
    masks: Tensor  # (masked, mask words), one bit a token, the lowest first
    draft_rows: Tensor  # (2, reads): slot, position
    draft_ends: Tensor  # (sequences that are guessed for), of the rows read: the last one of each


NO_DRAFTING = Drafting(0, (), ())


class DescriptorRing:
    def __init__(
        self, max_tokens: int, pages_each: int, max_running: int, vocab_size: int, device: torch.device
    ) -> None:
        """Holds steps of so many tokens; in the worst one every slot gets all its pages, fills, and has a mask."""
        mask_words = -(-vocab_size // 32)
        size = 3 * max_running * pages_each + 5 * max_tokens + max_running * (4 + mask_words + 2 * READ_AT_ONCE) + 1
        pinned = device.type == "cuda"
        self._host = [torch.empty(size, dtype=torch.int32, pin_memory=pinned) for _ in range(2)]
        self._device = [torch.empty(size, dtype=torch.int32, device=device) for _ in range(2)] if pinned else self._host
        self._next = 0

    def write(self, step: Step) -> tuple[int, Layout]:
        """Which of the two it is in now. The host's work is a few numbers a chunk, whatever the context."""
        place = self._next
        self._next = 1 - place
        layout = _layout(step)
        _fill_in(self._host[place].numpy()[: layout.numbers], step, layout)
        return place, layout

    def send(self, place: int, layout: Layout) -> None:
        """From pinned memory to the device, on the current stream; nothing to do where they are the same."""
        host, device = self._host[place], self._device[place]
        if host is not device:
            device[: layout.numbers].copy_(host[: layout.numbers], non_blocking=True)

    def read(self, place: int, layout: Layout) -> Described:
        """Views of what was sent; valid until the second next `write`."""
        numbers = self._device[place]
        grants, tokens = 3 * layout.grants, 3 * layout.tokens
        sampled = grants + tokens + layout.sampled
        bounds = sampled + layout.bounds
        scored = bounds + sum(scored.tokens for scored in layout.scored)
        masked = scored + layout.masked
        masks = masked + layout.masked * layout.mask_words
        drafting = layout.drafting or NO_DRAFTING
        reads = masks + 2 * drafting.reads
        return Described(
            layout=layout,
            grants=numbers[:grants].view(3, layout.grants),
            rows=numbers[grants : grants + tokens].view(3, layout.tokens),
            sampled_rows=numbers[grants + tokens : sampled],
            fill_bounds=numbers[sampled:bounds],
            targets=numbers[bounds:scored],
            masked_rows=numbers[scored:masked],
            masks=numbers[masked:masks].view(layout.masked, layout.mask_words),
            draft_rows=numbers[masks:reads].view(2, drafting.reads),
            draft_ends=numbers[reads : layout.numbers],
        )


def decode_layout(rows: int, longest: int) -> Layout:
    """Of a step that is not described: every row decodes, and reads at most `longest` tokens."""
    return Layout(
        grants=0,
        tokens=rows,
        decoding=rows,
        sampled=rows,
        masked=0,
        mask_words=0,
        scored=(),
        longest=longest,
        fills=(),
        sampling_slots=(),
    )


def _layout(step: Step) -> Layout:
    decoding = [chunk for chunk in step.chunks if not chunk.token_ids]
    fills, scored = [], []
    rows = end = sum(chunk.tokens for chunk in decoding)
    for chunk in step.chunks[len(decoding) :]:
        fills.append(Fill(end, chunk.tokens, chunk.slot, chunk.start))
        if chunk.scoring is not None:
            scored.append(Scored(end, len(chunk.scoring.targets), chunk.scoring.top))
        end += chunk.tokens
    slots = tuple(chunk.slot for chunk in step.chunks if chunk.samples)
    longest = max((chunk.start + chunk.tokens for chunk in decoding), default=0)
    masks = [chunk.mask for chunk in step.chunks if chunk.mask is not None]
    return Layout(
        grants=len(step.grants),
        tokens=end,
        decoding=rows,
        guesses=any(chunk.guess is not None and chunk.guess.token_ids for chunk in decoding),
        drafting=_drafting(decoding),
        sampled=step.samples,
        masked=len(masks),
        mask_words=len(masks[0]) if masks else 0,
        scored=tuple(scored),
        longest=longest,
        fills=tuple(fills),
        sampling_slots=slots,
        adapted=_adapted(step),
    )


def _drafting(decoding: list[Chunk]) -> Drafting | None:
    guesses = _drafted(decoding)
    if not guesses:
        return None
    first_rows = accumulate((chunk.tokens for chunk in decoding), initial=0)
    return Drafting(
        reads=sum(guess.reads for _, guess in guesses),
        counts=tuple(guess.count for _, guess in guesses if guess.count),
        guessed_rows=tuple(
            row
            for chunk, first in zip(decoding, first_rows, strict=False)  # the last one is their end
            if chunk.guess is not None and not chunk.guess.token_ids
            for row in range(first + 1, first + chunk.tokens)
        ),
    )


def _drafted(decoding: Sequence[Chunk]) -> list[tuple[Chunk, Guess]]:
    """Those that the draft model guesses for, the most tokens first."""
    found = [(chunk, chunk.guess) for chunk in decoding if chunk.guess is not None and not chunk.guess.token_ids]
    return sorted(found, key=lambda pair: -pair[1].count)


def _fill_in(numbers: Ints, step: Step, layout: Layout) -> None:
    grants, tokens = 3 * layout.grants, 3 * layout.tokens
    if step.grants:
        numbers[:grants] = [
            *(grant.slot for grant in step.grants),
            *(grant.index for grant in step.grants),
            *(grant.page for grant in step.grants),
        ]
    rows = numbers[grants : grants + tokens].reshape(3, layout.tokens)
    count = len(step.chunks) - len(layout.fills)
    _fill_in_decoding(rows[:, : layout.decoding], step.chunks[:count], layout)
    for fill, chunk in zip(layout.fills, step.chunks[count:], strict=True):
        rows[0, fill.rows] = fill.slot
        rows[1, fill.rows] = np.arange(fill.start, fill.end)
        rows[2, fill.rows] = chunk.token_ids
    sampled = grants + tokens + layout.sampled
    numbers[grants + tokens : sampled] = _sampled_rows(step.chunks)
    bounds = sampled + layout.bounds
    if layout.fills:
        ends = (fill.rows.stop for fill in layout.fills)
        numbers[sampled:bounds] = [0, *(end - layout.decoding for end in ends)]
    targets = [target for chunk in step.chunks if chunk.scoring is not None for target in chunk.scoring.targets]
    numbers[bounds : bounds + len(targets)] = targets
    masks = bounds + len(targets)
    drafting = masks + layout.masked * (1 + layout.mask_words)
    if layout.masked:
        _write_masks(numbers[masks:drafting], step, layout.masked)
    if layout.drafting is not None:
        _write_drafting(numbers[drafting : layout.numbers], step.chunks[:count], layout.drafting)


def _fill_in_decoding(rows: Ints, decoding: Sequence[Chunk], layout: Layout) -> None:
    if layout.decoding == len(decoding):  # nearly always: nobody guesses
        rows[0] = [chunk.slot for chunk in decoding]
        rows[1] = [chunk.start for chunk in decoding]
        rows[2] = 0
        return
    rows[0] = [chunk.slot for chunk in decoding for _ in range(chunk.tokens)]
    rows[1] = [chunk.start + ahead for chunk in decoding for ahead in range(chunk.tokens)]
    rows[2] = KNOWN_THERE
    row = 0
    for chunk in decoding:
        if chunk.guess is not None and chunk.guess.token_ids:
            rows[2, row + 1 : row + chunk.tokens] = chunk.guess.token_ids
        row += chunk.tokens


def _write_masks(numbers: Ints, step: Step, masked: int) -> None:
    masks = [(row, chunk.mask) for row, chunk in zip(_first_choices(step), step.chunks, strict=True)]
    numbers[:masked] = [row for row, mask in masks if mask is not None]
    numbers[masked:] = np.concatenate([mask for _, mask in masks if mask is not None])


def _write_drafting(numbers: Ints, decoding: Sequence[Chunk], drafting: Drafting) -> None:
    rows, ends = numbers[: 2 * drafting.reads].reshape(2, -1), []
    row = 0
    for chunk, guess in _drafted(decoding):
        end = row + guess.reads
        rows[0, row:end] = chunk.slot
        rows[1, row:end] = np.arange(chunk.start - guess.unread, chunk.start - guess.unread + guess.reads)
        if guess.count:
            ends.append(end - 1)
        row = end
    numbers[2 * drafting.reads :] = ends


def _first_choices(step: Step) -> Iterator[int]:
    """Of each chunk, among all choices."""
    return accumulate((chunk.choices for chunk in step.chunks[:-1]), initial=0)


def _sampled_rows(chunks: tuple[Chunk, ...]) -> list[int]:
    end = 0
    rows: list[int] = []
    for chunk in chunks:
        end += chunk.tokens
        rows += range(end - chunk.choices, end)
    return rows


def _adapted(step: Step) -> tuple[tuple[str, tuple[int, ...]], ...]:
    found: dict[str, list[int]] = {}
    end = 0
    for chunk in step.chunks:
        begin, end = end, end + chunk.tokens
        if chunk.adapter:
            found.setdefault(chunk.adapter, []).extend(range(begin, end))
    return tuple((name, tuple(rows)) for name, rows in found.items())
