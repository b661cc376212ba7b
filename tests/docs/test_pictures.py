"""The pictures of the status page are there in both shades, sharp enough to read and small enough to fetch."""

import struct
from pathlib import Path

import pytest
from demo.pictures import PLACE, SHADES, SIZE

PAGE = Path(__file__).parents[2] / "docs" / "ui.md"
LARGEST = 150_000  # bytes


@pytest.mark.parametrize("shade", SHADES)
def test_a_picture_is_what_the_command_makes(shade: str) -> None:
    file = PLACE / f"ui-{shade}.png"
    data = file.read_bytes()
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    assert struct.unpack(">II", data[16:24]) == (SIZE["width"], SIZE["height"]), "run `make pictures`"
    assert len(data) < LARGEST
    assert f"(pictures/{file.name})" in PAGE.read_text()
