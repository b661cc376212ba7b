"""`headrace chat` as a person and as a pipe use it, against both kinds of server."""

import asyncio
import ctypes
import fcntl
import json
import os
import pty
import re
import select
import signal
import termios
from collections.abc import Callable
from pathlib import Path

import pytest
from canned_engine import CannedServer, canned_server
from headrace_command import headrace
from open_server import open_server
from scripted_runner import ScriptedRunner, always
from served_process import HEADRACE, PATIENCE, environment
from tiny_tokenizer import save_tiny_tokenizer, tiny_tokenizer

ANSWER = "God created "
IDS = tiny_tokenizer().encode(ANSWER).ids


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    directory = tmp_path_factory.mktemp("model")
    save_tiny_tokenizer(directory)
    return directory


def where(server: CannedServer, door: str) -> str:
    return f"--target={server.grpc}" if door == "grpc" else f"--http={server.http}"


@pytest.mark.parametrize("door", ["grpc", "http"])
async def test_each_line_is_a_turn_and_the_conversation_is_remembered(model: Path, door: str) -> None:
    typed = "In the\n\nthe earth\n/reset\nvoid\n/system be brief\nform\n/quit\nnever sent\n"
    async with canned_server(model, IDS) as server:
        ended = await headrace(["chat", where(server, door), f"--max-new-tokens={len(IDS)}", "--system=hear"], typed)
        asked = [tiny_tokenizer().decode(request.prompt) for request in server.engine.asked]
    assert (ended.returncode, ended.stderr) == (0, "")
    assert ended.stdout == f"{ANSWER}\n" * 4
    assert asked == [
        "[system] hear\n[user] In the\n[assistant] ",
        f"[system] hear\n[user] In the\n[assistant] {ANSWER}\n[user] the earth\n[assistant] ",
        "[system] hear\n[user] void\n[assistant] ",
        "[system] be brief\n[user] form\n[assistant] ",
    ]


@pytest.mark.parametrize("door", ["grpc", "http"])
async def test_what_is_refused_is_said_and_the_conversation_goes_on(model: Path, door: str) -> None:
    async with canned_server(model, IDS) as server:
        long = "earth " * 80
        flags = [where(server, door), "--max-new-tokens=2", "--temperature=0"]
        ended = await headrace(["chat", *flags], f"{long}\n/nonsense\n")
        late = await headrace(["chat", *flags, "--temperature=9"], "In\n")
    assert (late.returncode, late.stdout) == (1, "")
    assert "temperature" in late.stderr
    assert "/nonsense is no command" in ended.stderr


async def test_without_a_server_the_command_says_so(tmp_path: Path) -> None:
    ended = [await headrace(["chat", flag], "In\n") for flag in ("--target=127.0.0.1:1", "--http=http://127.0.0.1:1")]
    assert [one.returncode for one in ended] == [1, 1]
    assert "UNAVAILABLE" in ended[0].stderr
    assert "ClientConnectorError" in ended[1].stderr


KEYS = [
    pytest.param("--api-key-file={missing}", "is no file", id="no file"),
    pytest.param("--api-key-file={empty}", "must hold one API key", id="empty file"),
    pytest.param("--cert={empty}", "--cert and --key belong together", id="half a pair"),
]


@pytest.mark.parametrize(("flag", "says"), KEYS)
async def test_credentials_that_cannot_be_used_are_refused_by_their_flag(tmp_path: Path, flag: str, says: str) -> None:
    (tmp_path / "empty").write_text("")
    ended = await headrace(["chat", flag.format(missing=tmp_path / "missing", empty=tmp_path / "empty")], "In\n")
    assert ended.returncode == 2
    assert says in ended.stderr


def typed(terminal: int, _: int) -> None:
    os.write(terminal, b"\x03")


def heard_by_another_thread(_: int, process: int) -> None:
    """Which does not interrupt what the main thread waits in; neither does a signal just before it begins to wait."""
    blocked = re.compile(r"^SigBlk:\t(\w+)$", re.MULTILINE)
    for thread in Path(f"/proc/{process}/task").iterdir():
        (mask,) = blocked.findall((thread / "status").read_text())
        if int(thread.name) != process and not int(mask, 16) >> (signal.SIGINT - 1) & 1:
            assert ctypes.CDLL(None).tgkill(process, int(thread.name), signal.SIGINT) == 0
            return
    raise AssertionError("no other thread hears it")


@pytest.mark.parametrize("ctrl_c", [typed, heard_by_another_thread])
async def test_ctrl_c_stops_an_answer_and_frees_it_and_the_conversation_goes_on(
    model: Path, ctrl_c: Callable[[int, int], None]
) -> None:
    runner = ScriptedRunner(always(IDS))
    async with open_server(model, runner) as server:
        runner.gate.clear()
        terminal, theirs = pty.openpty()
        command = [str(HEADRACE), "chat", f"--target={server.grpc}", f"--max-new-tokens={len(IDS)}"]
        process = await asyncio.create_subprocess_exec(
            *command, stdin=theirs, stdout=theirs, stderr=theirs, env=environment(TERM="dumb"), start_new_session=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),
        )  # fmt: skip
        os.close(theirs)
        try:
            await until_shown(terminal, "> ")
            os.write(terminal, b"In\n")
            await server.until_inside(1)
            ctrl_c(terminal, process.pid)
            await until_shown(terminal, "> ")
            await server.until_left()  # or the answer might be complete before the server hears of it
            runner.gate.set()
            await server.until_inside(0)
            assert server.sample("headrace_requests_finished_total", outcome="cancelled") == 1
            os.write(terminal, b"In\n")
            await until_shown(terminal, ANSWER)
            os.write(terminal, b"/quit\n")
            assert await asyncio.wait_for(process.wait(), PATIENCE) == 0
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
            os.close(terminal)


async def until_shown(terminal: int, text: str) -> None:
    """Raises AssertionError with what the program wrote instead, also when it has ended."""
    shown = b""
    try:
        async with asyncio.timeout(PATIENCE):
            while text.encode() not in shown:
                ready, _, _ = await asyncio.to_thread(select.select, [terminal], [], [], 1.0)
                shown += os.read(terminal, 4096) if ready else b""
    except (TimeoutError, OSError) as fault:  # OSError: nobody has the terminal open any more
        raise AssertionError(f"{text!r} was to be shown, and what was shown is {shown!r}") from fault


async def test_the_answer_fits_behind_a_long_conversation(model: Path) -> None:
    async with open_server(model, ScriptedRunner(always(IDS))) as server:
        ended = await headrace(["chat", f"--target={server.grpc}", "--max-new-tokens=1000"], "In\n")
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.startswith(ANSWER)
    assert json.dumps(ended.stderr) == '""'
