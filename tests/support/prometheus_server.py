"""A real Prometheus with the scrape configuration of docs/operator-metrics.md, and answers to queries.

Debian's Prometheus is built without Kubernetes' service discovery. So the pods are written to a file, with the labels
that the discovery would give them; choosing and relabelling are left to Prometheus.
"""

import json
import re
import socket
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml
from cluster import debian
from cluster.processes import Program
from cluster.waiting import HANG

PAGE = Path(__file__).parents[2] / "docs" / "operator-metrics.md"
HOST = "127.0.0.2"  # connections of this machine come from 127.0.0.1: none of them takes the port meanwhile
Body = dict[str, Any]
OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Prometheus:
    def __init__(self, url: str, found: Path) -> None:
        """`found`: the file in which the pods are."""
        self._url = url
        self._found = found

    def find(self, pods: Iterable[Body]) -> None:
        """These are all pods that the discovery knows, from now on."""
        groups = [group for pod in pods for group in discovered(pod)]
        unfinished = self._found.with_suffix(".tmp")
        unfinished.write_text(json.dumps(groups))
        unfinished.rename(self._found)

    def query(self, expr: str) -> list[dict[str, Any]]:
        """The result of an instant query. Raises AssertionError with Prometheus' words when it is no PromQL."""
        found: list[dict[str, Any]] = self.ask("query", query=expr)["result"]
        return found

    def ask(self, what: str, **words: str) -> Any:
        """`data` of /api/v1/WHAT."""
        url = f"{self._url}/api/v1/{what}?{urllib.parse.urlencode(words)}"
        try:
            with OPENER.open(url, timeout=60) as answer:
                return json.load(answer)["data"]
        except urllib.error.HTTPError as error:
            raise AssertionError(f"{words}: {error.read().decode()}") from error

    def is_ready(self) -> bool:
        with OPENER.open(f"{self._url}/-/ready", timeout=5) as answer:
            return bool(answer.status == 200)

    def targets(self) -> dict[str, list[str]]:
        """Health of the targets, by job."""
        found: dict[str, list[str]] = {}
        for target in self.ask("targets", state="active")["activeTargets"]:
            found.setdefault(target["labels"]["job"], []).append(target["health"])
        return found


def documented() -> dict[str, Any]:
    """The scrape configuration that users copy."""
    (block,) = re.findall(r"```yaml\n(scrape_configs:.*?)```", PAGE.read_text(), re.DOTALL)
    configuration: dict[str, Any] = yaml.safe_load(block)
    return configuration


def discovered(pod: Body) -> Iterator[Body]:
    """As Kubernetes' discovery of role `pod` tells of a pod: a target for each port of each container."""
    metadata, address = pod["metadata"], pod.get("status", {}).get("podIP")
    labels = {
        f"__meta_kubernetes_pod_label_{re.sub('[^a-zA-Z0-9_]', '_', name)}": value
        for name, value in metadata.get("labels", {}).items()
    }
    for container in pod["spec"]["containers"] if address else ():
        for port in container.get("ports", ()):
            place = {
                "__meta_kubernetes_namespace": metadata["namespace"],
                "__meta_kubernetes_pod_name": metadata["name"],
                "__meta_kubernetes_pod_container_port_name": port.get("name", ""),
            }
            yield {"targets": [f"{address}:{port['containerPort']}"], "labels": {**labels, **place}}


@contextmanager
def prometheus(rules: Path, directory: Path) -> Iterator[Prometheus]:
    """It scrapes every second, so that a test need not wait for minutes of samples."""
    configuration, pods = documented(), directory / "pods.json"
    pods.write_text("[]")
    for job in configuration["scrape_configs"]:
        assert job.pop("kubernetes_sd_configs") == [{"role": "pod"}]
        job["file_sd_configs"] = [{"files": [str(pods)], "refresh_interval": "1s"}]
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(rules)]
    file = directory / "prometheus.yaml"
    file.write_text(yaml.safe_dump(configuration))
    address = f"{HOST}:{_free_port()}"
    command = [
        str(debian.ensure(print).prometheus), f"--config.file={file}", f"--storage.tsdb.path={directory / 'data'}",
        f"--web.listen-address={address}", "--log.level=warn",
    ]  # fmt: skip
    program = Program("prometheus", command, directory / "prometheus.log", grace=10)
    program.start()
    try:
        server = Prometheus(f"http://{address}", pods)
        program.wait_ready("answers", server.is_ready, HANG)
        yield server
    finally:
        program.stop()


def _free_port() -> int:
    with socket.socket() as held:
        held.bind((HOST, 0))
        return int(held.getsockname()[1])
