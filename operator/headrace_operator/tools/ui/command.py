"""`headrace ui`: starts the page, says where it is, and serves until Ctrl-C."""

import argparse
import asyncio
import signal
import sys
import time

from aiohttp import web

from headrace_operator.tools.connection import Connection, ToolFailed
from headrace_operator.tools.ui.looks import Looks
from headrace_operator.tools.ui.web import application

GOODBYE = 1.0  # seconds for open streams when the page ends


async def serve(connection: Connection, options: argparse.Namespace) -> int:
    """Returns 0 after SIGINT or SIGTERM. Raises ToolFailed where it cannot listen."""
    host, port = options.listen
    namespace = None if options.all_namespaces else connection.namespace
    looks = Looks(connection.api.guarded(_refuse), namespace, connection.server, _now, options.interval)
    ended = asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, ended.set)
    runner = web.AppRunner(application(looks, host), access_log=None, shutdown_timeout=GOODBYE)
    await runner.setup()
    try:
        await _listen(runner, host, port)
        sys.stdout.write(_said(runner.addresses[0], namespace, connection.server))
        sys.stdout.flush()
        await _until(ended, looks)
    finally:
        await runner.cleanup()
    return 0


async def _until(ended: asyncio.Event, looks: Looks) -> None:
    """A look that raises what it should not ends the page, too: a page that stands still would lie."""
    looking, ending = asyncio.create_task(looks.run()), asyncio.create_task(ended.wait())
    done, others = await asyncio.wait({looking, ending}, return_when=asyncio.FIRST_COMPLETED)
    for task in others:
        task.cancel()
    await asyncio.gather(*others, return_exceptions=True)
    for task in done:
        task.result()


async def _listen(runner: web.AppRunner, host: str, port: int) -> None:
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        raise ToolFailed(f"cannot listen at {host}:{port}: {error.strerror}; name another with --listen") from None


def _said(address: tuple[str, int], namespace: str | None, server: str) -> str:
    shown = f"namespace {namespace}" if namespace else "all namespaces"
    place = f"[{address[0]}]" if ":" in address[0] else address[0]
    return f"http://{place}:{address[1]}/ shows {shown} of {server}; Ctrl-C ends it\n"


def _refuse() -> None:
    raise AssertionError("the page writes nothing")


def _now() -> float:
    return time.time()  # noqa: TID251 - the edge that reads the clock
