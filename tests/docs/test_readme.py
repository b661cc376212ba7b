"""README.md and docs/quickstart.md tell the same way, so that it is tried once and true twice."""

import re
from pathlib import Path

from runnable import blocks

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "quickstart.md"


def test_the_readme_has_the_same_commands_in_the_same_order() -> None:
    steps = [command.strip() for block in blocks(PAGE, "quickstart") for command, _ in block.commands()]
    text = (ROOT / "README.md").read_text()
    (told,) = re.findall(r"^```sh\n(source .*?)^```", text, re.DOTALL | re.MULTILINE)
    commands = [re.sub(r"\s+#.*", "", line) for line in told.splitlines()]
    assert "headrace ui" in commands
    rest = iter(steps)
    for command in commands:
        if command != "headrace ui":
            assert command in rest, f"{command} is not in the quick start, or not in this order"
