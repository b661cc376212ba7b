"""What the operator asks of a router, as it writes it."""

from typing import Any

import pytest
from headrace_router.observe.guidance import guidance
from headrace_router.values import Guidance


@pytest.mark.parametrize(
    ("status", "expected"),
    [
        pytest.param({}, Guidance(), id="nothing yet"),
        pytest.param({"startup": {"p95Seconds": "41.5"}}, Guidance(start_seconds=41.5), id="how long a start takes"),
        pytest.param(
            {"routing": {"shares": [{"revision": "b7a902b8", "share": "5%"}]}},
            Guidance(shares=(("b7a902b8", 0.05),)),
            id="a canary",
        ),
        pytest.param({"routing": {"mirror": {"share": "10%"}}}, Guidance(mirror_share=0.1), id="a shadow"),
    ],
)
def test_guidance(status: dict[str, Any], expected: Guidance) -> None:
    assert guidance(status) == expected


@pytest.mark.parametrize("share", ["10", "101%", "-1%", "many%", ""])
def test_what_is_no_share_is_not_taken_for_one(share: str) -> None:
    with pytest.raises(ValueError, match=r"share|float"):
        guidance({"routing": {"mirror": {"share": share}}})
