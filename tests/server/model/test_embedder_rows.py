"""With how many tokens a batch of texts is computed: packed products keep kernels for each number that they met."""

from dataclasses import dataclass, field

import torch
from headrace_server.model.device import CpuDevice
from headrace_server.model.encoder.runner import EncoderLane
from headrace_server.model.encoder.texts import Texts
from headrace_server.model.projection import Packed
from headrace_server.model.row_sizes import RowSizes
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

CPU = CpuDevice()
LENGTHS = st.lists(st.integers(1, 90), min_size=1, max_size=12)


@dataclass
class Numbers:
    """Each token's hidden state is its own number."""

    counted: list[int] = field(default_factory=list)  # tokens of each batch
    longest: int = 0

    def hidden(self, texts: Texts) -> Tensor:
        self.counted.append(texts.tokens)
        self.longest = texts.longest
        return texts.token_ids.float().unsqueeze(1)


def last(hidden: Tensor, texts: Texts) -> Tensor:
    return hidden[texts.bounds[1:].long() - 1]


@given(LENGTHS)
def test_a_few_sizes_serve_all_batches_and_each_text_gets_its_own_vector(lengths: list[int]) -> None:
    model, sizes = Numbers(), Packed.rows
    lane = EncoderLane(model, last, CPU, torch.device("cpu"), sizes)
    texts = [[number] * length for number, length in enumerate(lengths, start=1)]
    computed = lane.launch(texts).wait()
    assert computed.vectors.ravel().tolist() == [text[-1] for text in texts]
    assert model.counted == [sizes.at_least(sum(lengths))]
    assert computed.padded == sizes.at_least(sum(lengths)) - sum(lengths)
    assert model.longest == max(lengths)  # no text for nobody is longer than the model's context


def test_where_any_number_will_do_no_token_is_computed_for_nobody() -> None:
    model = Numbers()
    EncoderLane(model, last, CPU, torch.device("cpu"), RowSizes()).launch([[1] * 37]).wait()
    assert model.counted == [37]
