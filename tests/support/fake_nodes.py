"""Nodes without a kubelet, to test and measure the operator alone: pods are bound by the real scheduler, said to
be Ready, and removed when they are deleted. One process plays all nodes and answers /metrics and /drain for all pods.

    python -m fake_nodes --kubeconfig FILE --share 3 --nodes 4 --gpus 8
"""

import argparse
import asyncio
import logging
import signal
import sys
import time
from ipaddress import IPv4Network
from pathlib import Path
from typing import Any

from cluster.node import node
from cluster.node.api import Api, ApiError, Mirror
from cluster.node.clock import timestamp
from cluster.node.node import Offer
from cluster.node.status import Addresses, ContainerState, pod_status
from fake_server import FakeServer, Load

logger = logging.getLogger(__name__)
Body = dict[str, Any]
PORT = 9090  # the admin port: what the operator asks
RETRY = 0.5  # s


class FakeNodes:
    def __init__(self, api: Api, options: argparse.Namespace) -> None:
        self._api = api
        self._options = options
        self._addresses = {name: [str(address) for address in _network(options.share, index).hosts()][1:]
                           for index, name in enumerate(_names(options))}  # fmt: skip
        self._load = Load(options.load, options.slots)
        self._pods: dict[str, asyncio.Task[None]] = {}  # by UID
        self._going: set[str] = set()
        self._hanging = False
        self.mirror = Mirror(api, "/api/v1/pods", self._changed, fieldSelector="spec.nodeName!=")

    async def run(self) -> None:
        offers = [
            Offer(name, str(_network(self._options.share, index)[1]), self._options.gpus, 4096, "4096Gi")
            for index, name in enumerate(_names(self._options))
        ]
        for offer in offers:
            await node.register(self._api, offer, 10250)
        print(f"{len(offers)} nodes", flush=True)
        async with asyncio.TaskGroup() as group:
            for offer in offers:
                group.create_task(node.keep_alive(self._api, offer, 10250))
            group.create_task(self.mirror.run())

    def hang(self) -> None:
        """From now on the pods that --hang names take a scrape and never answer."""
        self._hanging = True

    def _changed(self, body: Body, is_gone: bool) -> None:
        uid = body["metadata"]["uid"]
        if is_gone:
            self._end(uid)
        elif body["metadata"].get("deletionTimestamp"):
            if uid not in self._going:
                self._going.add(uid)
                self._pods.setdefault(f"end of {uid}", asyncio.create_task(self._remove(body)))
        elif uid not in self._pods and body["spec"]["nodeName"] in self._addresses:
            self._pods[uid] = asyncio.create_task(self._live(body))

    async def _live(self, body: Body) -> None:
        """From bound to Ready, then answering until the task is cancelled."""
        name, name_of_node = body["metadata"]["name"], body["spec"]["nodeName"]
        deployment = body["metadata"].get("labels", {}).get("headrace.dev/deployment", "")
        address = self._addresses[name_of_node].pop(0)
        server = FakeServer(deployment, self._load, hangs=lambda: self._hanging and name.startswith(self._options.hang))
        try:
            listener = await asyncio.get_running_loop().create_server(server.connection, address, PORT)
            async with listener:
                await asyncio.sleep(self._options.start_delay)
                await self._say_ready(body, Addresses(address, address))
                await asyncio.Event().wait()
        finally:
            self._addresses[name_of_node].append(address)

    async def _say_ready(self, body: Body, addresses: Addresses) -> None:
        now = timestamp()
        states = [
            ContainerState(c["name"], c["image"], None, {"startedAt": now}, started=True, ready=True)
            for c in body["spec"]["containers"]
        ]
        metadata = body["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}/status"
        status = pod_status(body, [], states, addresses, now)
        while True:
            try:
                await self._api.merge(path, {"metadata": {"uid": metadata["uid"]}, "status": status})
            except ApiError as error:
                if error.status in {404, 409}:
                    return
                logger.warning("status of %s: %s", metadata["name"], error)
            except (OSError, TimeoutError) as error:
                logger.warning("status of %s: %r", metadata["name"], error)
            else:
                return
            await asyncio.sleep(RETRY)

    async def _remove(self, body: Body) -> None:
        metadata = body["metadata"]
        await asyncio.sleep(self._options.end_delay)
        while True:
            try:
                await self._api.delete_now(
                    f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}", metadata["uid"]
                )
            except (ApiError, OSError, TimeoutError) as error:
                logger.warning("removal of %s: %r", metadata["name"], error)
                await asyncio.sleep(RETRY)
            else:
                return

    def _end(self, uid: str) -> None:
        if task := self._pods.pop(uid, None):
            task.cancel()
        self._pods.pop(f"end of {uid}", None)
        self._going.discard(uid)


def _names(options: argparse.Namespace) -> list[str]:
    return [f"fake-{index}" for index in range(options.nodes)]


def _network(share: int, index: int) -> IPv4Network:
    """As cluster.addresses divides a cluster's share of 127.0.0.0/8."""
    return IPv4Network(f"127.{1 + share}.{1 + index}.0/24")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m fake_nodes", description=__doc__)
    parser.add_argument("--kubeconfig", type=Path, required=True)
    parser.add_argument("--share", type=int, required=True, help="the cluster's share of 127.0.0.0/8")
    parser.add_argument("--nodes", type=int, default=2)
    parser.add_argument("--gpus", type=int, default=8, help="of each node")
    parser.add_argument("--start-delay", type=float, default=0.0, help="seconds from bound to Ready")
    parser.add_argument("--end-delay", type=float, default=0.0, help="seconds from deleted to gone")
    parser.add_argument("--load", type=float, default=0.0, help="requests/s that each pod reports, about")
    parser.add_argument("--slots", type=int, default=64, help="requests that a pod could run together")
    parser.add_argument("--hang", default="-", help="pods whose name begins so never answer a scrape after SIGUSR1")
    return parser.parse_args()


async def main(options: argparse.Namespace) -> None:
    loop = asyncio.get_running_loop()
    async with Api(options.kubeconfig) as api:
        nodes = FakeNodes(api, options)
        work = asyncio.create_task(nodes.run())
        loop.add_signal_handler(signal.SIGUSR1, nodes.hang)
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, work.cancel)
        try:
            await work
        except asyncio.CancelledError:
            logger.info("told to end after %.0f s of processor time", time.process_time())


if __name__ == "__main__":
    logging.basicConfig(stream=sys.stdout, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    asyncio.run(main(parse()))
