"""What can never run is refused at the door, and the caller learns which field to change to what."""

from dataclasses import replace

import pytest
from engines import LIMITS, a_request
from headrace_server.errors import InvalidRequest
from headrace_server.request import Request


@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(a_request(prompt=60, max_new_tokens=4), id="exactly the context"),
        pytest.param(a_request(prompt=1, max_new_tokens=63), id="a long answer"),
        pytest.param(a_request(prompt=(0, 999)), id="the first and the last token of the vocabulary"),
    ],
)
def test_what_fits_is_let_in(request_: Request) -> None:
    LIMITS.check(request_)


@pytest.mark.parametrize(
    ("request_", "field", "says"),
    [
        pytest.param(a_request(prompt=()), "prompt", "is empty", id="no prompt"),
        pytest.param(a_request(max_new_tokens=0), "max_new_tokens", "at least 1", id="no answer wanted"),
        pytest.param(a_request(prompt=64), "prompt", "at most 63", id="the prompt alone fills the context"),
        pytest.param(a_request(prompt=60, max_new_tokens=5), "max_new_tokens", "at most 4", id="one token too many"),
        pytest.param(
            a_request(prompt=(5, 1000)), "prompt", "token id 1000 is outside 0..999", id="above the vocabulary"
        ),
        pytest.param(a_request(prompt=(-1, 5)), "prompt", "token id -1 is outside 0..999", id="below the vocabulary"),
    ],
)
def test_what_never_fits_is_refused(request_: Request, field: str, says: str) -> None:
    with pytest.raises(InvalidRequest, match=says) as refused:
        LIMITS.check(request_)
    assert refused.value.field == field


def test_a_request_of_a_whole_context_has_the_pages_it_needs() -> None:
    with pytest.raises(ValueError, match="3 pages of 16 tokens cannot hold a context of 64"):
        replace(LIMITS, kv_pages=3).check_pages(16)
