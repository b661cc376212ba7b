"""`python -m cluster.node`: one node. Ends with its parent: on SIGTERM, or when its standard input closes."""

import argparse
import asyncio
import logging
import os
import shutil
import signal
import sys
from ipaddress import IPv4Network
from pathlib import Path

import aiohttp

from cluster.node import logs, node
from cluster.node.api import Api, Mirror
from cluster.node.events import Events
from cluster.node.node import Offer
from cluster.node.pod import Body, Machine, Pod
from cluster.node.proxy import Proxy

logger = logging.getLogger(__name__)


class Pods:
    """The pods bound to this node, each in a task of its own."""

    def __init__(self, machine: Machine, addresses: list[str]) -> None:
        self._machine = machine
        self._addresses = addresses  # free ones
        self._running: dict[str, tuple[Pod, asyncio.Task[None]]] = {}  # by UID
        query = {"fieldSelector": f"spec.nodeName={machine.name}"}
        self.mirror = Mirror(machine.api, "/api/v1/pods", self._changed, **query)

    def find_log(self, namespace: str, name: str, container: str, previous: bool) -> Path | None:
        for uid, body in self.mirror.objects.items():
            metadata = body["metadata"]
            if (metadata["namespace"], metadata["name"]) == (namespace, name) and uid in self._running:
                return self._running[uid][0].log(container, previous=previous)
        return None

    def _changed(self, body: Body, is_gone: bool) -> None:
        uid = body["metadata"]["uid"]
        if uid in self._running:
            self._running[uid][0].update(body, is_gone=is_gone)
        elif not is_gone and body.get("status", {}).get("phase") not in {"Succeeded", "Failed"}:
            pod = Pod(self._machine, body, self._addresses.pop(0), self._addresses.append)
            task = asyncio.create_task(pod.run())
            self._running[uid] = pod, task
            task.add_done_callback(lambda task: self._ended(uid, task))
            pod.update(body, is_gone=False)

    def _ended(self, uid: str, task: "asyncio.Task[None]") -> None:
        self._running.pop(uid, None)
        if not task.cancelled() and task.exception():
            logger.error("pod %s", uid, exc_info=task.exception())


async def run(options: argparse.Namespace) -> None:
    images = dict(image.split("=", 1) for image in options.image)
    async with Api(options.kubeconfig) as api, aiohttp.ClientSession() as session:
        machine = Machine(
            api=api,
            events=Events(api, options.node),
            session=session,
            name=options.node,
            address=options.address,
            directory=options.directory,
            images={repository: Path(folder) for repository, folder in images.items()},
            pull_delay=options.image_pull_delay,
            start_delay=options.start_delay,
            pulled=set(),
        )
        shutil.rmtree(options.directory / "pods", ignore_errors=True)
        addresses = [str(address) for address in IPv4Network(options.pod_cidr).hosts()]
        pods = Pods(machine, [address for address in addresses if address != options.address])
        runner, port = await logs.serve(options.address, options.directory / "keys", pods.find_log)
        offer = Offer(options.node, options.address, options.gpus, options.cpus, options.memory)
        await node.register(api, offer, port)
        async with asyncio.TaskGroup() as group:
            group.create_task(node.keep_alive(api, offer, port))
            group.create_task(pods.mirror.run())
            if options.proxy:
                group.create_task(Proxy(api).run())
        await runner.cleanup()


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m cluster.node", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--node", required=True)
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--gpus", type=int, default=0)
    parser.add_argument("--cpus", type=int, default=16)
    parser.add_argument("--memory", default="64Gi")
    parser.add_argument("--address", required=True, help="the node's own; not given to pods")
    parser.add_argument("--pod-cidr", required=True)
    parser.add_argument("--image", action="append", default=[], help="REPOSITORY=FOLDER of its programs")
    parser.add_argument("--image-pull-delay", type=float, default=0.0, help="seconds, once an image")
    parser.add_argument("--start-delay", type=float, default=0.0, help="seconds before each container starts")
    parser.add_argument("--proxy", action="store_true", help="route the cluster's Services")
    return parser.parse_args()


async def until_told(options: argparse.Namespace) -> None:
    work = asyncio.create_task(run(options))
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, work.cancel)
    await loop.connect_read_pipe(lambda: _Lifeline(work), sys.stdin)
    try:
        await work
    except asyncio.CancelledError:
        logger.info("told to end")


class _Lifeline(asyncio.Protocol):
    """Standard input closes when the parent ends, however it ends."""

    def __init__(self, work: "asyncio.Task[None]") -> None:
        self._work = work

    def connection_lost(self, exc: Exception | None) -> None:
        del exc
        self._work.cancel()


if __name__ == "__main__":
    os.umask(0o077)
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(until_told(parse()))
