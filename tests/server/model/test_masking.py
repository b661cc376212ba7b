"""A packed mask forbids exactly the tokens whose bit is 0, in exactly the rows that it is for."""

import numpy as np
import pytest
import torch
from headrace_server.model.masking import allowed
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray


def packed(allowed: NDArray[np.bool_]) -> torch.Tensor:
    """By the definition of the format: token t is bit t % 32 of word t // 32."""
    rows, vocab = allowed.shape
    words = np.zeros((rows, -(-vocab // 32)), dtype=np.uint32)
    for row, token in zip(*allowed.nonzero(), strict=True):
        words[row, token // 32] |= np.uint32(1 << (token % 32))
    return torch.from_numpy(words.view(np.int32))


@given(data=st.data(), vocab=st.integers(1, 131), rows=st.integers(1, 5))
def test_what_is_forbidden_and_nothing_else_becomes_impossible(data: st.DataObject, vocab: int, rows: int) -> None:
    masked = data.draw(
        st.permutations(range(rows)).flatmap(lambda order: st.integers(0, rows).map(lambda n: order[:n]))
    )
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32)))
    may = rng.random((len(masked), vocab)) < 0.5
    logits = rng.standard_normal((rows, vocab)).astype(np.float32)
    expected = logits.copy()
    for mask, row in enumerate(masked):
        expected[row, ~may[mask]] = -np.inf

    result = allowed(torch.from_numpy(logits), packed(may), torch.tensor(masked, dtype=torch.int64))

    np.testing.assert_array_equal(result.numpy(), expected)


def test_without_rows_there_is_a_mask_for_each_and_minus_one_allows_everything() -> None:
    logits = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    result = allowed(logits, torch.tensor([[-1], [0b001]], dtype=torch.int32))
    assert result.tolist() == [[0, 1, 2], [3, -torch.inf, -torch.inf]]
    assert logits.tolist() == [[0, 1, 2], [3, 4, 5]], "logprobs are taken from these"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_of_logits(dtype: torch.dtype) -> None:
    result = allowed(torch.ones(1, 40, dtype=dtype), packed(np.arange(40)[None] == 39))
    assert result.isfinite().nonzero().tolist() == [[0, 39]]


@pytest.mark.parametrize("rows", [None, torch.zeros(1, dtype=torch.int32, device="meta")])
def test_the_host_never_needs_a_value_of_the_device(rows: torch.Tensor | None) -> None:
    """The meta device has none to give."""
    masks = torch.zeros(1, 2, dtype=torch.int32, device="meta")
    assert allowed(torch.zeros(1, 40, device="meta"), masks, rows).shape == (1, 40)
