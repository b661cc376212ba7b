"""An external metrics API with one number in it, as an adapter beside Prometheus would be: what an HPA reads.

The API server passes /apis/external.metrics.k8s.io on to it (an APIService); the HPA controller is the cluster's own.
"""

import asyncio
import ssl
import threading
from urllib.parse import urlsplit

from aiohttp import web
from cluster import LocalCluster
from cluster.node.clock import timestamp

GROUP, VERSION = "external.metrics.k8s.io", "v1beta1"
PATH = f"/apis/{GROUP}/{VERSION}"
NAME = "external-metrics"


class ExternalMetrics:
    """Use as `with`. Every metric of every namespace has the present `value`."""

    def __init__(self, cluster: LocalCluster, value: int = 0) -> None:
        self._cluster = cluster
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name=NAME, daemon=True)
        self.value = value

    def __enter__(self) -> "ExternalMetrics":
        self._thread.start()
        host, port = asyncio.run_coroutine_threadsafe(self._start(), self._loop).result(120)
        self._cluster.apply(service(host, port), api_service(port))
        self._cluster.wait("the metrics API is there", lambda: self._cluster.api.get(PATH))
        return self

    def __exit__(self, *_: object) -> None:
        self._cluster.kubectl("delete", f"apiservice/{VERSION}.{GROUP}", f"service/{NAME}")
        asyncio.run_coroutine_threadsafe(self._runner.cleanup(), self._loop).result(120)
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(120)
        self._loop.close()

    async def _start(self) -> tuple[str, int]:
        app = web.Application()
        app.router.add_get(PATH, self._resources)
        app.router.add_get(PATH + "/namespaces/{namespace}/{metric}", self._values)
        self._runner = web.AppRunner(app, access_log=None, shutdown_timeout=0.2)
        await self._runner.setup()
        keys = self._cluster.directory / "control-plane"
        tls = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
        tls.load_cert_chain(keys / "apiserver.crt", keys / "apiserver.key")
        host = urlsplit(self._cluster.api.server).hostname
        assert host
        await web.TCPSite(self._runner, host, 0, ssl_context=tls).start()
        return host, self._runner.addresses[0][1]

    async def _resources(self, _: web.Request) -> web.Response:
        """Also how the API server asks whether it is well."""
        body = {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": f"{GROUP}/{VERSION}", "resources": []}
        return web.json_response(body)

    async def _values(self, request: web.Request) -> web.Response:
        name = request.match_info["metric"]
        value = {"metricName": name, "metricLabels": {}, "timestamp": timestamp(), "value": str(self.value)}
        kind = {"kind": "ExternalMetricValueList", "apiVersion": f"{GROUP}/{VERSION}", "metadata": {}}
        return web.json_response({**kind, "items": [value]})


def service(host: str, port: int) -> dict[str, object]:
    """By name and not by endpoints: Kubernetes takes no loopback address for one."""
    spec = {"type": "ExternalName", "externalName": host, "ports": [{"port": port}]}
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": NAME, "namespace": "default"}, "spec": spec}


def api_service(port: int) -> dict[str, object]:
    return {
        "apiVersion": "apiregistration.k8s.io/v1",
        "kind": "APIService",
        "metadata": {"name": f"{VERSION}.{GROUP}"},
        "spec": {
            "group": GROUP,
            "version": VERSION,
            "groupPriorityMinimum": 100,
            "versionPriority": 100,
            "insecureSkipTLSVerify": True,
            "service": {"name": NAME, "namespace": "default", "port": port},
        },
    }
