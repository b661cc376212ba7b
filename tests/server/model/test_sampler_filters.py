"""Each setting against a plain reference in numpy, in batches of rows that want different things."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
from headrace_server.model.sampler import uniform
from headrace_server.model.sampling_state import SamplingState
from headrace_server.request import Sampling
from hypothesis import assume, given
from hypothesis import strategies as st
from numpy.typing import NDArray

VOCAB = 24
SLOTS = 4
EDGE = 1e-4  # where float32 and float64 may disagree
STOP_TOKENS = (1, 4)

TOKENS = st.integers(0, VOCAB - 1)
SAMPLINGS = st.builds(
    Sampling,
    temperature=st.sampled_from([0.0, 0.3, 1.0, 2.0]),
    top_k=st.sampled_from([0, 1, 2, 5, VOCAB, 100]),
    top_p=st.sampled_from([0.05, 0.33, 0.8, 1.0]),
    seed=st.integers(-(2**63), 2**63 - 1),
    min_p=st.sampled_from([0.0, 0.11, 0.7, 1.0]),
    repetition_penalty=st.sampled_from([0.5, 1.0, 1.3]),
    presence_penalty=st.sampled_from([-2.0, 0.0, 0.7]),
    frequency_penalty=st.sampled_from([-0.4, 0.0, 1.1]),
    logit_bias=st.dictionaries(TOKENS, st.sampled_from([-100.0, -1.5, 3.25, 100.0]), max_size=3).map(
        lambda biases: tuple(biases.items())
    ),
    min_tokens=st.integers(0, 6),
    logprobs=st.sampled_from([None, 0, 3]),
)


@dataclass(frozen=True, slots=True)
class Row:
    logits: NDArray[np.float64]
    prompt: tuple[int, ...]
    answer: tuple[int, ...]
    sampling: Sampling


ROW = st.builds(
    Row,
    # 120 different values in 24 places: equal ones are common, as in a model of bfloat16
    logits=st.lists(st.integers(-60, 60), min_size=VOCAB, max_size=VOCAB).map(lambda eighths: np.array(eighths) / 8),
    prompt=st.lists(TOKENS, min_size=1, max_size=3).map(tuple),
    answer=st.lists(TOKENS, max_size=5).map(tuple),
    sampling=SAMPLINGS,
)
ROWS = st.dictionaries(st.integers(0, SLOTS - 1), ROW, min_size=1)  # by slot


def a_state() -> SamplingState:
    return SamplingState(SLOTS, VOCAB, torch.device("cpu"))


def start(state: SamplingState, slot: int, row: Row) -> None:
    state.start(slot, row.prompt + row.answer, len(row.prompt), row.sampling, STOP_TOKENS)


def choose(state: SamplingState, rows: Mapping[int, Row]) -> list[int]:
    """`rows` by slot; they are started."""
    slots = list(rows)
    logits = torch.tensor(np.stack([row.logits for row in rows.values()]), dtype=torch.float32)
    positions = torch.tensor([len(row.prompt) + len(row.answer) for row in rows.values()])
    return state.choose(logits, torch.tensor(slots), state.features(slots), positions).ids.tolist()


def moved(row: Row) -> NDArray[np.float64]:
    logits, wants = row.logits.copy(), row.sampling
    for token, bias in wants.logit_bias:
        logits[token] += bias
    if len(row.answer) < wants.min_tokens:
        logits[list(STOP_TOKENS)] = -np.inf
    for token in {*row.prompt, *row.answer}:
        logits[token] *= 1 / wants.repetition_penalty if logits[token] > 0 else wants.repetition_penalty
    for token in row.answer:
        logits[token] -= wants.frequency_penalty
    for token in set(row.answer):
        logits[token] -= wants.presence_penalty
    return logits


def softmax(logits: NDArray[np.float64]) -> NDArray[np.float64]:
    powers = np.exp(logits - logits.max())
    shares: NDArray[np.float64] = powers / powers.sum()
    return shares


def kept(scaled: NDArray[np.float64], wants: Sampling) -> NDArray[np.bool_]:
    """Equal logits stay or go together."""
    best = np.sort(scaled)[::-1]
    if wants.top_k:
        best = best[: wants.top_k]
    reached = np.cumsum(softmax(best))
    assume(all(abs(reached - wants.top_p) > EDGE) or wants.top_p == 1)
    if wants.top_p < 1:
        best = best[: 1 + np.count_nonzero(reached < wants.top_p)]
    distance = scaled - scaled.max() - np.log(max(wants.min_p, 1e-300))
    assume(all(abs(distance) > EDGE) or wants.min_p == 1)
    stays: NDArray[np.bool_] = (scaled >= best[-1]) & ((distance >= 0) | (wants.min_p == 0))
    return stays


def expected(row: Row) -> int:
    logits, wants = moved(row), row.sampling
    if wants.temperature == 0:
        best = np.flatnonzero(logits > logits.max() - EDGE)
        assume(len(best) == 1)
        return int(best[0])
    scaled = logits / wants.temperature
    assume(not any(0 < abs(a - b) < EDGE for a in scaled for b in scaled if np.isfinite(a) and np.isfinite(b)))
    reached = np.cumsum(softmax(np.where(kept(scaled, wants), scaled, -np.inf)))
    assert wants.seed is not None
    u = uniform(torch.tensor([wants.seed]), torch.tensor([len(row.prompt) + len(row.answer)])).item()
    assume(all(abs(reached - u) > EDGE))
    return int(np.searchsorted(reached, u, side="right"))


@given(st.lists(ROWS, min_size=1, max_size=3))
def test_every_row_gets_what_the_reference_gives_it_whoever_had_its_slot_before(batches: list[dict[int, Row]]) -> None:
    state = a_state()
    for rows in batches:
        for slot, row in rows.items():
            start(state, slot, row)
        assert choose(state, rows) == [expected(row) for row in rows.values()]


@given(ROWS, st.integers(1, 4))
def test_what_was_chosen_counts_for_the_next_choice_also_after_a_preemption(rows: dict[int, Row], steps: int) -> None:
    state = a_state()
    for slot, row in rows.items():
        start(state, slot, row)
    for _ in range(steps):
        chosen = choose(state, rows)
        assert chosen == [expected(row) for row in rows.values()]
        rows = {
            slot: replace(row, answer=(*row.answer, token))
            for (slot, row), token in zip(rows.items(), chosen, strict=True)
        }
    again = a_state()
    for slot, row in rows.items():
        start(again, slot, row)
    assert choose(again, rows) == choose(state, rows)
