"""The settings of running requests on the device: what a step costs, and what it reports."""

import numpy as np
import pytest
import torch
from headrace_server.model.logprobs import logprobs
from headrace_server.model.sampling_settings import GREEDY, Features
from headrace_server.model.sampling_state import SamplingState
from headrace_server.request import MOST_BIASES, MOST_LOGPROBS, MOST_STOP_TOKENS, Sampling

VOCAB = 50
EVERYTHING = Sampling(
    temperature=0.7,
    top_k=9,
    top_p=0.9,
    seed=3,
    min_p=0.1,
    repetition_penalty=1.2,
    presence_penalty=0.5,
    frequency_penalty=0.5,
    logit_bias=((7, 2.0),),
    min_tokens=4,
    logprobs=3,
)
LOGITS = torch.from_numpy(np.random.default_rng(0).normal(size=(3, VOCAB)).astype(np.float32))


def a_state(*samplings: Sampling, device: str = "cpu") -> SamplingState:
    state = SamplingState(len(samplings), VOCAB, torch.device(device))
    for slot, sampling in enumerate(samplings):
        state.start(slot, (1, 2, 3), 3, sampling, {5})
    return state


@pytest.mark.parametrize(
    ("samplings", "expected"),
    [
        pytest.param([Sampling()], GREEDY, id="greedy"),
        pytest.param([Sampling(top_k=3, top_p=0.5, min_p=0.2)], GREEDY, id="filters cannot change a greedy choice"),
        pytest.param([Sampling(temperature=1.0)], Features(random=True), id="drawing alone sorts nothing"),
        pytest.param(
            [Sampling(temperature=1.0, top_k=50, top_p=0.9), Sampling(temperature=1.0, top_k=5)],
            Features(random=True, most_ranked=64),
            id="a top-k spares the sort of the whole vocabulary",
        ),
        pytest.param(
            [Sampling(temperature=1.0, top_k=5), Sampling(temperature=1.0, top_p=0.9)],
            Features(random=True, most_ranked=8, all_ranked=True),
            id="a top-p without one does not",
        ),
        pytest.param(
            [Sampling(logprobs=0), Sampling(logprobs=5)], Features(most_logprobs=5), id="the most logprobs of any"
        ),
        pytest.param([Sampling(min_tokens=1)], Features(min_tokens=True), id="min_tokens"),
        pytest.param([Sampling(logit_bias=((1, 1.0),))], Features(biases=True), id="a bias"),
        pytest.param([Sampling(presence_penalty=-1.0)], Features(penalties=True), id="a penalty"),
        pytest.param([], GREEDY, id="a step that samples for nobody"),
    ],
)
def test_a_step_pays_for_what_its_rows_use(samplings: list[Sampling], expected: Features) -> None:
    assert a_state(*samplings).features(range(len(samplings))) == expected


def test_a_request_that_left_its_slot_costs_the_next_one_nothing() -> None:
    state = a_state(EVERYTHING)
    state.start(0, (1,), 1, Sampling())
    assert state.features([0]) == GREEDY


def test_nothing_waits_for_the_device() -> None:
    """Tensors on `meta` have no values: whatever asks for one (item, nonzero, a branch) fails."""
    state = a_state(EVERYTHING, Sampling(), Sampling(temperature=1.0, top_p=0.5), device="meta")
    rows, positions = torch.arange(3, device="meta"), torch.full((3,), 4, device="meta")
    chosen = state.choose(LOGITS.to("meta"), rows, state.features(range(3)), positions)
    assert chosen.ids.shape == (3,)


def test_logprobs_are_the_models_own_whatever_the_settings() -> None:
    state = a_state(EVERYTHING, Sampling(), Sampling(temperature=2.0, logprobs=1))
    chosen = state.choose(LOGITS, torch.arange(3), state.features(range(3)), torch.full((3,), 4))
    every = LOGITS.log_softmax(dim=-1)
    found = chosen.logprobs
    assert found is not None
    torch.testing.assert_close(found.chosen, every.gather(1, chosen.ids.unsqueeze(1)).squeeze(1))
    torch.testing.assert_close(found.top, every.sort(dim=-1, descending=True).values[:, :3])
    torch.testing.assert_close(every.gather(1, found.top_ids), found.top)


def test_logprobs_of_a_prompt_are_of_the_tokens_that_follow() -> None:
    found = logprobs(LOGITS, torch.tensor([4, 0, 49]), 0)
    torch.testing.assert_close(found.chosen, LOGITS.log_softmax(dim=-1)[torch.arange(3), torch.tensor([4, 0, 49])])
    assert found.top.shape == (3, 0)


def test_more_logprobs_than_the_vocabulary_has_are_all_of_them() -> None:
    assert logprobs(LOGITS, torch.tensor([4, 0, 49]), VOCAB + 1).top.shape == (3, VOCAB)


def test_who_comes_first_of_equally_likely_ones_does_not_depend_on_how_many_are_wanted() -> None:
    """In bfloat16 many are equal, and a step finds as many as the neighbour who wants the most."""
    logits = torch.from_numpy(np.random.default_rng(1).integers(0, 9, size=(1, 320))).float()
    found = [logprobs(logits, torch.tensor([4]), wanted).top_ids[0].tolist() for wanted in range(1, MOST_LOGPROBS + 1)]
    assert found == [found[-1][:wanted] for wanted in range(1, MOST_LOGPROBS + 1)]


def test_the_chosen_token_is_what_the_mask_allows_and_its_logprob_is_as_without() -> None:
    state = a_state(Sampling(logprobs=0))
    one = LOGITS[:1]
    least = int(one.argmin())

    def only_the_least_likely(logits: torch.Tensor) -> torch.Tensor:
        return torch.full_like(logits, float("-inf")).index_fill(1, torch.tensor([least]), 0.0)

    chosen = state.choose(one, torch.tensor([0]), state.features([0]), torch.tensor([3]), only_the_least_likely)
    assert chosen.ids.tolist() == [least]
    assert chosen.logprobs is not None
    assert chosen.logprobs.chosen.item() == pytest.approx(one.log_softmax(dim=-1)[0, least].item())


def test_as_many_biases_and_stop_tokens_as_the_doors_let_in_fit() -> None:
    vocab = MOST_BIASES + 1
    best = vocab - 1
    sampling = Sampling(logit_bias=tuple((token, -100.0) for token in range(MOST_BIASES)), min_tokens=1)
    state = SamplingState(1, vocab, torch.device("cpu"))
    state.start(0, (1,), 1, sampling, range(MOST_STOP_TOKENS))
    logits = torch.zeros(1, vocab)
    assert state.choose(logits, torch.tensor([0]), state.features([0]), torch.tensor([1])).ids.tolist() == [best]
