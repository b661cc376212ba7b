"""Pages whose blocks run: `<!-- runs: SESSION [TAG] -->` right above a fence says that its commands run, in order.

In a ```sh block every line has to succeed. In a ```console block a line `$ command` is run, and what follows is what it
must say; `...` stands for anything, also for many lines. A ```python block runs as it stands.
"""

import os
import re
import subprocess
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

FENCE = re.compile(
    r"^<!-- runs: (?P<marks>[\w -]+?) -->\n```(?P<language>\w+)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)
ENDED = "--- ended with"


@dataclass(frozen=True, slots=True)
class Block:
    session: str
    tags: tuple[str, ...]
    language: str
    text: str
    line: int  # of the page

    def commands(self) -> Iterator[tuple[str, str | None]]:
        """Each with what it must say; None = anything."""
        if self.language == "sh":
            yield from ((line, None) for line in self.text.splitlines() if line and not line.startswith("#"))
            return
        for part in re.split(r"^\$ ", self.text, flags=re.MULTILINE)[1:]:
            command, _, said = part.partition("\n")
            yield command, said


def blocks(page: Path, session: str) -> list[Block]:
    text = page.read_text()
    found = []
    for match in FENCE.finditer(text):
        name, *tags = match["marks"].split()
        line = text[: match.start()].count("\n") + 1
        found.append(Block(name, tuple(tags), match["language"], match["text"], line))
    return [block for block in found if block.session == session]


def matches(expected: str, said: str) -> bool:
    """How many spaces stand between words says nothing: columns are as wide as what is in them."""
    pattern = ".*".join(re.escape(part) for part in _settled(expected).split("..."))
    return re.fullmatch(pattern, _settled(said), re.DOTALL) is not None


def _settled(text: str) -> str:
    return "\n".join(re.sub(" +", " ", line.rstrip()) for line in text.strip("\n").splitlines())


class Shell:
    """One bash that lives through a session, as a reader's terminal does. Its commands come by a pipe of their own."""

    def __init__(self, folder: Path, env: Mapping[str, str]) -> None:
        read, self._commands = os.pipe()
        loop = f'while IFS= read -r -d "" line <&{read}; do eval "$line"; printf "\\n{ENDED} %s\\n" $?; done'
        self._bash = subprocess.Popen(
            ["bash", "--noprofile", "--norc", "-c", loop], cwd=folder, env=dict(env), text=True, pass_fds=(read,),
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
        os.close(read)

    def __enter__(self) -> "Shell":
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._commands)
        self._bash.wait(timeout=120)

    def run(self, command: str) -> tuple[int, str]:
        """Exit status, and what it said on both outputs."""
        assert self._bash.stdout is not None
        os.write(self._commands, command.encode() + b"\0")
        said = []
        for line in self._bash.stdout:
            if line.startswith(ENDED):
                return int(line.split()[-1]), "".join(said).removesuffix("\n")
            said.append(line)
        raise AssertionError(f"the shell ended in `{command}`: {''.join(said)}")

    def follow(self, block: Block, page: Path) -> None:
        """Run all commands of a block. Fails with the page's line, what was expected and what came."""
        for command, expected in block.commands():
            status, said = self.run(command)
            where = f"{page.name}, block at line {block.line}: `{command}`"
            assert status == 0, f"{where} ended with {status}:\n{said}"
            assert expected is None or matches(expected, said), f"{where} should say\n{expected}\nand says\n{said}"
