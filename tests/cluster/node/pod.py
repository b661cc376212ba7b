"""One pod from binding to removal: volumes, init containers, containers, status, and an end with grace."""

import asyncio
import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp

from cluster.node import environment
from cluster.node.api import Api, ApiError
from cluster.node.clock import timestamp
from cluster.node.container import Container, Launch
from cluster.node.environment import Facts
from cluster.node.events import Events
from cluster.node.probes import Place
from cluster.node.status import Addresses, ContainerState, pod_status
from cluster.node.volumes import NotYet, Volumes

logger = logging.getLogger(__name__)
Body = dict[str, Any]
START_DELAY = "cluster.headrace.dev/start-delay"  # annotation: seconds, instead of the node's own
MOUNT_RETRY = 1.0  # s
STATUS_RETRY = 1.0  # s
SYSTEM_PATH = "/usr/local/bin:/usr/bin:/bin"


@dataclass(frozen=True, slots=True)
class Machine:
    """What all pods of a node share."""

    api: Api
    events: Events
    session: aiohttp.ClientSession  # for probes
    name: str
    address: str
    directory: Path
    images: Mapping[str, Path]  # image repository -> folder of programs
    pull_delay: float  # s, for the first container of each image
    start_delay: float  # s
    pulled: set[str]


class Pod:
    """Runs until the pod is gone from the API. `released` is called with the pod's address at the end."""

    def __init__(self, machine: Machine, body: Body, address: str, released: Callable[[str], None]) -> None:
        self._machine = machine
        self._body = body
        self._address = address
        self._released = released
        self._uid: str = body["metadata"]["uid"]
        self.directory = machine.directory / "pods" / self._uid
        self._dirty = asyncio.Event()
        self._initial = [self._container(spec, "OnFailure") for spec in body["spec"].get("initContainers", [])]
        policy = body["spec"].get("restartPolicy", "Always")
        self._main = [self._container(spec, policy) for spec in body["spec"]["containers"]]
        self._launches: dict[str, Launch] = {}
        self._written: Body | None = None
        self._ending = asyncio.Event()
        self._gone = False

    def update(self, body: Body, *, is_gone: bool) -> None:
        """What the API server says of this pod now."""
        self._body = body
        self._dirty.set()  # a readiness gate may have changed
        if is_gone:
            self._gone = True
        if is_gone or body["metadata"].get("deletionTimestamp"):
            self._ending.set()

    def log(self, container: str, *, previous: bool) -> Path:
        """Where a container's output lies."""
        return self._log(container).with_suffix(".previous" if previous else ".log")

    async def run(self) -> None:
        reporting = asyncio.create_task(self._report())
        living = asyncio.create_task(self._live())
        try:
            await self._ending.wait()
        finally:
            living.cancel()
            await asyncio.gather(living, return_exceptions=True)
            await self._stop()
            reporting.cancel()
            await asyncio.gather(reporting, return_exceptions=True)
            self._released(self._address)
        if not self._gone:
            await self._remove()

    async def _live(self) -> None:
        try:
            volumes = await self._prepare()
            async with asyncio.TaskGroup() as group:
                refreshing = group.create_task(volumes.refresh())
                for container in self._initial:
                    await self._run(container, volumes)
                await asyncio.gather(*(self._run(container, volumes) for container in self._main))
                refreshing.cancel()
        except Exception:
            logger.exception("pod %s/%s cannot live", self._namespace, self._name)

    async def _prepare(self) -> Volumes:
        self.directory.mkdir(parents=True, exist_ok=True)
        told = ""
        while True:
            try:
                volumes = Volumes(self._machine.api, self._facts({}), self.directory / "volumes")
                await volumes.prepare()
            except NotYet as error:
                if str(error) != told:
                    told = str(error)
                    self._say("FailedMount", told, is_warning=True)
                await asyncio.sleep(MOUNT_RETRY)
            else:
                return volumes

    async def _run(self, container: Container, volumes: Volumes) -> None:
        programs = await self._pull(container)
        launch = await self._configure(container, programs, volumes)
        self._launches[container.state.name] = launch
        ports = {port["name"]: port["containerPort"] for port in container.spec.get("ports", []) if "name" in port}

        async def run_inside(command: list[str], timeout: float) -> int:
            process = await asyncio.create_subprocess_exec(*command, env=dict(launch.env), cwd=launch.directory)
            async with asyncio.timeout(timeout):
                return await process.wait()

        place = Place(self._machine.session, self._address, ports, run_inside)
        await container.run(launch, place)

    async def _pull(self, container: Container) -> Path:
        """The image's folder of programs. An unknown image is waited for as a kubelet waits: for ever, saying so."""
        image = container.state.image
        programs = self._machine.images.get(repository(image))
        delay = 1.0
        while programs is None:
            known = ", ".join(self._machine.images) or "none"
            message = f'Failed to pull image "{image}": unknown to the local cluster, whose images are: {known}'
            for reason in ("ErrImagePull", "ImagePullBackOff"):
                self._wait(container, reason, message)
                self._say("Failed", message, is_warning=True)
                await asyncio.sleep(delay)
            delay = min(60.0, delay * 2)
        if image not in self._machine.pulled:
            await asyncio.sleep(self._machine.pull_delay)
            self._machine.pulled.add(image)
            self._say("Pulled", f'Successfully pulled image "{image}"')
        return programs

    async def _configure(self, container: Container, programs: Path, volumes: Volumes) -> Launch:
        while True:
            try:
                return await self._launch(container, programs, volumes)
            except (LookupError, NotYet) as error:
                self._wait(container, "CreateContainerConfigError", str(error))
                self._say("Failed", str(error), is_warning=True)
            await asyncio.sleep(MOUNT_RETRY * 5)

    async def _launch(self, container: Container, programs: Path, volumes: Volumes) -> Launch:
        spec = container.spec
        own = self.directory / "containers" / spec["name"]
        own.mkdir(parents=True, exist_ok=True)
        termination_log = own / "termination-log"
        mounts = {
            **volumes.mounts(spec),
            spec.get("terminationMessagePath", "/dev/termination-log"): str(termination_log),
        }
        variables = environment.variables(spec, self._facts(await self._config(spec, volumes)))
        host, _, port = self._machine.api.server.removeprefix("https://").rpartition(":")
        env = {
            "PATH": f"{programs}:{SYSTEM_PATH}",
            "HOME": str(own),
            "HOSTNAME": self._name,
            "LANG": "C.UTF-8",
            "KUBERNETES_SERVICE_HOST": host,
            "KUBERNETES_SERVICE_PORT": port,
            **{name: environment.relocate(value, mounts) for name, value in variables.items()},
        }
        command = environment.command_line(spec, variables, mounts)
        command[0] = str(programs / command[0]) if (programs / command[0]).exists() else command[0]
        return Launch(tuple(command), env, own, self._log(spec["name"]), termination_log)

    async def _config(self, spec: Mapping[str, Any], volumes: Volumes) -> dict[tuple[str, str], Mapping[str, str]]:
        """Every ConfigMap and Secret that the environment refers to."""
        wanted = set()
        for entry in spec.get("env", []):
            for kind in ("configMap", "secret"):
                if reference := entry.get("valueFrom", {}).get(f"{kind}KeyRef"):
                    wanted.add((kind, reference["name"]))
        for source in spec.get("envFrom", []):
            for kind in ("configMap", "secret"):
                if reference := source.get(f"{kind}Ref"):
                    wanted.add((kind, reference["name"]))
        return {(kind, name): await volumes.data(kind, name) for kind, name in wanted}

    async def _stop(self) -> None:
        """SIGTERM to all, then SIGKILL after the grace period that the deletion names."""
        metadata, spec = self._body["metadata"], self._body["spec"]
        grace = metadata.get("deletionGracePeriodSeconds", spec.get("terminationGracePeriodSeconds", 30))
        seconds = 0.0 if self._gone else float(grace)
        running = [container for container in (*self._initial, *self._main) if container.process]
        if running:
            self._say("Killing", f"Stopping {', '.join(container.state.name for container in running)}")
        await asyncio.gather(*(container.stop(seconds) for container in running))
        for container in running:
            container.note_end(self._launches[container.state.name])

    async def _remove(self) -> None:
        """The kubelet's last word: status as it ended, then the object goes."""
        await self._write_status()
        while True:
            try:
                await self._machine.api.delete_now(self._path, self._uid)
            except (ApiError, aiohttp.ClientError, TimeoutError) as error:
                logger.warning("cannot remove pod %s: %s", self._name, error)
                await asyncio.sleep(STATUS_RETRY)
            else:
                return

    async def _report(self) -> None:
        """Writes the status whenever it has changed."""
        self._dirty.set()
        while True:
            await self._dirty.wait()
            self._dirty.clear()
            if not await self._write_status():
                await asyncio.sleep(STATUS_RETRY)
                self._dirty.set()

    async def _write_status(self) -> bool:
        initial = [container.state for container in self._initial]
        main = [container.state for container in self._main]
        addresses = Addresses(self._address, self._machine.address)
        status = pod_status(self._body, initial, main, addresses, timestamp())
        if status == self._written:
            return True
        try:
            body = {"metadata": {"uid": self._uid}, "status": status}
            self._body = await self._machine.api.merge(f"{self._path}/status", body)
        except ApiError as error:
            if error.status in {404, 409}:  # gone, or another pod of the same name
                return True
            logger.warning("status of %s: %s", self._name, error)
            return False
        except (aiohttp.ClientError, TimeoutError) as error:
            logger.warning("status of %s: %s: %s", self._name, type(error).__name__, error)
            return False
        self._written = status
        return True

    def _container(self, spec: Body, policy: str) -> Container:
        annotations = self._body["metadata"].get("annotations", {})
        return Container(
            spec=spec,
            state=ContainerState(spec["name"], spec["image"]),
            policy=policy,
            changed=self._dirty.set,
            say=lambda reason, message, is_warning: self._say(reason, message, is_warning=is_warning),
            start_delay=float(annotations.get(START_DELAY, self._machine.start_delay)),
        )

    def _wait(self, container: Container, reason: str, message: str) -> None:
        container.state.waiting = {"reason": reason, "message": message}
        self._dirty.set()

    def _facts(self, config: Mapping[tuple[str, str], Mapping[str, str]]) -> Facts:
        return Facts(self._body, self._machine.name, self._address, self._machine.address, config)

    def _say(self, reason: str, message: str, *, is_warning: bool = False) -> None:
        self._machine.events.say(self._body, reason, message, is_warning=is_warning)

    def _log(self, container: str) -> Path:
        return Path(self.directory, f"{container}.log")

    @property
    def _name(self) -> str:
        return str(self._body["metadata"]["name"])

    @property
    def _namespace(self) -> str:
        return str(self._body["metadata"]["namespace"])

    @property
    def _path(self) -> str:
        return f"/api/v1/namespaces/{self._namespace}/pods/{self._name}"


def repository(image: str) -> str:
    """`registry/name:tag@digest` without tag and digest."""
    name = image.partition("@")[0]
    head, _, last = name.rpartition("/")
    return f"{head}/{last.partition(':')[0]}" if head else last.partition(":")[0]
