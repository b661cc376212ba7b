"""`headrace chat`: a conversation in the terminal with any OpenAI server, or with a Headrace server over gRPC.

/reset forgets the conversation, /system TEXT begins anew with that instruction, /quit ends. Ctrl-C stops an answer.
Without a terminal each line of standard input is one turn.
"""

import argparse
import asyncio
import signal
import sys
from collections.abc import AsyncGenerator, Coroutine
from contextlib import aclosing
from dataclasses import dataclass, field

from headrace_server.client.connection import add_connection_options, connection_from
from headrace_server.client.talk import Failed, Message, Settings, Talk, open_talk

HELP = "/reset forgets the conversation, /system TEXT begins anew with that instruction, /quit ends"


def register(parser: argparse.ArgumentParser) -> None:
    """Talk with a model in the terminal."""
    add = parser.add_argument
    add_connection_options(parser, default_target="127.0.0.1:50051")
    add("--model", help="of an OpenAI API (default: the first that it lists)")
    add("--system", default="", metavar="TEXT", help="an instruction before the conversation")
    add("--max-new-tokens", type=int, default=512, help="of an answer (default %(default)s)")
    add("--temperature", type=float, default=0.7, help="0 is greedy (default %(default)s)")
    add("--top-p", type=float, default=1.0)
    add("--seed", type=int)
    add("--timeout", type=float, default=300.0, help="seconds that an answer may take (default %(default)s)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """1 when an answer failed."""
    settings = Settings(options.max_new_tokens, options.temperature, options.top_p, options.seed, options.timeout)
    target = "" if options.http else options.target
    connection = connection_from(options)
    with asyncio.Runner() as runner:
        talk = runner.run(open_talk(connection, target, options.http, options.model, settings))
        try:
            return Conversation(runner, talk, options.system).run()
        finally:
            runner.run(talk.close())


@dataclass
class Conversation:
    runner: asyncio.Runner
    talk: Talk
    system: str = ""
    messages: list[Message] = field(default_factory=list)
    failed: bool = False

    def run(self) -> int:
        while (line := self._line()) is not None and line != "/quit":
            if line.startswith("/"):
                self._command(line)
            elif line:
                self._turn(line)
        return 1 if self.failed else 0

    def _line(self) -> str | None:
        """None: there are no more."""
        if not sys.stdin.isatty():
            line = sys.stdin.readline()
            return line.strip() if line else None
        try:
            import readline  # noqa: F401, PLC0415 - gives input() a history and arrow keys

            return input("> ").strip()
        except (EOFError, KeyboardInterrupt):
            sys.stdout.write("\n")
            return None

    def _command(self, line: str) -> None:
        name, _, rest = line.partition(" ")
        if name not in ("/reset", "/system"):
            sys.stderr.write(f"headrace: {name} is no command; {HELP}\n")
            return
        self.messages.clear()
        if name == "/system":
            self.system = rest.strip()

    def _turn(self, line: str) -> None:
        asked = Message("user", line)
        before = [Message("system", self.system)] if self.system else []
        answer: list[str] = []
        try:
            whole = self.runner.run(_until_ctrl_c(_print(self.talk.answer([*before, *self.messages, asked]), answer)))
        except Failed as failed:
            self.failed = True
            sys.stderr.write(f"headrace: {failed}\n")
            return  # the conversation goes on as if it had not been asked
        except KeyboardInterrupt:  # before anything was asked
            whole = False
        if not whole:
            sys.stdout.write("\n")
        self.messages += [asked, Message("assistant", "".join(answer))]


async def _until_ctrl_c(printing: Coroutine[None, None, None]) -> bool:
    """False: it was stopped.

    asyncio's own handler does not wake up a loop that falls asleep just when the signal comes, or whose signal another
    thread has heard: the answer would go on until its next token.
    """
    loop, task = asyncio.get_running_loop(), asyncio.ensure_future(printing)
    loop.add_signal_handler(signal.SIGINT, task.cancel)
    try:
        await task
    except asyncio.CancelledError:
        return False
    finally:
        loop.remove_signal_handler(signal.SIGINT)
    return True


async def _print(pieces: AsyncGenerator[str, None], answer: list[str]) -> None:
    async with aclosing(pieces):
        async for piece in pieces:
            answer.append(piece)
            sys.stdout.write(piece)
            sys.stdout.flush()
    sys.stdout.write("\n")
    sys.stdout.flush()
