"""The pages' own test runner: what would let a wrong page pass must fail."""

from pathlib import Path

import pytest
from runnable import Block, Shell, blocks, matches

PAGE = """
<!-- runs: one -->
```sh
WORD=kept
# a comment
test "$WORD" = kept
```
not this:
```sh
false
```
<!-- runs: one load -->
```console
$ echo $WORD; echo more
kept
...
$ printf 'a\\nb\\n'
a
b
```
"""


@pytest.fixture
def page(tmp_path: Path) -> Path:
    file = tmp_path / "page.md"
    file.write_text(PAGE)
    return file


def test_marked_blocks_run_in_one_shell(page: Path, tmp_path: Path) -> None:
    found = blocks(page, "one")
    assert [(block.language, block.tags, block.line) for block in found] == [("sh", (), 2), ("console", ("load",), 12)]
    with Shell(tmp_path, {"PATH": "/usr/bin:/bin"}) as shell:
        for block in found:
            shell.follow(block, page)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        pytest.param("$ echo x\ny\n", "and says", id="other words"),
        pytest.param("$ false\n", "ended with 1", id="a failure"),
        pytest.param("$ echo x\n", "and says", id="words where none are expected"),
        pytest.param("$ cat\nx\n", "and says", id="a command that would read the next ones"),
        pytest.param("$ exit 3\n", "the shell ended", id="the end of the shell"),
    ],
)
def test_what_is_not_as_the_page_says_fails(page: Path, tmp_path: Path, text: str, says: str) -> None:
    with Shell(tmp_path, {"PATH": "/usr/bin:/bin"}) as shell, pytest.raises(AssertionError, match=says):
        shell.follow(Block("one", (), "console", text, 1), page)


@pytest.mark.parametrize(
    ("expected", "said", "is_so"),
    [
        ("a ... c", "a b\nb c", True),
        ("...", "", True),
        ("a\n...\nc", "a\nb\nc\n", True),
        ("a  \n\n", "a", True),
        ("a b", "a    b", True),
        ("a", "a b", False),
        ("a...c", "a", False),
        ("a.c", "abc", False),
    ],
)
def test_dots_stand_for_anything_and_nothing_else_does(expected: str, said: str, is_so: bool) -> None:
    assert matches(expected, said) is is_so
