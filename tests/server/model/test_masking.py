"""A packed mask forbids exactly the tokens whose bit is 0, in exactly the rows that it is for."""

import numpy as np
import pytest
import torch
from headrace_server.model.masking import keep_allowed
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
    allowed = rng.random((len(masked), vocab)) < 0.5
    before = torch.from_numpy(rng.standard_normal((rows, vocab)).astype(np.float32))
    logits = before.clone()

    keep_allowed(logits, packed(allowed), torch.tensor(masked, dtype=torch.int64))

    expected = before.numpy().copy()
    for mask, row in enumerate(masked):
        expected[row, ~allowed[mask]] = -np.inf
    np.testing.assert_array_equal(logits.numpy(), expected)


def test_without_rows_there_is_a_mask_for_each_and_minus_one_allows_everything() -> None:
    logits = torch.arange(6, dtype=torch.float32).reshape(2, 3)
    keep_allowed(logits, torch.tensor([[-1], [0b001]], dtype=torch.int32))
    assert logits.tolist() == [[0, 1, 2], [3, -torch.inf, -torch.inf]]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_every_dtype_of_logits(dtype: torch.dtype) -> None:
    logits = torch.ones(1, 40, dtype=dtype)
    keep_allowed(logits, packed(np.arange(40)[None] == 39))
    assert logits.isfinite().nonzero().tolist() == [[0, 39]]
