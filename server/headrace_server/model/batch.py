"""A Step as tensors: the tokens of all sequences packed one after the other, decode first."""

from dataclasses import dataclass

import torch
from torch import Tensor

from headrace_server.engine.sequence import Chunk, Step
from headrace_server.model.slots import Slots


@dataclass(frozen=True, slots=True)
class Reading:
    """Sequences that read the cache together: all that decode, or one that fills in its prompt."""

    rows: slice  # their tokens in the packed step
    pages: Tensor  # int64 (sequences, pages each)
    mask: Tensor  # float32, 0 or -inf, broadcastable to (sequences, heads, queries, tokens in those pages)


@dataclass(frozen=True, slots=True)
class Batch:
    """T tokens, of which S are followed by a choice."""

    token_ids: Tensor  # int64 (T)
    positions: Tensor  # int64 (T)
    cache_rows: Tensor  # int64 (T), where each token's key and value go
    decode: Reading | None  # one query each
    prefills: tuple[Reading, ...]  # one sequence each
    sampled_rows: Tensor  # int64 (S), of the packed step
    sampled_slots: Tensor  # int64 (S)
    slots_that_sample: list[int]  # the same on the host


def pack(step: Step, slots: Slots, page_size: int) -> Batch:
    """The host's work is a few numbers per chunk and its prompt tokens; it does not grow with the context."""
    device = slots.pages.device
    token_ids, positions, owners = _packed(step, device)
    ends = _ends(step.chunks)
    samples = [(end - 1, chunk.slot) for end, chunk in zip(ends, step.chunks, strict=True) if chunk.samples]
    sampled = torch.tensor(samples, dtype=torch.int64, device=device).view(-1, 2)
    decoding = sum(not chunk.token_ids for chunk in step.chunks)
    token_ids[:decoding] = slots.last_token[owners[:decoding]]
    pages = slots.pages[owners, positions // page_size]
    return Batch(
        token_ids=token_ids,
        positions=positions,
        cache_rows=pages * page_size + positions % page_size,
        decode=_decode(step.chunks[:decoding], positions, owners, slots, page_size) if decoding else None,
        prefills=tuple(
            _prefill(chunk, slice(end - chunk.tokens, end), positions, slots, page_size)
            for end, chunk in zip(ends[decoding:], step.chunks[decoding:], strict=True)
        ),
        sampled_rows=sampled[:, 0],
        sampled_slots=sampled[:, 1],
        slots_that_sample=[slot for _, slot in samples],
    )


def _packed(step: Step, device: torch.device) -> Tensor:
    """int64 (3, T): token id (0 for decode: the device knows it), position, slot. One transfer."""
    token_ids: list[int] = []
    positions: list[int] = []
    owners: list[int] = []
    for chunk in step.chunks:
        token_ids.extend(chunk.token_ids or (0,))
        positions.extend(range(chunk.start, chunk.start + chunk.tokens))
        owners.extend([chunk.slot] * chunk.tokens)
    return torch.tensor((token_ids, positions, owners), dtype=torch.int64, device=device)


def _ends(chunks: tuple[Chunk, ...]) -> list[int]:
    end, ends = 0, []
    for chunk in chunks:
        end += chunk.tokens
        ends.append(end)
    return ends


def _decode(chunks: tuple[Chunk, ...], positions: Tensor, owners: Tensor, slots: Slots, page_size: int) -> Reading:
    """Padded to the longest; the padding is masked."""
    rows = slice(0, len(chunks))
    each = _pages_read(max(chunk.start for chunk in chunks), page_size)
    mask = _mask(positions[rows], each * page_size)
    return Reading(rows, slots.pages[owners[rows], :each], mask[:, None, None, :])


def _prefill(chunk: Chunk, rows: slice, positions: Tensor, slots: Slots, page_size: int) -> Reading:
    each = _pages_read(chunk.start + chunk.tokens - 1, page_size)
    mask = _mask(positions[rows], each * page_size)
    return Reading(rows, slots.pages[chunk.slot : chunk.slot + 1, :each], mask[None, None, :, :])


def _mask(positions: Tensor, keys: int) -> Tensor:
    """float32 (queries, keys): a token sees itself and what is before it. Made once a step, not once a layer."""
    future = torch.arange(keys, device=positions.device) > positions.unsqueeze(1)
    return torch.zeros(future.shape, device=positions.device).masked_fill_(future, float("-inf"))


def _pages_read(last_position: int, page_size: int) -> int:
    return last_position // page_size + 1
