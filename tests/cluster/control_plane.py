"""etcd, kube-apiserver, kube-controller-manager and kube-scheduler, started in a directory and stopped again.

The one departure from a real cluster: the endpoint controllers are off, because Endpoints refuse loopback addresses.
The node agent that is the proxy routes Services from their selectors instead.
"""

from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar
from urllib.request import ProxyHandler, build_opener

from cluster import users
from cluster.addresses import Share
from cluster.api import Api
from cluster.binaries import Binaries
from cluster.pki import make_keys
from cluster.processes import Program, ProgramEnded, stop_all
from cluster.users import User
from cluster.waiting import HANG

T = TypeVar("T")
ATTEMPTS = 3  # at finding ports that are still free when the program binds them
PORT_TAKEN = "address already in use"
CONTROLLERS = "*,-endpoints-controller,-endpointslice-controller,-endpointslice-mirroring-controller"


class ControlPlane:
    """`start`, then `api`; `kubeconfig(user)` writes a file for one of the `users` it was made with."""

    def __init__(
        self,
        directory: Path,
        binaries: Binaries,
        share: Share,
        other_users: Sequence[User] = (),
        *,
        timeout: float = HANG,
        held: Sequence[int] = (),
    ) -> None:
        """`timeout`: seconds for each program to become ready. `held`: locks (file descriptors) that last as long."""
        self._directory = directory
        self._binaries = binaries
        self._share = share
        self._timeout = timeout
        self._held = tuple(held)
        self._admin = users.admin()
        self._controller_manager = User("system:kube-controller-manager")
        self._scheduler = User("system:kube-scheduler")
        self._users = (self._admin, self._controller_manager, self._scheduler, *other_users)
        self.programs: list[Program] = []

    def start(self) -> None:
        """Returns when Pods can be created and scheduled. Raises DeadlineMissed or ProgramEnded with log lines."""
        addresses = [self._share.control_plane, self._share.services[1]]
        now = datetime.now(UTC)  # noqa: TID251 - this is the edge
        self._keys = make_keys(self._directory, addresses, now)
        self._tokens = self._directory / "tokens.csv"
        users.write_token_file(self._tokens, self._users)
        try:
            etcd = self._with_free_ports(self._start_etcd)
            self.api = self._with_free_ports(lambda: self._start_apiserver(etcd))
            self.admin_kubeconfig = self.kubeconfig(self._admin)
            self._with_free_ports(self._start_controllers)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        stop_all(self.programs)
        self.programs.clear()

    def kubeconfig(self, user: User) -> Path:
        path = self._directory / f"{user.name.replace(':', '-')}.kubeconfig"
        users.write_kubeconfig(path, self.api.server, self._keys.ca, user)
        return path

    def _with_free_ports(self, start: Callable[[], T]) -> T:
        for _ in range(ATTEMPTS - 1):
            started = len(self.programs)
            try:
                return start()
            except ProgramEnded as ended:
                if PORT_TAKEN not in str(ended):
                    raise
                stop_all(self.programs[started:])
                del self.programs[started:]
        return start()

    def _start_etcd(self) -> str:
        client, peer = (f"http://{self._share.control_plane}:{port}" for port in self._share.free_ports(2))
        etcd = self._program("etcd", self._binaries.etcd, {
            "data-dir": self._directory / "etcd",
            "listen-client-urls": client, "advertise-client-urls": client,
            "listen-peer-urls": peer, "initial-advertise-peer-urls": peer, "initial-cluster": f"default={peer}",
            "unsafe-no-fsync": "true",  # a machine crash may lose everything, and that is fine here
            "log-level": "warn",
        })  # fmt: skip
        opener = build_opener(ProxyHandler({}))
        etcd.start()
        etcd.wait_ready("/health", lambda: b"true" in opener.open(f"{client}/health", timeout=5).read(), self._timeout)
        return client

    def _start_apiserver(self, etcd: str) -> Api:
        address, (port,) = self._share.control_plane, self._share.free_ports(1)
        apiserver = self._program("kube-apiserver", self._binaries.kube_apiserver, {
            "etcd-servers": etcd,
            "bind-address": address, "advertise-address": address, "secure-port": port,
            "tls-cert-file": self._keys.server_certificate, "tls-private-key-file": self._keys.server_key,
            "token-auth-file": self._tokens,
            "authorization-mode": "Node,RBAC",
            "enable-admission-plugins": "NodeRestriction",
            "service-account-issuer": "https://kubernetes.default.svc",
            "service-account-key-file": self._keys.token_public_key,
            "service-account-signing-key-file": self._keys.token_key,
            "service-cluster-ip-range": self._share.services,
            "endpoint-reconciler-type": "none",  # its own Endpoints would hold a loopback address, which is refused
            "kubelet-preferred-address-types": "InternalIP",
            "profiling": "false",
        })  # fmt: skip
        api = Api(f"https://{address}:{port}", self._keys.ca.read_text(), self._admin.token)
        apiserver.start()
        apiserver.wait_ready("/readyz", lambda: api.text("/readyz") == "ok", self._timeout)
        return api

    def _start_controllers(self) -> None:
        address, ports = self._share.control_plane, self._share.free_ports(2)
        manager = self._program("kube-controller-manager", self._binaries.kube_controller_manager, {
            "kubeconfig": self.kubeconfig(self._controller_manager),
            "bind-address": address, "secure-port": ports[0], "cert-dir": self._directory / "controller-manager",
            "controllers": CONTROLLERS,
            "flex-volume-plugin-dir": self._directory / "controller-manager",  # it would create one under /usr
            "leader-elect": "false",
            "horizontal-pod-autoscaler-sync-period": "2s",  # its default, 15 s, makes tests wait
            "use-service-account-credentials": "true",
            "kube-api-qps": 200, "kube-api-burst": 400,  # its default, 20 a second, makes the start 3 s longer
            "service-account-private-key-file": self._keys.token_key,
            "root-ca-file": self._keys.ca,
            "profiling": "false",
        })  # fmt: skip
        scheduler = self._program("kube-scheduler", self._binaries.kube_scheduler, {
            "kubeconfig": self.kubeconfig(self._scheduler),
            "bind-address": address, "secure-port": ports[1], "cert-dir": self._directory / "scheduler",
            "leader-elect": "false",
            "profiling": "false",
        })  # fmt: skip
        manager.start()
        scheduler.start()
        # Without its namespace's default ServiceAccount a Pod is refused.
        account = "/api/v1/namespaces/default/serviceaccounts/default"
        manager.wait_ready("the default ServiceAccount", lambda: self.api.get(account), self._timeout)
        certificate = self._directory / "scheduler" / "kube-scheduler.crt"  # it makes its own

        def scheduler_answers() -> bool:
            return Api(f"https://{address}:{ports[1]}", certificate.read_text(), "").text("/healthz") == "ok"

        scheduler.wait_ready("/healthz", scheduler_answers, self._timeout)

    def _program(self, name: str, binary: Path, flags: dict[str, object]) -> Program:
        log = self._directory / f"{name}.log"
        command: list[str | Path] = [binary, *(f"--{flag}={value}" for flag, value in flags.items())]
        program = Program(name, command, log, held=self._held)
        self.programs.append(program)
        return program
