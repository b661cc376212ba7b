"""Who is drawn, how often, and that nothing but the request itself decides it."""

import math

import pytest
import torch
from checkpoints import write_checkpoint
from headrace_server.engine.sequence import Chunk, Grant, Step
from headrace_server.model.sampler import uniform
from headrace_server.model.sampling_state import SamplingState
from headrace_server.request import Sampling
from models import a_model, asked
from steps import a_start

PROBABILITIES = (0.1, 0.4, 0.05, 0.3, 0.15)
LOGITS = torch.tensor([PROBABILITIES]).log()
DRAWS = 20_000


def drawn(logits: torch.Tensor, *samplings: Sampling, positions: torch.Tensor) -> list[int]:
    """One row of logits a sampling and position; the last sampling is that of all further rows."""
    rows = torch.arange(len(positions)).clamp_max(len(samplings) - 1)
    state = SamplingState(len(samplings), logits.shape[1], torch.device("cpu"))
    for slot, sampling in enumerate(samplings):
        state.start(slot, (0,), 1, sampling)
    features = state.features(range(len(samplings)))
    return state.choose(logits.expand(len(positions), -1), rows, features, positions).ids.tolist()


def frequencies(**settings: float) -> list[float]:
    sampling = Sampling(**({"temperature": 1.0, "seed": 0} | settings))  # type: ignore[arg-type]
    tokens = drawn(LOGITS, sampling, positions=torch.arange(DRAWS))
    return (torch.bincount(torch.tensor(tokens), minlength=len(PROBABILITIES)) / DRAWS).tolist()


def renormalised(*kept: float) -> list[float]:
    return [share / sum(kept) for share in kept]


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        pytest.param({}, PROBABILITIES, id="as the model says"),
        pytest.param({"top_k": 1}, (0, 1, 0, 0, 0), id="top-k 1 is greedy"),
        pytest.param({"top_k": 2}, renormalised(0, 0.4, 0, 0.3, 0), id="top-k 2"),
        pytest.param({"top_k": 99}, PROBABILITIES, id="a top-k above the vocabulary"),
        pytest.param({"top_p": 0.01}, (0, 1, 0, 0, 0), id="a tiny top-p keeps the best"),
        pytest.param({"top_p": 0.71}, renormalised(0, 0.4, 0, 0.3, 0.15), id="top-p keeps the token that crosses it"),
        pytest.param({"top_p": 0.69}, renormalised(0, 0.4, 0, 0.3, 0), id="top-p just reached"),
        pytest.param({"min_p": 0.7}, renormalised(0, 0.4, 0, 0.3, 0), id="min-p is a share of the likeliest"),
        pytest.param({"min_p": 1.0}, (0, 1, 0, 0, 0), id="min-p of all is greedy"),
        pytest.param({"top_k": 3, "top_p": 0.8}, renormalised(0, 0.4, 0, 0.3, 0), id="top-p counts what top-k left"),
        pytest.param({"temperature": 0.5}, renormalised(*(p**2 for p in PROBABILITIES)), id="colder is sharper"),
        pytest.param(
            {"temperature": 2.0}, renormalised(*(math.sqrt(p) for p in PROBABILITIES)), id="hotter is flatter"
        ),
        pytest.param({"temperature": 0.0}, (0, 1, 0, 0, 0), id="temperature 0 is greedy"),
        pytest.param({"temperature": 1e-9}, (0, 1, 0, 0, 0), id="almost 0 is greedy and finite"),
    ],
)
def test_tokens_are_drawn_as_often_as_asked(settings: dict[str, float], expected: list[float]) -> None:
    five_sigma = 5 * math.sqrt(0.25 / DRAWS)
    assert frequencies(**settings) == pytest.approx(expected, abs=five_sigma)


@pytest.mark.parametrize(
    ("seeds", "positions"),
    [
        pytest.param(torch.arange(DRAWS), torch.full((DRAWS,), 5), id="over seeds"),
        pytest.param(torch.full((DRAWS,), 2**63 - 1), torch.arange(DRAWS), id="over positions, the largest seed"),
        pytest.param(torch.full((DRAWS,), -(2**63)), torch.arange(DRAWS), id="over positions, the smallest seed"),
    ],
)
def test_random_numbers_fill_the_interval_evenly(seeds: torch.Tensor, positions: torch.Tensor) -> None:
    numbers = uniform(seeds, positions)
    assert 0 <= numbers.min() < numbers.max() < 1
    in_tenths = torch.histc(numbers, 10, 0, 1) / DRAWS
    torch.testing.assert_close(in_tenths, torch.full((10,), 0.1), atol=5 * math.sqrt(0.09 / DRAWS), rtol=0)


def test_neighbouring_seeds_and_positions_have_nothing_in_common() -> None:
    grid = uniform(torch.arange(64).repeat_interleave(64), torch.arange(64).repeat(64)).view(64, 64)
    for a, b in ((grid[1:], grid[:-1]), (grid[:, 1:], grid[:, :-1]), (grid[1:, :-1], grid[:-1, 1:])):
        assert abs(torch.corrcoef(torch.stack((a.flatten(), b.flatten())))[0, 1]) < 5 / 64


def test_greedy_and_sampled_rows_share_a_batch() -> None:
    greedy, warm = Sampling(seed=1), Sampling(temperature=1.0, seed=1)
    both = drawn(LOGITS, greedy, warm, positions=torch.tensor([3, 3]))
    assert both == [1, *drawn(LOGITS, warm, positions=torch.tensor([3]))]


def test_the_last_token_can_be_drawn_and_none_beyond_it() -> None:
    warm = Sampling(temperature=1.0, seed=0)
    assert set(drawn(torch.zeros(1, 3), warm, positions=torch.arange(DRAWS))) == {0, 1, 2}


def test_a_seeded_answer_is_the_same_in_any_company(tmp_path_factory: pytest.TempPathFactory) -> None:
    directory = write_checkpoint(tmp_path_factory.mktemp("checkpoint")).directory
    model = a_model(directory, max_tokens_per_step=16, max_running=6, page_size=8)
    prompt = tuple(range(3, 30))
    warm = Sampling(temperature=1.0, top_k=50, top_p=0.95, seed=1234)
    alone = model.answer(prompt, 20, warm)
    company = [asked(str(n), tuple(range(3, 4 + n)), 15, Sampling(temperature=0.7, seed=n)) for n in range(7)]
    together = model.answers({0: company[:3], 3: [asked("it", prompt, 20, warm)], 4: company[3:]})
    assert together["it"] == alone
    assert model.answer(prompt, 20, Sampling(temperature=1.0, top_k=50, top_p=0.95, seed=1235)) != alone


def test_every_place_in_an_answer_has_its_own_random_number(tmp_path_factory: pytest.TempPathFactory) -> None:
    runner = a_model(write_checkpoint(tmp_path_factory.mktemp("checkpoint")).directory).loaded.runner
    hot = Sampling(temperature=5.0, seed=9)
    for length in range(1, 9):
        prompt = Chunk(0, 0, tuple(range(3, 3 + length)), samples=True)
        step = Step((a_start(0, sampling=hot),), (Grant(0, 0, 0),), (prompt,))
        expected = drawn(runner.logits(step), hot, positions=torch.tensor([length]))
        assert runner.launch(step).wait().token_ids == expected
